package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/catalog"
)

// newEngine returns an engine on a repository of its own in a directory.
func newEngine(t testing.TB, chunkSize int64) *Engine {
	t.Helper()
	dir := t.TempDir()
	if _, err := chunkstore.Init(t.Context(), filepath.Join(dir, "repo"), chunkSize); err != nil {
		t.Fatal(err)
	}
	store, err := chunkstore.Open(t.Context(), filepath.Join(dir, "repo"), chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return New(Options{Store: store, StateDir: filepath.Join(dir, "state"), RepoDir: filepath.Join(dir, "repo"), Host: "host"})
}

func (e *Engine) mustSnapshot(t testing.TB, req Request) catalog.Point {
	t.Helper()
	p, _, err := e.Snapshot(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fileRoot is the root by the way that has nothing in common with a run.
func fileRoot(t testing.TB, path string, chunkSize int64) chunkstore.ID {
	t.Helper()
	dev, err := blockdev.Open(path, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	id, err := Root(t.Context(), dev, chunkSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (e *Engine) content(t testing.TB, p catalog.Point) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := e.Restore(t.Context(), RestoreRequest{Point: p, Stream: &b}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFileLife takes an image file through growing, shrinking, holes and odd
// sizes. Each point is what the file was, however little of it was new.
func TestFileLife(t *testing.T) {
	const chunk = 4096
	e := newEngine(t, chunk)
	path := filepath.Join(t.TempDir(), "disk.img")
	r := rand.New(rand.NewPCG(1, 2))
	edit := func(do func(f *blockdev.Device) error) {
		t.Helper()
		f, err := blockdev.Open(path, blockdev.Options{Write: true, Create: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(do(f), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write := func(off int64, n int) func(*blockdev.Device) error {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return func(f *blockdev.Device) error { _, err := f.WriteAt(b, off); return err }
	}
	truncate := func(n int64) func(*blockdev.Device) error {
		return func(f *blockdev.Device) error { return f.Truncate(n) }
	}
	punch := func(off, n int64) func(*blockdev.Device) error {
		return func(f *blockdev.Device) error { return f.WriteZeros(off, n) }
	}
	steps := []struct {
		name string
		do   func(*blockdev.Device) error
	}{
		{"empty", truncate(0)},
		{"one byte", write(0, 1)},
		{"one sector less a byte", write(1, 510)},
		{"a chunk", write(511, chunk-511)},
		{"a chunk and a byte", write(chunk, 1)},
		{"a hole after it", truncate(300*chunk + 77)},
		{"data at the very end", write(300*chunk+70, 7)},
		{"data in the hole", write(130*chunk-5, 10)},
		{"two levels of nodes", write(5000*chunk, 3*chunk)},
		{"a hole punched through all", punch(100, 5000*chunk)},
		{"shrunk into a chunk", truncate(5001*chunk + 1234)},
		{"shrunk into the hole", truncate(200*chunk + 1)},
		{"grown again: zeros where data was", truncate(5003 * chunk)},
		{"shrunk to one node", truncate(10 * chunk)},
		{"dense", write(0, 10*chunk)},
		{"shrunk by a byte", truncate(10*chunk - 1)},
		{"grown by a byte", truncate(10 * chunk)},
		{"a MiB and more, to have several pieces", write(3*chunk+1, 3<<20)},
		{"empty again", truncate(0)},
	}
	for i, s := range steps {
		edit(s.do)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		root := fileRoot(t, path, chunk)
		p := e.mustSnapshot(t, Request{Source: path})
		if p.Root != root || p.Size != int64(len(want)) {
			t.Errorf("%s: %d bytes, root %v; want %d, %v", s.name, p.Size, p.Root, len(want), root)
		}
		if mode := []blkbak.Mode{blkbak.ModeFull, blkbak.ModeScan}[min(i, 1)]; p.Mode != mode || len(p.Warnings) > 0 {
			t.Errorf("%s: mode %s, warnings %q; want %s", s.name, p.Mode, p.Warnings, mode)
		}
		if !bytes.Equal(e.content(t, p), want) {
			t.Errorf("%s: the point is not what the file was", s.name)
		}
		again := e.mustSnapshot(t, Request{Source: path})
		if again.Root != root || again.Stats.Changed != 0 || again.Stats.ChunksNew != 0 || again.Stats.Stored != 0 {
			t.Errorf("%s: again, with nothing changed: root %v, %+v", s.name, again.Root, again.Stats)
		}
		if full := e.mustSnapshot(t, Request{Source: path, Full: true}); full.Root != root || full.Mode != blkbak.ModeFull {
			t.Errorf("%s: a full read has root %v, want %v", s.name, full.Root, root)
		}
	}
}

// TestFileChangedChunks counts what a scan says to have changed.
func TestFileChangedChunks(t *testing.T) {
	const chunk = 4096
	e := newEngine(t, chunk)
	path := filepath.Join(t.TempDir(), "disk.img")
	data := bytes.Repeat([]byte{1, 2, 3, 4}, 16*chunk/4)
	writeFile(t, path, data)
	if p := e.mustSnapshot(t, Request{Source: path}); p.Stats.Changed != 16*chunk || p.Stats.ChunksNew != 1 || p.Stats.ChunksReused != 15 {
		t.Errorf("first: %+v", p.Stats)
	}
	data[5*chunk] ^= 1              // new content
	clear(data[9*chunk : 10*chunk]) // zeros: changed, nothing to store
	writeFile(t, path, data)
	if p := e.mustSnapshot(t, Request{Source: path}); p.Stats.Changed != 2*chunk || p.Stats.ChunksNew != 1 || p.Stats.Read != 16*chunk {
		t.Errorf("second: %+v", p.Stats)
	}
	if err := os.Truncate(path, 0); err != nil { // all of it becomes a hole
		t.Fatal(err)
	}
	if err := os.Truncate(path, 16*chunk); err != nil {
		t.Fatal(err)
	}
	if p := e.mustSnapshot(t, Request{Source: path}); p.Stats.Changed != 15*chunk || p.Stats.Read > chunk {
		t.Errorf("third: %+v", p.Stats)
	}
}

// TestFileWrittenMeanwhile wants to be told when a file changed under the run.
func TestFileWrittenMeanwhile(t *testing.T) {
	e := newEngine(t, 4096)
	path := filepath.Join(t.TempDir(), "disk.img")
	writeFile(t, path, bytes.Repeat([]byte("x"), 1<<20))
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	once := false
	e.Progress = func(_ string, done, total int64) {
		if done == total && !once {
			once = true
			writeFile(t, path, []byte("y"))
		}
	}
	if p := e.mustSnapshot(t, Request{Source: path}); len(p.Warnings) != 1 {
		t.Errorf("warnings %q, want one", p.Warnings)
	}
}

// cowCase is a folder of cow/testdata with the origin at the end.
type cowCase struct {
	name, dir string
	t0, t1    []byte // the snapshot's and the origin's content
	cow       []byte
}

func unpack(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(path, err)
	}
	return b
}

// cowCases are those stores of a real kernel of which the origin is kept. What
// the snapshot held is origin and store laid over each other; the case has its
// hash, as the kernel showed it.
func cowCases(t *testing.T, only ...string) []cowCase {
	t.Helper()
	dirs, err := filepath.Glob("../../cow/testdata/*/t1.zst")
	if err != nil {
		t.Fatal(err)
	}
	var cases []cowCase
	for _, d := range dirs {
		if len(only) > 0 && !slices.Contains(only, filepath.Base(filepath.Dir(d))) {
			continue
		}
		c := cowCase{name: filepath.Base(filepath.Dir(d)), dir: filepath.Dir(d), t1: unpack(t, d)}
		if c.cow = unpack(t, filepath.Join(c.dir, "cow.zst")); c.cow == nil {
			continue
		}
		s, err := cow.Read(t.Context(), bytes.NewReader(c.cow), int64(len(c.cow)), cow.Options{OriginSize: int64(len(c.t1))})
		if errors.Is(err, blkbak.ErrNeedsFull) {
			continue // one of the stores that lost something
		}
		if err != nil {
			t.Fatal(c.name, err)
		}
		over, err := s.Overlay(t.Context(), bytes.NewReader(c.t1))
		if err != nil {
			t.Fatal(c.name, err)
		}
		if c.t0, err = io.ReadAll(over); err != nil {
			t.Fatal(c.name, err)
		}
		b, err := os.ReadFile(filepath.Join(c.dir, "case.json"))
		if err != nil {
			t.Fatal(err)
		}
		var facts struct {
			SnapSHA256 string `json:"snap_sha256"`
		}
		if err := json.Unmarshal(b, &facts); err != nil {
			t.Fatal(c.name, err)
		}
		if sum := sha256.Sum256(c.t0); hex.EncodeToString(sum[:]) != facts.SnapSHA256 {
			t.Fatalf("%s: the snapshot's content is not what the kernel showed", c.name)
		}
		cases = append(cases, c)
	}
	if len(cases) < 10 && len(cases) != len(only) {
		t.Fatalf("%d cases", len(cases))
	}
	return cases
}

// TestCOWOfRealKernel makes a point of what the snapshot held, and an increment of
// the origin by the kernel's own exception store.
func TestCOWOfRealKernel(t *testing.T) {
	cases := cowCases(t)
	for _, c := range cases {
		for _, chunk := range []int64{4 << 10, 64 << 10} {
			if chunk == 4<<10 && len(c.t1) > 16<<20 {
				continue
			}
			e := newEngine(t, chunk)
			dir := t.TempDir()
			t0, t1, store := filepath.Join(dir, "t0"), filepath.Join(dir, "t1"), filepath.Join(dir, "cow")
			writeFile(t, t0, c.t0)
			writeFile(t, t1, c.t1)
			writeFile(t, store, c.cow)
			first := e.mustSnapshot(t, Request{Source: t0, Volume: "disk"})
			second := e.mustSnapshot(t, Request{Source: t1, Volume: "disk", COW: store})
			if want := fileRoot(t, t1, chunk); second.Root != want || second.Mode != blkbak.ModeCOW || second.Parent != first.ID {
				t.Errorf("%s: point %v, mode %s, parent %v, root %v; want %v", c.name, second.ID, second.Mode, second.Parent, second.Root, want)
			}
			if !bytes.Equal(e.content(t, second), c.t1) {
				t.Errorf("%s: restores to something else", c.name)
			}
		}
	}
	t.Logf("%d stores", len(cases))
}

// TestCOWRefused is about stores that say nothing of what changed: the run must
// refuse, with the decision for the caller, and store nothing.
func TestCOWRefused(t *testing.T) {
	c := cowCases(t, "boundary-257")[0]
	e := newEngine(t, 4096)
	dir := t.TempDir()
	image, store := filepath.Join(dir, "image"), filepath.Join(dir, "cow")
	writeFile(t, image, c.t0)
	writeFile(t, store, c.cow)
	refused := func(what string, req Request, want error) {
		t.Helper()
		req.Source, req.Volume = image, "disk"
		_, _, err := e.Snapshot(t.Context(), req)
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", what, err, want)
		}
		if errors.Is(want, blkbak.ErrNeedsFull) && blkbak.Hint(err) == "" {
			t.Errorf("%s: no hint with %v", what, err)
		}
	}
	refused("no parent", Request{COW: store}, blkbak.ErrNeedsFull)
	e.mustSnapshot(t, Request{Source: image, Volume: "disk"})

	refused("no store", Request{COW: filepath.Join(dir, "nothing")}, blkbak.ErrNotFound)
	refused("a directory", Request{COW: dir}, blkbak.ErrUsage)
	refused("full as well", Request{COW: store, Full: true}, blkbak.ErrUsage)
	for _, name := range []string{"overflow-origin", "overflow-snapshot", "raw-transient"} {
		b := unpack(t, filepath.Join("../../cow/testdata", name, "cow.zst"))
		if b == nil {
			t.Fatalf("no store %s", name)
		}
		writeFile(t, store, b)
		want := blkbak.ErrNeedsFull
		if name == "raw-transient" && !bytes.Equal(b[:4], make([]byte, 4)) {
			want = blkbak.ErrCorrupt
		}
		refused(name, Request{COW: store}, want)
	}
	writeFile(t, store, c.cow[:2000])
	refused("cut short", Request{COW: store}, blkbak.ErrCorrupt)
	writeFile(t, store, bytes.Repeat([]byte("not a store"), 1000))
	refused("not a store", Request{COW: store}, blkbak.ErrCorrupt)
	writeFile(t, store, nil)
	refused("empty", Request{COW: store}, blkbak.ErrCorrupt)

	writeFile(t, store, c.cow)
	writeFile(t, image, c.t1[:len(c.t1)-512])
	refused("another size", Request{COW: store}, blkbak.ErrNeedsFull)
	cat, err := catalog.Load(t.Context(), e.Store)
	if err != nil || len(cat.Points("disk")) != 1 {
		t.Errorf("%d points, %v: a refused run left one", len(cat.Points("disk")), err)
	}
}

// TestSources names things that are no source.
func TestSources(t *testing.T) {
	e := newEngine(t, 4096)
	dir := t.TempDir()
	for source, want := range map[string]error{
		filepath.Join(dir, "missing"): blkbak.ErrNotFound,
		dir:                           blkbak.ErrUsage,
		"/dev/null":                   blkbak.ErrUsage,
		"missing.img":                 blkbak.ErrNotFound,
		"vg/lv":                       errors.ErrUnsupported, // there is no LVM here
	} {
		if _, _, err := e.Snapshot(t.Context(), Request{Source: source}); !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", source, err, want)
		}
	}
	path := filepath.Join(dir, "file")
	writeFile(t, path, []byte("x"))
	for _, volume := range []string{"a@b", "-x", "a\nb", string(make([]byte, 300))} {
		if _, _, err := e.Snapshot(t.Context(), Request{Source: path, Volume: volume}); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("volume %q: error %v, want %v", volume, err, blkbak.ErrUsage)
		}
	}
	// Names that make odd, or overlong, names of directories.
	for _, volume := range []string{".", "..", "../x", "a/b/c", string(bytes.Repeat([]byte("диск/"), 28))} {
		if p := e.mustSnapshot(t, Request{Source: path, Volume: volume}); p.Volume != volume {
			t.Errorf("volume %q became %q", volume, p.Volume)
		}
	}
	if names, err := os.ReadDir(filepath.Dir(e.StateDir)); err != nil || len(names) != 2 {
		t.Errorf("state beside the state directory: %v, %v", names, err)
	}
}
