package cow

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/blkbak/blkbak"
)

// Chunk numbers a chunk of the store's chunk size, on the origin or on the store's
// own device.
type Chunk int64

// Each calls fn with every exception in the table's order, reading the table
// again: chunk oldChunk of the origin, as the snapshot shows it, is at chunk
// newChunk of the store's device. It takes no more entries than Read found and
// stops at fn's first error. A table that no longer holds what Read found is
// refused as corrupt.
func (s *Store) Each(ctx context.Context, fn func(oldChunk, newChunk Chunk) error) error {
	l := s.layout
	f := fetcher{r: s.r, piece: l.piece, workers: s.workers}
	pieces := (s.Exceptions*entrySize + l.piece - 1) / l.piece
	left := s.Exceptions
	at := func(i int64) int64 { return l.metaOffset(i * l.piece) }
	all := func(int64) int64 { return pieces }
	return f.fetch(ctx, at, all, func(i, _ int64, buf []byte) (bool, error) {
		for b := buf; len(b) > 0 && left > 0; b = b[entrySize:] {
			oldChunk, newChunk := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
			if !s.olds.has(oldChunk) || newChunk >= l.chunks || l.isMetadata(newChunk) {
				return false, blkbak.Corruptf(formatName, at(i)+int64(len(buf)-len(b)), "the entry is not what it was before")
			}
			if err := fn(Chunk(oldChunk), Chunk(newChunk)); err != nil {
				return false, err
			}
			left--
		}
		return left > 0, nil
	})
}

// Overlay returns the snapshot's content: the origin, with the store's chunks laid
// over it. The origin must be at rest, or else what it changes shows. The size
// of the origin must be known. Memory is 24 bytes for each run of exceptions.
//
// Reads reach the origin and the store as they come, so that neither must insist
// on alignment unless the caller keeps to it.
func (s *Store) Overlay(ctx context.Context, origin io.ReaderAt) (*io.SectionReader, error) {
	if s.originSize <= 0 {
		return nil, fmt.Errorf("%w: overlay an origin of unknown size", blkbak.ErrUsage)
	}
	var runs []run
	err := s.Each(ctx, func(oldChunk, newChunk Chunk) error {
		o, n := int64(oldChunk)*s.layout.chunk, int64(newChunk)*s.layout.chunk
		if k := len(runs) - 1; k >= 0 && runs[k].end() == o && runs[k].cow+runs[k].len == n {
			runs[k].len += s.layout.chunk
		} else {
			runs = append(runs, run{o, n, s.layout.chunk})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.origin, b.origin) })
	return io.NewSectionReader(&overlay{origin, s.r, runs}, 0, s.originSize), nil
}

// run is a run of exceptions in bytes: len bytes of the origin from offset origin
// are at offset cow of the store.
type run struct{ origin, cow, len int64 }

func (r run) end() int64 { return r.origin + r.len }

type overlay struct {
	origin, cow io.ReaderAt
	runs        []run // sorted, disjoint
}

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	i, _ := slices.BinarySearchFunc(o.runs, off, func(r run, off int64) int {
		if r.end() <= off {
			return -1
		}
		return 1
	})
	done := 0
	for done < len(p) {
		pos, n := off+int64(done), int64(len(p)-done)
		from, at := o.origin, pos
		switch {
		case i == len(o.runs):
		case pos < o.runs[i].origin:
			n = min(n, o.runs[i].origin-pos)
		default:
			r := o.runs[i]
			n = min(n, r.end()-pos)
			from, at = o.cow, r.cow+pos-r.origin
			i++
		}
		m, err := from.ReadAt(p[done:done+int(n)], at)
		done += m
		if int64(m) < n {
			if err == nil {
				err = io.ErrNoProgress
			}
			return done, err
		}
	}
	return done, nil
}
