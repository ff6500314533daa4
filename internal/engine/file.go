package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/catalog"
)

// snapshotFile makes a point of an image file, or of a block device that is not
// an LVM volume.
func (e *Engine) snapshotFile(ctx context.Context, req Request, start time.Time) (catalog.Point, Plan, error) {
	fail := func(err error) (catalog.Point, Plan, error) { return catalog.Point{}, Plan{}, err }
	src, err := openSource(req.Source)
	if err != nil {
		return fail(err)
	}
	defer src.Close()
	path, err := filepath.Abs(req.Source)
	if err != nil {
		return fail(err)
	}
	r := read{src: src, start: start, tags: req.Tags,
		id: blkbak.SourceID{Kind: "file", Host: e.Host, Path: path}}
	if src.IsBlock() {
		r.id.Kind = "device"
	}
	volume := req.Volume
	if volume == "" {
		volume = e.Host + "/" + strings.TrimPrefix(path, "/")
	}
	lock, err := e.lockVolume(volume)
	if err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	if r.history, err = e.history(ctx, volume); err != nil {
		return fail(err)
	}
	plan := Plan{Volume: volume, Source: path, Size: src.Size()}
	if err := e.chooseFileMode(ctx, req, &r, &plan); err != nil {
		return fail(err)
	}
	mount, err := e.toFreeze(req, src)
	if err != nil {
		return fail(err)
	}
	if mount != "" {
		plan.Actions = append(plan.Actions, "hold off the writers of "+mount+" while everything is read")
	}
	if req.DryRun {
		return catalog.Point{}, plan, nil
	}
	p, err := e.readFile(ctx, req, src, mount, r)
	return p, plan, err
}

// openSource opens what is to be read: a device past the page cache, which would
// only push out what others need; a file through it.
func openSource(path string) (*blockdev.Device, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, blkbak.WithHint(fmt.Errorf("source %s: %w", path, blkbak.ErrNotFound),
			"name a logical volume as VG/LV, or the path of a device or image file")
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular() && st.Mode()&fs.ModeDevice == 0:
		return nil, fmt.Errorf("source %s: %w: it is neither a file nor a block device", path, blkbak.ErrUsage)
	}
	return blockdev.Open(path, blockdev.Options{Direct: !st.Mode().IsRegular()})
}

// chooseFileMode decides how to find out what changed.
func (e *Engine) chooseFileMode(ctx context.Context, req Request, r *read, plan *Plan) error {
	size := r.src.Size()
	plan.ToRead = size
	if r.any {
		plan.Parent = r.latest.ID
	}
	switch {
	case req.COW != "" && req.Full:
		return fmt.Errorf("--full reads everything, --cow only what an exception store lists: %w", blkbak.ErrUsage)
	case req.COW != "":
		if !r.any {
			return needsFull("volume %s has no restore point that the exception store could be relative to", r.volume)
		}
		if r.latest.Size != size {
			return needsFull("%s has %d bytes, the latest point of %s %d: the exception store does not say what changed",
				req.Source, size, r.volume, r.latest.Size)
		}
		extents, err := readExceptions(ctx, req.COW, size, r.latest.ChunkSize)
		if err != nil {
			return err
		}
		r.mode, r.parent, r.extents = blkbak.ModeCOW, &r.latest, extents
		plan.Reason = "the exception store says what changed"
		plan.ToRead = blkbak.ExtentBytes(extents)
	case req.Full:
		r.mode, plan.Reason = blkbak.ModeFull, "a full read was asked for"
	case !r.any:
		r.mode, plan.Reason = blkbak.ModeFull, "the volume has no restore point yet"
	default:
		r.mode, r.parent = blkbak.ModeScan, &r.latest
		plan.Reason = "nothing says what changed on " + req.Source
	}
	plan.Mode = r.mode
	return nil
}

func needsFull(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if !errors.Is(err, blkbak.ErrNeedsFull) {
		err = fmt.Errorf("%w: %w", err, blkbak.ErrNeedsFull)
	}
	return blkbak.WithHint(err, "make a point by reading everything: blkbak snapshot without --cow")
}

// readExceptions reads what an exception store in a device or file lists, in
// whole chunks of an image.
func readExceptions(ctx context.Context, path string, origin, chunk int64) ([]blkbak.Extent, error) {
	dev, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	s, err := cow.Read(ctx, dev, dev.Size(), cow.Options{OriginSize: origin})
	if errors.Is(err, blkbak.ErrNeedsFull) {
		return nil, needsFull("exception store %s: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("exception store %s: %w", path, err)
	}
	return wholeChunks(s.All(), chunk, origin), nil
}

// toFreeze is where a device is mounted whose writers have to be held off while it
// is read, or "". Without the wish for that, such a device is refused.
func (e *Engine) toFreeze(req Request, src *blockdev.Device) (string, error) {
	if !src.IsBlock() {
		return "", nil
	}
	mount, err := writableMount(req.Source)
	if errors.Is(err, errors.ErrUnsupported) {
		return "", nil
	}
	if mount != "" && (!req.Freeze || e.Freezer == nil) {
		err = blkbak.WithHint(fmt.Errorf("device %s is mounted on %s and can change while it is read: %w",
			req.Source, mount, blkbak.ErrBusy), "put it on a logical volume, unmount it, or hold off writers with --freeze")
	}
	return mount, err
}

// readFile does the run, with the writers of mount held off if there are any.
func (e *Engine) readFile(ctx context.Context, req Request, src *blockdev.Device, mount string, r read) (catalog.Point, error) {
	r.time = e.Now()
	if content, err := blockdev.Probe(src); err == nil {
		r.id.FSType, r.id.FSUUID = content.Type, content.UUID
	}
	if !src.IsBlock() {
		before, err := os.Stat(req.Source)
		if err != nil {
			return catalog.Point{}, err
		}
		r.finish = func(r *read) error {
			after, err := os.Stat(req.Source)
			if err != nil || !after.ModTime().Equal(before.ModTime()) {
				r.warnings = append(r.warnings, "the file was written to while it was read: the point may mix old and new")
			}
			return nil
		}
		return e.commit(ctx, r)
	}
	if mount == "" {
		return e.commit(ctx, r)
	}
	frozen, err := e.Freezer.Freeze(ctx, mount, req.FreezeLimit, []string{e.StateDir, e.RepoDir})
	if err != nil {
		return catalog.Point{}, err
	}
	r.time = e.Now()
	thawed := false
	r.finish = func(r *read) error {
		// Thawing before the commit tells whether the filesystem was still
		// frozen, and ends the wait of its writers earlier.
		thawed = true
		r.frozen = e.Now().Sub(r.time)
		return frozen.Thaw()
	}
	p, err := e.commit(ctx, r)
	if !thawed {
		err = errors.Join(err, frozen.Thaw())
	}
	return p, err
}

// writableMount is where a device is mounted so that it can change, or "".
func writableMount(path string) (string, error) {
	mounts, err := blockdev.MountsOf(path)
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if !slices.Contains(m.Options, "ro") {
			return m.Point, nil
		}
	}
	return "", nil
}
