package engine

import (
	"bytes"
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
)

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
	if e.RepoDir != "" && inside(path, e.RepoDir) {
		return nil, fmt.Errorf("target %s lies in the repository: %w", path, blkbak.ErrUsage)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return newTargetFile(path, size)
	}
	uses, err := blockdev.InUse(path)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	if len(uses) > 0 {
		return nil, blkbak.WithHint(fmt.Errorf("target %s is in use: %v: %w", path, uses[0], blkbak.ErrBusy), "unmount or detach it first")
	}
	dev, err := blockdev.Open(path, blockdev.Options{Write: true, Exclusive: true})
	if err != nil {
		return nil, err
	}
	if err := fits(dev, size, req.Force); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return &deviceTarget{dev: dev, path: path}, nil
}

// fits makes an existing target ready for an image of size bytes, or refuses it.
func fits(dev *blockdev.Device, size int64, force bool) error {
	if dev.IsBlock() && dev.Size() < size {
		return fmt.Errorf("target %s has %d bytes, the point %d: %w", dev.Path(), dev.Size(), size, blkbak.ErrNoSpace)
	}
	if !force {
		what := fmt.Sprintf("a file of %d bytes", dev.Size())
		if dev.IsBlock() {
			what = fmt.Sprintf("a device of %d bytes", dev.Size())
		}
		if c, err := blockdev.Probe(dev); err == nil && c.Type != "" {
			what += fmt.Sprintf(" with %s %s", c.Type, strings.TrimSpace(c.UUID+" "+c.Label))
		}
		return blkbak.WithHint(fmt.Errorf("target %s: %w: %s", dev.Path(), blkbak.ErrExists, what), "write over it with --force")
	}
	if dev.IsBlock() || dev.Size() == size {
		return nil
	}
	return dev.Truncate(size)
}

// newTargetFile makes a file that takes its name once it is complete. Until then
// it is locked, so that what a killed restore leaves can be told from it.
func newTargetFile(path string, size int64) (*deviceTarget, error) {
	prefix := "." + filepath.Base(path) + ".partial-"
	if err := sweepPartials(filepath.Dir(path), prefix); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), prefix)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	dev, err := blockdev.Open(f.Name(), blockdev.Options{Write: true, Exclusive: true})
	if err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	t := &deviceTarget{dev: dev, fresh: true, temp: f.Name(), path: path}
	if err := dev.Truncate(size); err != nil {
		return nil, errors.Join(err, t.close(false))
	}
	return t, nil
}

// sweepPartials removes what killed restores to the same name left in dir.
func sweepPartials(dir, prefix string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !n.Type().IsRegular() || !strings.HasPrefix(n.Name(), prefix) {
			continue
		}
		path := filepath.Join(dir, n.Name())
		left, err := blockdev.Open(path, blockdev.Options{Exclusive: true})
		if err != nil {
			continue // another restore is at work on it, or it is gone by now
		}
		if err := errors.Join(os.Remove(path), left.Close()); err != nil {
			return err
		}
	}
	return nil
}

// inside tells whether path is, or would be, below dir, whatever symbolic links
// lead there.
func inside(path, dir string) bool {
	rel, err := filepath.Rel(resolve(dir), resolve(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// resolve follows symbolic links as far as there are files.
func resolve(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if parent := filepath.Dir(path); parent != path {
		return filepath.Join(resolve(parent), filepath.Base(path))
	}
	return path
}

// close gives a new file its name if it is complete, and removes it otherwise.
// Its mode stays 0600: what is on a disk is not for everybody.
func (t *deviceTarget) close(complete bool) error {
	if t.temp == "" {
		return t.dev.Close()
	}
	var err error
	if complete {
		err = os.Link(t.temp, t.path)
		if _, there := os.Lstat(t.path); err != nil && errors.Is(there, fs.ErrNotExist) {
			// A filesystem without links: another that takes the name in this
			// very moment would be replaced.
			err = os.Rename(t.temp, t.path)
		}
	}
	if rerr := os.Remove(t.temp); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return errors.Join(err, t.dev.Close(), atomicfile.SyncDir(filepath.Dir(t.path)))
}

// compareGrain is the unit in which an existing target is compared: a page, so
// that a restore rewrites about what a guest wrote.
const compareGrain = 4096

func (t *deviceTarget) differs(p []byte, off int64, scratch []byte) ([]blkbak.Extent, error) {
	if !t.fresh {
		if n, err := t.dev.ReadAt(scratch[:len(p)], off); n < len(p) {
			return nil, fmt.Errorf("read %d bytes at %d: %w", len(p)-n, off+int64(n), err)
		}
	}
	var out []blkbak.Extent
	for i := 0; i < len(p); i += compareGrain {
		end := min(i+compareGrain, len(p))
		there := zeros[:end-i] // in a new file
		if !t.fresh {
			there = scratch[i:end]
		}
		if !bytes.Equal(p[i:end], there) {
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
