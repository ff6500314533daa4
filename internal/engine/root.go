package engine

import (
	"context"
	"fmt"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/image"
)

// Root reads all of src and returns the root that a point of it has, however the
// point came to be: equal bytes have equal roots. Nothing is stored, and nothing
// that a snapshot run decides has a part in it, so it is what any point can be
// held against.
func Root(ctx context.Context, src Source, chunkSize int64, progress func(bytes int64)) (chunkstore.ID, error) {
	builder, err := image.NewBuilder(ctx, nowhere{}, nowhere{}, src.Size(), chunkSize, chunkstore.ID{})
	if err != nil {
		return chunkstore.ID{}, err
	}
	type piece struct {
		blkbak.Extent
		buf   []byte
		names []chunkstore.ID
	}
	step := max(batchBytes, chunkSize)
	produce := func(emit func(func(*piece)) error) error {
		for off := int64(0); off < src.Size(); off += step {
			e := blkbak.Extent{Off: off, Len: min(step, src.Size()-off)}
			if err := emit(func(p *piece) { p.Extent = e }); err != nil {
				return err
			}
		}
		return nil
	}
	work := func(_ context.Context, p *piece) error {
		if p.buf == nil {
			p.buf = make([]byte, min(step, src.Size()))
		}
		buf := p.buf[:p.Len]
		if n, err := src.ReadAt(buf, p.Off); n < len(buf) {
			return fmt.Errorf("read %d bytes at %d: %w", len(buf)-n, p.Off+int64(n), err)
		}
		p.names = p.names[:0]
		for len(buf) > 0 {
			plain := buf[:min(chunkSize, int64(len(buf)))]
			buf = buf[len(plain):]
			var id chunkstore.ID
			if !isZero(plain) {
				id = chunkstore.Sum(plain)
			}
			p.names = append(p.names, id)
		}
		return nil
	}
	collect := func(_ context.Context, p *piece) error {
		for i, id := range p.names {
			if err := builder.Set(p.Off/chunkSize+int64(i), id); err != nil {
				return err
			}
		}
		if progress != nil {
			progress(p.Len)
		}
		return nil
	}
	if err := ordered(ctx, workersFor(step), produce, work, collect); err != nil {
		return chunkstore.ID{}, err
	}
	root, _, err := builder.Finish()
	return root, err
}

// nowhere takes nodes and keeps none.
type nowhere struct{}

func (nowhere) Put(_ context.Context, _ chunkstore.Kind, plain []byte) (chunkstore.ID, error) {
	return chunkstore.Sum(plain), nil
}

func (nowhere) Get(_ context.Context, id chunkstore.ID, _ []byte) ([]byte, error) {
	return nil, fmt.Errorf("object %v: %w", id, blkbak.ErrNotFound)
}
