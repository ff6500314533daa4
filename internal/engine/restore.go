package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
)

// RestoreRequest is one restore of a whole point.
type RestoreRequest struct {
	Point  catalog.Point
	Target string    // path of a file or device; ignored where Stream is set
	Stream io.Writer // takes the image front to back instead
	Force  bool      // an existing target may be written over
	Verify bool      // read the target back afterwards
}

// Restored is what a restore did, in bytes.
type Restored struct {
	Point    blkbak.PointID `json:"point"`
	Target   string         `json:"target"`
	Size     int64          `json:"size"`
	Written  int64          `json:"bytes_written"`
	Zeroed   int64          `json:"bytes_zeroed"` // made holes where there was something else
	Same     int64          `json:"bytes_same"`   // were there already
	Verified bool           `json:"verified"`
}

// Restore puts a point onto a device, into a file or into a stream. Into what
// exists, only what differs is written.
func (e *Engine) Restore(ctx context.Context, req RestoreRequest) (Restored, error) {
	im, err := image.Open(ctx, e.Store, req.Point.Root, image.NewCache(image.CacheOptions{ChunkBytes: -1}))
	if err != nil {
		return Restored{}, err
	}
	r := restore{engine: e, image: im, out: Restored{Point: req.Point.ID, Target: req.Target, Size: im.Size()}}
	if req.Stream != nil {
		r.out.Target = "-"
		err := r.run(ctx, streamTarget{req.Stream})
		return r.out, err
	}
	target, err := e.openTarget(req, im.Size())
	if err != nil {
		return r.out, err
	}
	err = r.toDevice(ctx, target, req.Verify)
	if err = errors.Join(err, target.close(err == nil)); err != nil {
		return r.out, fmt.Errorf("restore to %s: %w", req.Target, err)
	}
	return r.out, nil
}

func (r *restore) toDevice(ctx context.Context, t *deviceTarget, verify bool) error {
	if err := r.run(ctx, t); err != nil {
		return err
	}
	if err := t.dev.Sync(); err != nil {
		return err
	}
	if !verify {
		return nil
	}
	if err := t.dev.DropCache(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	r.verifying = true
	t.fresh, t.verifying = false, true
	if err := r.run(ctx, t); err != nil {
		return err
	}
	r.out.Verified = true
	return nil
}

// sink takes pieces of an image, in order.
type sink interface {
	// differs returns which parts of p are not at off yet, comparing in units of
	// a sector; scratch has p's length. Safe for concurrent use.
	differs(p []byte, off int64, scratch []byte) ([]blkbak.Extent, error)
	write(p []byte, off int64) error
	// zero makes a hole, and returns how many bytes were something else.
	zero(ctx context.Context, e blkbak.Extent) (int64, error)
}

type streamTarget struct{ w io.Writer }

func (t streamTarget) differs(p []byte, off int64, _ []byte) ([]blkbak.Extent, error) {
	return []blkbak.Extent{{Off: off, Len: int64(len(p))}}, nil
}

func (t streamTarget) write(p []byte, _ int64) error {
	_, err := t.w.Write(p)
	return err
}

func (t streamTarget) zero(ctx context.Context, e blkbak.Extent) (int64, error) {
	for e.Len > 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := t.w.Write(zeros[:min(e.Len, int64(len(zeros)))])
		if err != nil {
			return 0, err
		}
		e.Len -= int64(n)
	}
	return 0, nil
}

// restore decodes an image on all cores and writes it in order.
type restore struct {
	engine    *Engine
	image     *image.Image
	verifying bool // compare only: any difference is an error
	out       Restored
}

// piece is a run of the image on its way to the sink.
type piece struct {
	image.Run
	buf, scratch []byte
	differs      []blkbak.Extent
}

func (r *restore) run(ctx context.Context, to sink) error {
	what := "restoring"
	if r.verifying {
		what = "verifying"
	}
	var done int64
	return ordered(ctx, workersFor(2*r.grain()),
		func(emit func(func(*piece)) error) error { return r.plan(ctx, emit) },
		func(ctx context.Context, p *piece) error { return r.load(ctx, p, to) },
		func(ctx context.Context, p *piece) error {
			done += p.Len
			r.engine.Progress(what, done, r.image.Size())
			return r.put(ctx, p, to)
		})
}

func (r *restore) grain() int64 { return max(batchBytes, r.image.ChunkSize()) }

// plan cuts the image into pieces of data, and holes of any length.
func (r *restore) plan(ctx context.Context, emit func(func(*piece)) error) error {
	for run, err := range r.image.Extents(ctx, 0, r.image.Size()) {
		if err != nil {
			return err
		}
		for run.Len > 0 {
			part := run
			if !run.Zero {
				part.Len = min(run.Len, r.grain())
			}
			if err := emit(func(p *piece) { p.Run = part }); err != nil {
				return err
			}
			run.Off, run.Len = run.Off+part.Len, run.Len-part.Len
		}
	}
	return nil
}

// load does the parallel part: decode, and compare with what is there.
func (r *restore) load(ctx context.Context, p *piece, to sink) error {
	if p.Zero {
		return nil
	}
	if int64(cap(p.buf)) < p.Len {
		p.buf = blockdev.AlignedBuffer(int(p.Len))
		p.scratch = blockdev.AlignedBuffer(int(p.Len))
	}
	p.buf = p.buf[:p.Len]
	if _, err := r.image.ReadContext(ctx, p.buf, p.Off); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var err error
	p.differs, err = to.differs(p.buf, p.Off, p.scratch)
	return err
}

func (r *restore) put(ctx context.Context, p *piece, to sink) error {
	if p.Zero {
		n, err := to.zero(ctx, p.Extent)
		if r.verifying && n > 0 {
			return errors.Join(err, fmt.Errorf("the target has %d bytes in %v that are not zeros: %w", n, p.Extent, blkbak.ErrCorrupt))
		}
		r.out.Zeroed += n
		return err
	}
	if r.verifying && len(p.differs) > 0 {
		return fmt.Errorf("the target does not hold what was written at %v: %w", p.differs[0], blkbak.ErrCorrupt)
	}
	if r.verifying {
		return nil
	}
	for _, d := range p.differs {
		if err := to.write(p.buf[d.Off-p.Off:d.End()-p.Off], d.Off); err != nil {
			return fmt.Errorf("write %d bytes at %d: %w", d.Len, d.Off, err)
		}
		r.out.Written += d.Len
	}
	r.out.Same += p.Len - blkbak.ExtentBytes(p.differs)
	return nil
}
