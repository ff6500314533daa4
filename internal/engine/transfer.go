package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/image"
)

// batchBytes is how much of a source one worker reads at a time.
const batchBytes = 1 << 20

// Source is a device or image being read.
type Source interface {
	io.ReaderAt
	Size() int64
	// NextData returns the first run of data at or after off, io.EOF when only
	// zeros follow.
	NextData(off int64) (data, hole int64, err error)
}

// transfer moves what changed of a source into a session and builds the map of
// the whole. Workers read, hash and compress; one goroutine appends in the order
// of the device, so packs follow the volume and the tree is built in one pass.
type transfer struct {
	session *chunkstore.Session
	src     Source
	chunk   int64
	parent  *image.Image // what the changes are relative to, nil for nothing
	// extents to read, in whole chunks and sorted; everything if all is set.
	extents  []blkbak.Extent
	all      bool
	progress func(bytes int64) // called from one goroutine as bytes are done, never nil
}

// transferred is what a transfer did.
type transferred struct {
	root    chunkstore.ID
	read    int64
	changed int64
}

// batch is a run of whole chunks on its way through the workers.
type batch struct {
	blkbak.Extent
	hole   bool // known to be zeros: nothing to read
	buf    []byte
	room   []byte // for compressed chunks
	chunks []batchChunk
}

type batchChunk struct {
	index    int64
	len      int64
	same     bool // as in the parent
	prepared chunkstore.Prepared
}

func (t *transfer) run(ctx context.Context) (out transferred, err error) {
	var parent chunkstore.ID
	if t.parent != nil {
		parent = t.parent.Root()
	}
	builder, err := image.NewBuilder(ctx, t.session, t.session, t.src.Size(), t.chunk, parent)
	if err != nil {
		return out, err
	}
	err = ordered(ctx, workersFor(2*t.batchBytes()), t.plan, t.prepare, func(ctx context.Context, b *batch) error {
		defer t.progress(b.Len)
		return t.collect(ctx, builder, b, &out)
	})
	if err != nil {
		return out, err
	}
	out.root, _, err = builder.Finish()
	return out, err
}

func (t *transfer) batchBytes() int64 { return max(batchBytes, t.chunk) }

// plan cuts what is to be read into batches.
func (t *transfer) plan(emit func(func(*batch)) error) error {
	extent := func(e blkbak.Extent, hole bool) error {
		for e.Len > 0 {
			n := e.Len
			if !hole {
				n = min(n, t.batchBytes())
			}
			err := emit(func(b *batch) {
				b.Extent, b.hole = blkbak.Extent{Off: e.Off, Len: n}, hole
			})
			if err != nil {
				return err
			}
			e = blkbak.Extent{Off: e.Off + n, Len: e.Len - n}
		}
		return nil
	}
	if t.all {
		return t.planAll(extent)
	}
	for _, e := range t.extents {
		if err := extent(e, false); err != nil {
			return err
		}
	}
	return nil
}

// planAll emits the whole device, as runs of data and holes of whole chunks.
func (t *transfer) planAll(emit func(e blkbak.Extent, hole bool) error) error {
	size := t.src.Size()
	for off := int64(0); off < size; {
		data, end, err := t.src.NextData(off)
		if errors.Is(err, io.EOF) {
			data, end = size, size
		} else if err != nil {
			return fmt.Errorf("find data after byte %d: %w", off, err)
		}
		data = max(data/t.chunk*t.chunk, off) // never before what was emitted already
		end = min((end+t.chunk-1)/t.chunk*t.chunk, size)
		if data == size {
			return emit(blkbak.Extent{Off: off, Len: size - off}, true)
		}
		if err := emit(blkbak.Extent{Off: off, Len: data - off}, true); err != nil {
			return err
		}
		if err := emit(blkbak.Extent{Off: data, Len: end - data}, false); err != nil {
			return err
		}
		off = end
	}
	return nil
}

// prepare does the parallel part for one batch.
func (t *transfer) prepare(ctx context.Context, b *batch) error {
	b.chunks = b.chunks[:0]
	if b.hole {
		return nil
	}
	if int64(cap(b.buf)) < b.Len {
		b.buf = blockdev.AlignedBuffer(int(b.Len))
		b.room = make([]byte, 0, b.Len+b.Len/16)
	}
	buf := b.buf[:b.Len]
	if n, err := t.src.ReadAt(buf, b.Off); n < len(buf) {
		return fmt.Errorf("read %d bytes at %d: %w", len(buf)-n, b.Off+int64(n), err)
	}
	used := 0
	for off := int64(0); off < b.Len; off += t.chunk {
		plain := buf[off:min(off+t.chunk, b.Len)]
		c := batchChunk{index: (b.Off + off) / t.chunk, len: int64(len(plain))}
		var id chunkstore.ID
		if !isZero(plain) {
			id = chunkstore.Sum(plain)
		}
		was, err := t.parentChunk(ctx, c.index)
		if err != nil {
			return err
		}
		switch {
		case id == was:
			c.same = true
		case !id.IsZero():
			c.prepared = t.session.Prepare(chunkstore.KindData, id, plain, b.room[used:used])
			used = min(used+len(c.prepared.Buffer()), cap(b.room))
		}
		b.chunks = append(b.chunks, c)
	}
	return nil
}

// parentChunk is the name that the chunk has in the parent, zero beyond its end.
func (t *transfer) parentChunk(ctx context.Context, index int64) (chunkstore.ID, error) {
	// The parent's last chunk may be short where this device goes on: its name
	// is then that of other bytes, and the comparison fails as it should.
	if t.parent == nil || index*t.chunk >= t.parent.Size() {
		return chunkstore.ID{}, nil
	}
	return t.parent.ChunkAt(ctx, index)
}

// collect stores one batch and enters it into the map.
func (t *transfer) collect(ctx context.Context, builder *image.Builder, b *batch, out *transferred) error {
	if b.hole {
		return t.collectHole(ctx, builder, b.Extent, out)
	}
	out.read += b.Len
	for _, c := range b.chunks {
		if c.same {
			continue
		}
		if !c.prepared.ID.IsZero() {
			if err := t.session.Append(ctx, c.prepared); err != nil {
				return err
			}
		}
		if err := builder.Set(c.index, c.prepared.ID); err != nil {
			return err
		}
		out.changed += c.len
	}
	clear(b.chunks) // drops compressed bytes that did not fit the batch's room
	return nil
}

func (t *transfer) collectHole(ctx context.Context, builder *image.Builder, e blkbak.Extent, out *transferred) error {
	if t.parent == nil {
		return nil // zeros until something else is said
	}
	for run, err := range t.parent.Extents(ctx, e.Off, e.Len) {
		if err != nil {
			return err
		}
		if !run.Zero {
			out.changed += run.Len
		}
	}
	return builder.SetZero(e.Off/t.chunk, (e.Len+t.chunk-1)/t.chunk)
}

var zeros [64 << 10]byte

// isZero tells whether p is all zeros, at the speed of memory.
func isZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
