package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/lvm"
)

// world is a host with a volume group, a repository and the engine's state, in
// which runs can be made to fail or to die at any step. A step is a call of LVM,
// a change of a file, or the opening of a device.
type world struct {
	testing.TB
	group
	root  string            // the engine's StateDir
	state string            // what it keeps there for the volume
	files map[string][]byte // of the repository
	held  map[string]bool
	truth map[string][]byte                // what each snapshot froze, by UUID
	trees map[string]chunkstore.ID         // roots of truth
	known map[blkbak.PointID]catalog.Point // that were committed

	journals [][]byte // that there ever were
	start    []byte   // the journal that a clone begins with

	mu    sync.Mutex
	steps []string
	fault func(n int, step string) fault
	// meanwhile is what others do before each step and while a device is read.
	meanwhile func()
	dead      bool // the process: nothing that it does has an effect
	clock     time.Time
}

type fault int

const (
	none        fault = iota
	failBefore        // the step does nothing and fails
	failAfter         // the step is done and says that it failed
	crashBefore       // the process dies
	crashAfter        // the process dies, its step is done
	halfMade          // lvcreate leaves an ordinary volume behind; else as failBefore
)

var faults = []fault{failBefore, failAfter, crashBefore, crashAfter, halfMade}

func (f fault) String() string {
	return [...]string{"none", "fail", "fail when done", "crash before", "crash after", "half-made"}[f]
}

var (
	errInjected = errors.New("injected failure")
	errDead     = errors.New("the process is dead")
	errIO       = errors.New("input/output error") // of a snapshot that overflowed
)

// worldChunk is the chunk size of images and of exception stores.
const worldChunk = 4096

// worldConfig is a repository's config file, made once: Init syncs a lot.
var worldConfig = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "blkbak-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if _, err := chunkstore.Init(context.Background(), dir, worldChunk); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "config"))
})

// newWorld returns a world with a volume of size bytes. It uses dir for its files.
func newWorld(t testing.TB, dir string, size int64) *world {
	config, err := worldConfig()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		TB: t, group: newGroup(size),
		files: map[string][]byte{"config": config}, held: map[string]bool{},
		truth: map[string][]byte{}, trees: map[string]chunkstore.ID{}, known: map[blkbak.PointID]catalog.Point{},
		clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	_, store := w.catalog()
	defer store.Close()
	w.root = dir
	w.state = filepath.Join(dir, store.Config().ID.String(), "host%2Fvg%2Fdata")
	// Left from a world before: the engine syncs each directory that it makes.
	if err := errors.Join(os.RemoveAll(w.state), os.MkdirAll(w.state, 0o700)); err != nil {
		t.Fatal(err)
	}
	return w
}

// clone returns a world of its own that is as w is. It uses w's directory: the two
// take turns.
func (w *world) clone() *world {
	c := &world{TB: w.TB, group: w.group, root: w.root, state: w.state, journals: w.journals, clock: w.clock,
		files: maps.Clone(w.files), held: map[string]bool{}, truth: maps.Clone(w.truth), trees: maps.Clone(w.trees), known: maps.Clone(w.known)}
	c.volumes = map[string]*volume{}
	for name, v := range w.volumes {
		n := *v
		n.data, n.excepted, n.Tags = slices.Clone(v.data), maps.Clone(v.excepted), slices.Clone(v.Tags)
		c.volumes[name] = &n
	}
	c.restoreJournal(w.start)
	return c
}

// restoreJournal makes the journal what it was; nil is none.
func (w *world) restoreJournal(b []byte) {
	w.Helper()
	err := os.WriteFile(w.journalPath(), b, 0o600)
	if b == nil {
		err = os.Remove(w.journalPath())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Fatal(err)
	}
}

// do is one step.
func (w *world) do(step string, apply func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errDead
	}
	if w.meanwhile != nil {
		w.meanwhile()
	}
	w.steps = append(w.steps, step)
	f := none
	if w.fault != nil {
		f = w.fault(len(w.steps), step)
	}
	if f == halfMade {
		f = failBefore
		if strings.HasPrefix(step, "lvm create") {
			w.breakNext = true
			f = failAfter
		}
	}
	switch f {
	case failBefore:
		return fmt.Errorf("step %d, %s: %w", len(w.steps), step, errInjected)
	case crashBefore:
		w.dead = true
		return errDead
	}
	err := apply()
	switch f {
	case failAfter:
		return errors.Join(err, fmt.Errorf("step %d, %s: %w", len(w.steps), step, errInjected))
	case crashAfter:
		w.dead = true
		return errDead
	}
	return err
}

// run is one process: it opens the repository and makes a point of vg/data.
func (w *world) run(req Request) (catalog.Point, Plan, error) {
	w.Helper()
	w.mu.Lock()
	w.steps, w.dead, w.held = nil, false, map[string]bool{}
	w.mu.Unlock()
	ctx := w.Context()
	store, err := chunkstore.OpenBackend(ctx, worldBackend{w}, chunkstore.Options{})
	if err != nil {
		return catalog.Point{}, Plan{}, err
	}
	defer store.Close()
	e := New(Options{Store: store, LVM: worldLVM{w}, StateDir: w.root, Host: "host", Now: w.now})
	e.system = system{w.open, w.replace, w.remove}
	req.Source = "vg/data"
	return e.Snapshot(ctx, req)
}

func (w *world) now() time.Time {
	w.clock = w.clock.Add(time.Second)
	return w.clock
}

func (w *world) replace(path string, perm fs.FileMode, data ...[]byte) error {
	what, _, _ := bytes.Cut(bytes.Join(data, nil), []byte("\n"))
	return w.do(fmt.Sprintf("%s write %s", filepath.Base(path), what), func() error {
		w.journals = append(w.journals, bytes.Join(data, nil))
		return os.WriteFile(path, bytes.Join(data, nil), perm)
	})
}

func (w *world) remove(path string) error {
	return w.do(filepath.Base(path)+" remove", func() error {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (w *world) open(path string) (dev device, err error) {
	err = w.do("open "+path, func() error {
		dev, err = w.device(path, w.read)
		return err
	})
	return dev, err
}

// read is how a device is read while others are at work.
func (w *world) read(from *memoryDevice, p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return 0, errDead
	}
	if w.meanwhile != nil {
		w.meanwhile()
	}
	if from.valid != nil && !*from.valid {
		return 0, errIO
	}
	return bytes.NewReader(from.data).ReadAt(p, off)
}

func (w *world) journalPath() string { return filepath.Join(w.state, "journal") }

// worldBackend is the repository's backend. Reading is no step: workers do it in
// any order.
type worldBackend struct{ *world }

func (b worldBackend) Create(_ context.Context, name string, data ...[]byte) error {
	return b.do("repository create "+name, func() error {
		if _, ok := b.files[name]; ok {
			return fmt.Errorf("%s: %w", name, blkbak.ErrExists)
		}
		b.files[name] = bytes.Join(data, nil)
		return nil
	})
}

func (b worldBackend) Open(_ context.Context, name string) (chunkstore.Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.files[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, blkbak.ErrNotFound)
	}
	return nopCloser{bytes.NewReader(data)}, nil
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

func (b worldBackend) List(_ context.Context, dir string) ([]chunkstore.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []chunkstore.Entry
	for name, data := range b.files {
		if strings.HasPrefix(name, dir+"/") {
			list = append(list, chunkstore.Entry{Name: name, Size: int64(len(data))})
		}
	}
	return list, nil
}

func (b worldBackend) Remove(_ context.Context, name string) error {
	return b.do("repository remove "+name, func() error {
		delete(b.files, name)
		return nil
	})
}

func (b worldBackend) Hold(_ context.Context, name string) (func() error, error) {
	err := b.do("repository hold "+name, func() error {
		if _, ok := b.files[name]; !ok {
			return fmt.Errorf("%s: %w", name, blkbak.ErrNotFound)
		}
		if b.held[name] {
			return fmt.Errorf("%s: %w", name, blkbak.ErrBusy)
		}
		b.held[name] = true
		return nil
	})
	return func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.held, name)
		return nil
	}, err
}

// catalog loads the points as an undisturbed process sees them.
func (w *world) catalog() (*catalog.Catalog, *chunkstore.Store) {
	w.Helper()
	fault, meanwhile := w.fault, w.meanwhile
	w.fault, w.meanwhile, w.dead = nil, nil, false
	defer func() { w.fault, w.meanwhile = fault, meanwhile }()
	store, err := chunkstore.OpenBackend(w.Context(), worldBackend{w}, chunkstore.Options{})
	if err != nil {
		w.Fatal(err)
	}
	cat, err := catalog.Load(w.Context(), store)
	if err != nil || len(cat.Damaged()) > 0 {
		w.Fatal(err, cat.Damaged())
	}
	return cat, store
}

// checkPoints holds every committed point against what its snapshot froze: none
// may be lost, none changed, and none half.
func (w *world) checkPoints() {
	w.Helper()
	cat, store := w.catalog()
	defer store.Close()
	points := cat.Points("host/vg/data")
	for _, p := range points {
		if old, ok := w.known[p.ID]; !ok {
			w.checkPoint(store, p)
			w.known[p.ID] = p
		} else if old.Root != p.Root {
			w.Fatalf("point %v had root %v, and now %v", p.ID, old.Root, p.Root)
		}
	}
	if len(points) != len(w.known) {
		w.Fatalf("%d points were committed, %d are there", len(w.known), len(points))
	}
	if errs := cat.CheckHistory(); len(errs) > 0 {
		w.Fatal(errs)
	}
}

// checkAll reads all points to their last byte.
func (w *world) checkAll() {
	w.Helper()
	w.checkPoints()
	cat, store := w.catalog()
	defer store.Close()
	for _, p := range cat.Points("host/vg/data") {
		w.checkPoint(store, p)
	}
}

// checkPoint reads all of a point, and compares with the truth.
func (w *world) checkPoint(store *chunkstore.Store, p catalog.Point) {
	w.Helper()
	truth, ok := w.truth[p.Source.SnapshotUUID]
	if !ok {
		w.Fatalf("point %v is of snapshot %q, which never was", p.ID, p.Source.SnapshotUUID)
	}
	if root := w.tree(p.Source.SnapshotUUID); root != p.Root || p.Size != int64(len(truth)) {
		w.Fatalf("point %v (%s) of %d bytes has root %v, its snapshot's %d bytes %v", p.ID, p.Mode, p.Size, p.Root, len(truth), root)
	}
	var got bytes.Buffer
	if _, err := New(Options{Store: store}).Restore(w.Context(), RestoreRequest{Point: p, Stream: &got}); err != nil {
		w.Fatalf("restore point %v: %v", p.ID, err)
	}
	if !bytes.Equal(got.Bytes(), truth) {
		w.Fatalf("point %v restores to something else than its snapshot held", p.ID)
	}
}

func (w *world) tree(snapshot string) chunkstore.ID {
	if id, ok := w.trees[snapshot]; ok {
		return id
	}
	id, err := Root(w.Context(), &memoryDevice{data: w.truth[snapshot]}, worldChunk, nil)
	if err != nil {
		w.Fatal(err)
	}
	w.trees[snapshot] = id
	return id
}

// ours are the volumes that runs of this volume and repository made.
func (w *world) ours() []*volume {
	var list []*volume
	for _, v := range w.volumes {
		if repo, _ := v.TagValue(tagRepo); v.Tagged(lvm.Mark) && repo != "another" {
			list = append(list, v)
		}
	}
	return list
}

// checkQuiet is for after a run without faults: the volume has one snapshot of
// ours, the latest point's, and nothing else is left.
func (w *world) checkQuiet(p catalog.Point) {
	w.Helper()
	ours := w.ours()
	if len(ours) != 1 || ours[0].UUID != p.Source.SnapshotUUID {
		w.Fatalf("snapshots left after point %v of snapshot %s: %v", p.ID, p.Source.SnapshotUUID, ours)
	}
	if tag, _ := ours[0].TagValue(tagPoint); tag != p.ID.String() {
		w.Fatalf("snapshot has tags %v, not one for point %v", ours[0].Tags, p.ID)
	}
	if _, err := os.Stat(w.journalPath()); !errors.Is(err, fs.ErrNotExist) {
		w.Fatalf("journal left: %v", err)
	}
	for name := range w.files {
		if strings.HasPrefix(name, "sess/") {
			w.Fatalf("session left: %s", name)
		}
	}
}

var (
	hexID        = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
	snapshotName = regexp.MustCompile(`(data-+blkbak-+)([0-9a-f]{8})\b`)
)

// script renders the steps, and the reason for the mode, with names that are the
// same each time.
func script(text string) string {
	names := map[string]string{}
	count := map[string]int{}
	name := func(prefix, random string) string {
		if names[random] == "" {
			count[prefix]++
			names[random] = fmt.Sprintf("%s%d", prefix, count[prefix])
		}
		return names[random]
	}
	text = snapshotName.ReplaceAllStringFunc(text, func(m string) string {
		sub := snapshotName.FindStringSubmatch(m)
		return sub[1] + name("N", sub[2])
	})
	return hexID.ReplaceAllStringFunc(text, func(m string) string { return name("P", m) })
}

// randomBytes fills n bytes in which zeros are frequent.
func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	if r.IntN(4) > 0 {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}
