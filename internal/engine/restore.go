package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/atomicfile"
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

// deviceTarget is a file or device being restored to.
type deviceTarget struct {
	dev   *blockdev.Device
	fresh bool // a new file: all zeros
	// verifying: what differs is counted and left as it is.
	verifying bool
	temp      string // its name until it is complete
	path      string
}

// openTarget opens what is to be written, and refuses what must not be.
func (e *Engine) openTarget(req RestoreRequest, size int64) (*deviceTarget, error) {
	path := req.Target
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newTargetFile(path, size)
	}
	if err != nil {
		return nil, err
	}
	if e.RepoDir != "" && inside(path, e.RepoDir) {
		return nil, fmt.Errorf("target %s lies in the repository: %w", path, blkbak.ErrUsage)
	}
	dev, err := blockdev.Open(path, blockdev.Options{Write: true})
	if err != nil {
		return nil, err
	}
	refuse := func(err error) (*deviceTarget, error) { return nil, errors.Join(err, dev.Close()) }
	if dev.IsBlock() {
		uses, err := blockdev.InUse(path)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return refuse(err)
		}
		if len(uses) > 0 {
			return refuse(blkbak.WithHint(fmt.Errorf("target %s is in use: %v: %w", path, uses[0], blkbak.ErrBusy), "unmount or detach it first"))
		}
		if dev.Size() < size {
			return refuse(fmt.Errorf("target %s has %d bytes, the point %d: %w", path, dev.Size(), size, blkbak.ErrNoSpace))
		}
	}
	if !req.Force {
		what := fmt.Sprintf("a file of %d bytes", dev.Size())
		if dev.IsBlock() {
			what = fmt.Sprintf("a device of %d bytes", dev.Size())
		}
		if c, err := blockdev.Probe(dev); err == nil && c.Type != "" {
			what += fmt.Sprintf(" with %s %s", c.Type, strings.TrimSpace(c.UUID+" "+c.Label))
		}
		return refuse(blkbak.WithHint(fmt.Errorf("target %s: %w: %s", path, blkbak.ErrExists, what), "write over it with --force"))
	}
	if !dev.IsBlock() && dev.Size() != size {
		if err := dev.Truncate(size); err != nil {
			return refuse(err)
		}
	}
	return &deviceTarget{dev: dev, path: path}, nil
}

// newTargetFile makes a file that takes its name once it is complete.
func newTargetFile(path string, size int64) (*deviceTarget, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".partial-")
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	dev, err := blockdev.Open(f.Name(), blockdev.Options{Write: true})
	if err == nil {
		err = dev.Truncate(size)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return &deviceTarget{dev: dev, fresh: true, temp: f.Name(), path: path}, nil
}

func inside(path, dir string) bool {
	abs, err1 := filepath.Abs(path)
	root, err2 := filepath.Abs(dir)
	if err1 != nil || err2 != nil {
		return false
	}
	rel, err := filepath.Rel(root, abs)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// close gives a new file its name if it is complete, and removes it otherwise.
func (t *deviceTarget) close(complete bool) error {
	err := t.dev.Close()
	if t.temp == "" {
		return err
	}
	if err != nil || !complete {
		return errors.Join(err, os.Remove(t.temp))
	}
	// Like any file that a user makes: readable as the umask allows.
	if err := os.Link(t.temp, t.path); err != nil {
		return errors.Join(err, os.Remove(t.temp))
	}
	return errors.Join(os.Remove(t.temp), atomicfile.SyncDir(filepath.Dir(t.path)))
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

// compareGrain is the unit in which an existing target is compared: a page, so
// that a restore rewrites about what a guest wrote.
const compareGrain = 4096

func (t *deviceTarget) differs(p []byte, off int64, scratch []byte) ([]blkbak.Extent, error) {
	whole := []blkbak.Extent{{Off: off, Len: int64(len(p))}}
	if t.fresh {
		return whole, nil
	}
	if n, err := t.dev.ReadAt(scratch[:len(p)], off); n < len(p) {
		return nil, fmt.Errorf("read %d bytes at %d: %w", len(p)-n, off+int64(n), err)
	}
	var out []blkbak.Extent
	for i := 0; i < len(p); i += compareGrain {
		end := min(i+compareGrain, len(p))
		if string(p[i:end]) != string(scratch[i:end]) {
			out = blkbak.AppendExtent(out, blkbak.Extent{Off: off + int64(i), Len: int64(end - i)})
		}
	}
	return out, nil
}

func (t *deviceTarget) write(p []byte, off int64) error {
	_, err := t.dev.WriteAt(p, off)
	return err
}

func (t *deviceTarget) zero(ctx context.Context, e blkbak.Extent) (int64, error) {
	if t.fresh {
		return 0, nil
	}
	var dirty int64
	buf := make([]byte, batchBytes)
	for off := e.Off; off < e.End(); {
		data, end, err := t.dev.NextData(off)
		if errors.Is(err, io.EOF) || err == nil && data >= e.End() {
			break
		}
		if err != nil {
			return dirty, err
		}
		off = max(off, data)
		n := min(end, e.End(), off+int64(len(buf))) - off
		if err := ctx.Err(); err != nil {
			return dirty, err
		}
		if m, err := t.dev.ReadAt(buf[:n], off); int64(m) < n {
			return dirty, fmt.Errorf("read %d bytes at %d: %w", n-int64(m), off+int64(m), err)
		}
		if !isZero(buf[:n]) {
			dirty += n
			if !t.verifying {
				if err := t.dev.WriteZeros(off, n); err != nil {
					return dirty, err
				}
			}
		}
		off += n
	}
	return dirty, nil
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
