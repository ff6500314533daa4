package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/atomicfile"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
	"github.com/blkbak/blkbak/internal/lvm"
)

// Options of New. Store, StateDir and Host are needed.
type Options struct {
	Store    *chunkstore.Store
	LVM      LVM          // nil where there is none
	Freezer  Freezer      // nil where filesystems cannot be frozen
	StateDir string       // this host's locks and journals; made when missing
	RepoDir  string       // where the repository lies on this host, "" for elsewhere
	Host     string       // begins the default name of a volume
	Program  string       // name and version, recorded with every point
	Logger   *slog.Logger // nil discards
	// Progress is told what is being done and how far it is, in bytes. It is
	// called from one goroutine at a time. nil tells no one.
	Progress func(what string, done, total int64)
	Now      func() time.Time // nil is time.Now
}

// Engine runs jobs on a repository. Not safe for concurrent use.
type Engine struct {
	Options
	system
}

// system is what the engine does to the host by itself; tests break it.
type system struct {
	// open opens a block device to be read past the page cache, which the
	// kernel's own writes to snapshots do not go through.
	open func(path string) (device, error)
	// replace and remove change files durably.
	replace func(path string, perm fs.FileMode, data ...[]byte) error
	remove  func(path string) error
}

// device is an open source.
type device interface {
	Source
	io.Closer
}

func openDirect(path string) (device, error) {
	return blockdev.Open(path, blockdev.Options{Direct: true})
}

// New returns an engine.
func New(o Options) *Engine {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Engine{o, system{openDirect, atomicfile.Replace, atomicfile.Remove}}
}

// Request is one snapshot run.
type Request struct {
	Source string            // VG/LV, /dev/VG/LV, another block device, or an image file
	Volume string            // name of the series; "" is made of host and source
	Tags   map[string]string // kept with the point
	Full   bool              // read everything, whatever a base says
	DryRun bool              // say what would be done, change nothing

	// COW is the exception store, a device or file, of a snapshot that was taken
	// when the image file Source equalled the volume's latest point.
	COW string

	COWSize  int64 // of the snapshot's exception store; 0 chooses
	COWChunk int64 // its chunk size; 0 is LVM's default

	// Freeze holds off writers of a mounted device that has no snapshots for as
	// long as it is read, FreezeLimit at most.
	Freeze      bool
	FreezeLimit time.Duration
}

// Freezer holds off the writers of mounted filesystems.
type Freezer interface {
	// Freeze returns when nothing writes to the filesystem mounted at mount any
	// more. It thaws by itself after limit, and when this process dies. It
	// refuses a filesystem that holds one of the paths in clear.
	Freeze(ctx context.Context, mount string, limit time.Duration, clear []string) (Frozen, error)
}

// Frozen is a filesystem that is frozen. Thaw lets writers go on; its error says
// so if the filesystem did not stay frozen until then.
type Frozen interface{ Thaw() error }

// Plan is what a run does, or would do.
type Plan struct {
	Volume  string         `json:"volume"`
	Source  string         `json:"source"`
	Mode    blkbak.Mode    `json:"mode"`
	Reason  string         `json:"reason"` // for the mode
	Parent  blkbak.PointID `json:"parent"`
	Size    int64          `json:"size"`
	ToRead  int64          `json:"bytes_to_read"` // an upper bound
	Actions []string       `json:"actions"`       // on the host, in order
}

// Snapshot makes a restore point of what req names. With req.DryRun it returns
// the plan only. Warnings are in the point.
func (e *Engine) Snapshot(ctx context.Context, req Request) (catalog.Point, Plan, error) {
	start := e.Now()
	name, err := logicalVolume(req.Source)
	if err != nil {
		return catalog.Point{}, Plan{}, err
	}
	if name == "" {
		return e.snapshotFile(ctx, req, start)
	}
	if e.LVM == nil {
		return catalog.Point{}, Plan{}, fmt.Errorf("logical volume %s: %w on this system", name, errors.ErrUnsupported)
	}
	lv, err := e.LVM.Volume(ctx, name)
	if err != nil {
		return catalog.Point{}, Plan{}, err
	}
	return e.snapshotLV(ctx, req, lv, start)
}

// logicalVolume returns the VG/LV that source names, or "" for a source that is
// something else. What exists as a file is that file.
func logicalVolume(source string) (string, error) {
	st, err := os.Stat(source)
	if err == nil && st.Mode().IsRegular() {
		return "", nil
	}
	if err == nil && st.Mode()&fs.ModeDevice != 0 {
		dev, err := blockdev.Open(source, blockdev.Options{})
		if err != nil {
			return "", err
		}
		defer dev.Close()
		name, uuid, err := dev.DM()
		if errors.Is(err, errors.ErrUnsupported) || err == nil && !strings.HasPrefix(uuid, "LVM-") {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		vg, lv, layer := lvm.SplitDMName(name)
		if layer != "" {
			return "", nil // a part of a volume, which LVM keeps to itself
		}
		return vg + "/" + lv, nil
	}
	if filepath.IsAbs(source) && !strings.HasPrefix(source, "/dev/") || err == nil {
		return "", nil // a path, of nothing or of something odd: the file's error says it best
	}
	if vg, lv, err := lvm.ParseName(source); err == nil {
		return vg + "/" + lv, nil
	}
	return "", nil
}

// volumeState is the directory with this host's state of a volume.
func (e *Engine) volumeState(volume string) string {
	name := url.PathEscape(volume)
	if len(name) > 200 || name[0] == '.' {
		// Too long for a file, or with a meaning of its own.
		name = "=" + chunkstore.Sum([]byte(volume)).String()
	}
	return filepath.Join(e.StateDir, e.Store.Config().ID.String(), name)
}

// lockVolume keeps other runs of this host off the volume.
func (e *Engine) lockVolume(volume string) (*atomicfile.Lock, error) {
	if err := catalog.CheckVolume(volume); err != nil {
		return nil, err
	}
	dir := e.volumeState(volume)
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l, err := atomicfile.TryLock(filepath.Join(dir, "lock"))
	if errors.Is(err, blkbak.ErrBusy) {
		err = blkbak.WithHint(fmt.Errorf("volume %s: %w: another run is at work on it", volume, blkbak.ErrBusy),
			"wait for it to end; nothing was touched")
	}
	return l, err
}

// history is what the repository holds of a volume.
type history struct {
	catalog *catalog.Catalog
	volume  string
	latest  catalog.Point
	any     bool // there is a latest point
}

func (e *Engine) history(ctx context.Context, volume string) (h history, err error) {
	h.volume = volume
	if h.catalog, err = catalog.Load(ctx, e.Store); err != nil {
		return h, err
	}
	h.latest, h.any = h.catalog.Latest(volume)
	return h, nil
}

// point finds a point of the volume by its ID.
func (h history) point(id blkbak.PointID) (catalog.Point, bool) {
	for _, p := range h.catalog.Points(h.volume) {
		if p.ID == id {
			return p, true
		}
	}
	return catalog.Point{}, false
}

// read is what a run found out it has to read.
type read struct {
	history
	src      Source
	id       blkbak.SourceID
	mode     blkbak.Mode
	parent   *catalog.Point // what the changes are relative to; nil reads all as new
	extents  []blkbak.Extent
	time     time.Time // of the data
	start    time.Time // of the run
	frozen   time.Duration
	warnings []string
	lvmText  string
	tags     map[string]string

	// finish is called when everything is read and nothing is committed yet. Its
	// error ends the run. nil does nothing.
	finish func(*read) error
}

// commit transfers what r names and publishes the restore point.
func (e *Engine) commit(ctx context.Context, r read) (catalog.Point, error) {
	session, err := e.Store.Begin(ctx)
	if err != nil {
		return catalog.Point{}, err
	}
	defer session.Close()

	t := transfer{session: session, src: r.src, chunk: e.Store.Config().ChunkSize, all: r.mode != blkbak.ModeCOW}
	if r.parent != nil {
		if t.parent, err = image.Open(ctx, e.Store, r.parent.Root, nil); err != nil {
			return catalog.Point{}, fmt.Errorf("open parent %v: %w", r.parent.ID, err)
		}
		t.chunk = r.parent.ChunkSize
	}
	total := r.src.Size()
	if !t.all {
		t.extents = blkbak.AlignExtents(r.extents, t.chunk, total)
		total = blkbak.ExtentBytes(t.extents)
	}
	var done int64
	e.Progress("storing "+r.volume, 0, total)
	t.progress = func(n int64) {
		done += n
		e.Progress("storing "+r.volume, done, total)
	}
	out, err := t.run(ctx)
	if err != nil {
		return catalog.Point{}, fmt.Errorf("snapshot %s: %w", r.id.Path, err)
	}
	if r.finish != nil {
		if err := r.finish(&r); err != nil {
			return catalog.Point{}, err
		}
	}
	if err := session.Flush(ctx); err != nil {
		return catalog.Point{}, err
	}
	stats := session.Stats()
	p := r.catalog.Follow(catalog.Point{
		ID: session.ID(), Volume: r.volume, Time: blkbak.Time(r.time),
		Size: r.src.Size(), ChunkSize: t.chunk, Root: out.root,
		Mode: r.mode, Source: r.id, Tags: r.tags, LVM: r.lvmText, Warnings: r.warnings, Program: e.Program,
		Stats: catalog.Stats{
			Changed: out.changed, Read: out.read, Stored: stats.Data.Stored + stats.Nodes.Stored,
			ChunksNew: stats.Data.New, ChunksReused: stats.Data.Reused,
			FreezeSeconds: r.frozen.Seconds(), Seconds: e.Now().Sub(r.start).Seconds(),
		},
	})
	body, err := p.Encode()
	if err != nil {
		return p, err
	}
	return p, session.Commit(ctx, body)
}
