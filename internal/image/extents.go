package image

import (
	"context"
	"fmt"
	"iter"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// Run is a part of a device that is all data, or all zeros as far as the map
// knows: a chunk with a byte that is not zero is data.
type Run struct {
	blkbak.Extent
	Zero bool
}

// Chunk is a chunk of a device. With the zero ID it is a hole of any number of
// chunks.
type Chunk struct {
	blkbak.Extent
	ID chunkstore.ID
}

// Extents covers length bytes from off, cut at the end of the device, with
// ascending runs of data and zeros in turn. It reads nodes and no chunks. An
// error is the last thing that it yields.
func (im *Image) Extents(ctx context.Context, off, length int64) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		end := off + min(length, im.geo.size-off)
		var run Run
		for c, err := range im.Chunks(ctx, off, length) {
			if err != nil {
				if run.Len == 0 || yield(run, nil) {
					yield(Run{}, err)
				}
				return
			}
			from := max(off, c.Off)
			piece := Run{blkbak.Extent{Off: from, Len: min(end, c.End()) - from}, c.ID.IsZero()}
			switch {
			case run.Len > 0 && run.Zero == piece.Zero:
				run.Len += piece.Len
			case run.Len > 0 && !yield(run, nil):
				return
			default:
				run = piece
			}
		}
		if run.Len > 0 {
			yield(run, nil)
		}
	}
}

// Chunks lists the chunks that hold length bytes from off, cut at the end of
// the device, in ascending order and without gaps. Chunks come whole even at
// the ends of the range; neighbouring zeros come as one hole. It reads nodes
// and no chunks. An error is the last thing that it yields.
func (im *Image) Chunks(ctx context.Context, off, length int64) iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		if off < 0 || length < 0 {
			yield(Chunk{}, fmt.Errorf("device bytes %d+%d: %w", off, length, blkbak.ErrUsage))
			return
		}
		if off >= im.geo.size || length == 0 {
			return
		}
		l := lister{im: im, ctx: ctx, yield: yield}
		l.first = off >> im.geo.chunkLog2
		l.last = (off + min(length, im.geo.size-off) - 1) >> im.geo.chunkLog2
		ok, err := l.node(im.geo.top(), 0, im.top)
		if ok && l.flush() && err != nil {
			yield(Chunk{}, err)
		}
	}
}

// lister walks the chunks first to last.
type lister struct {
	im          *Image
	ctx         context.Context
	yield       func(Chunk, error) bool
	first, last int64
	hole        Chunk // not yielded yet, and may grow
}

// node lists what is below node i of level. It returns false once the consumer
// has had enough, and true with an error.
func (l *lister) node(level uint8, i int64, raw []byte) (bool, error) {
	if err := l.ctx.Err(); err != nil {
		return true, err
	}
	shift := fanoutLog2 * level
	first := max(l.first>>shift, i<<fanoutLog2)
	last := min(l.last>>shift, i<<fanoutLog2+fanout-1)
	for child := first; child <= last; child++ {
		id := nameAt(raw, int(child)&(fanout-1))
		var ok bool
		var err error
		switch {
		case id.IsZero():
			ok = true
			l.addHole(max(l.first, child<<shift), min(l.last, (child+1)<<shift-1))
		case level == 0:
			ok = l.flush() && l.yield(Chunk{l.im.geo.chunk(child), id}, nil)
		default:
			e, want := l.im.geo.node(level-1, child)
			var below []byte
			if below, err = l.im.node(l.ctx, id, e, want); err != nil {
				return true, err
			}
			ok, err = l.node(level-1, child, below)
		}
		if !ok || err != nil {
			return ok, err
		}
	}
	return true, nil
}

// addHole adds the chunks first to last to the pending hole, which they touch.
func (l *lister) addHole(first, last int64) {
	if l.hole.Len == 0 {
		l.hole.Off = first << l.im.geo.chunkLog2
	}
	l.hole.Len = l.im.geo.chunk(last).End() - l.hole.Off
}

// flush yields the pending hole.
func (l *lister) flush() bool {
	hole := l.hole
	l.hole = Chunk{}
	return hole.Len == 0 || l.yield(hole, nil)
}
