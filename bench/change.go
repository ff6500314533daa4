package bench

import (
	"cmp"
	"context"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
)

// Block is the unit of changes: what filesystems write at least.
const Block = 4096

// Change is a run of blocks that a day gives other content.
type Change struct {
	blkbak.Extent
	kind kind
	page bool // changed in part, as pages of databases and filesystems are
}

// File is an image that can be changed.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// Day chooses changes of so many blocks in data, which is where an image holds
// something, sorted. Changes come sorted and do not touch each other.
//
// Of ten runs six are single pages, three are what a log has grown by, 16 to
// 48 KiB, and one is a file replaced, 64 to 256 KiB. Runs come in swarms: eleven of
// twelve lie near the one before, most of them in pieces of 64 KiB of their own.
func Day(data []blkbak.Extent, want int64, seed uint64) []Change {
	r := rand.New(rand.NewPCG(seed, 3))
	total := blkbak.ExtentBytes(data) / Block
	taken := make(map[int64]bool)
	var changes []Change
	at := int64(0)
	for tries := int64(0); int64(len(taken)) < want && tries < 100*want; tries++ {
		c, blocks := Change{kind: database, page: true}, int64(1)
		switch n := r.IntN(10); {
		case n == 0:
			c.kind, c.page, blocks = kind(r.IntN(4)), false, 16+r.Int64N(48)
		case n <= 3:
			c.kind, c.page, blocks = text, false, 4+r.Int64N(8)
		}
		blocks = min(blocks, want-int64(len(taken)))
		if at += r.Int64N(48); r.IntN(12) == 0 || at >= total {
			at = r.Int64N(total)
		}
		e, ok := locate(data, at, blocks)
		if !ok || isTaken(taken, e) {
			continue
		}
		for b := e.Off; b < e.End(); b += Block {
			taken[b] = true
		}
		c.Extent = e
		changes = append(changes, c)
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Off, b.Off) })
	return changes
}

// locate returns the blocks that begin with the at-th block of data, if there are
// as many without a gap.
func locate(data []blkbak.Extent, at, blocks int64) (blkbak.Extent, bool) {
	for _, d := range data {
		if n := d.Len / Block; at >= n {
			at -= n
			continue
		}
		e := blkbak.Extent{Off: d.Off + at*Block, Len: blocks * Block}
		return e, e.End() <= d.End()
	}
	return blkbak.Extent{}, false
}

// isTaken tells whether e or a block beside it is.
func isTaken(taken map[int64]bool, e blkbak.Extent) bool {
	for b := e.Off - Block; b <= e.End(); b += Block {
		if taken[b] {
			return true
		}
	}
	return false
}

// Extents are those of changes.
func Extents(changes []Change) []blkbak.Extent {
	s := make([]blkbak.Extent, len(changes))
	for i, c := range changes {
		s[i] = c.Extent
	}
	return s
}

// Apply changes an image. Every block that is named differs afterwards.
func Apply(image File, changes []Change, seed uint64) error {
	c := newContent(seed)
	var old, buf []byte
	for _, ch := range changes {
		buf = slices.Grow(buf[:0], int(ch.Len))[:ch.Len]
		old = slices.Grow(old[:0], int(ch.Len))[:ch.Len]
		if _, err := image.ReadAt(old, ch.Off); err != nil {
			return err
		}
		if ch.page { // the header, and one row somewhere
			copy(buf, old)
			c.random(buf[:16])
			row := 16 + c.IntN(Block-128)
			c.text(buf[row : row+112])
		} else {
			c.fill(ch.kind, buf)
		}
		for b := 0; b < len(buf); b += Block {
			if string(buf[b:b+Block]) == string(old[b:b+Block]) {
				buf[b]++
			}
		}
		if _, err := image.WriteAt(buf, ch.Off); err != nil {
			return err
		}
	}
	return nil
}

// WriteCOW makes the exception store of a snapshot of the image, taken before the
// changes are applied: it lists them, and holds what the image has there now.
func WriteCOW(ctx context.Context, dst io.WriterAt, image io.ReaderAt, size int64, changes []Change) error {
	_, err := cow.Write(ctx, dst, image, Extents(changes), cow.WriteOptions{OriginSize: size})
	return err
}

// Scattered is k single blocks on a device of size bytes, one in each of k equal
// parts of it, no two of them in the same 64 KiB.
func Scattered(size int64, k int, seed uint64) []Change {
	r := rand.New(rand.NewPCG(seed, 4))
	part := size / Block / int64(k)
	changes := make([]Change, k)
	for i := range changes {
		at := int64(i)*part + r.Int64N(part-16)
		changes[i] = Change{Extent: blkbak.Extent{Off: at * Block, Len: Block}, kind: text}
	}
	return changes
}
