package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
)

// memory is a Backend that one test uses from one goroutine at a time. Its files
// are replaced, not changed, so copies of the map share them.
type memory map[string][]byte

func (m memory) Create(_ context.Context, name string, data ...[]byte) error {
	if _, ok := m[name]; ok {
		return fmt.Errorf("create %s: %w", name, blkbak.ErrExists)
	}
	m[name] = bytes.Join(data, nil)
	return nil
}

type memoryObject struct{ *bytes.Reader }

func (memoryObject) Close() error { return nil }

func (m memory) Open(_ context.Context, name string) (chunkstore.Object, error) {
	f, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", name, blkbak.ErrNotFound)
	}
	return memoryObject{bytes.NewReader(f)}, nil
}

func (m memory) List(_ context.Context, dir string) (list []chunkstore.Entry, _ error) {
	for name, f := range m {
		if strings.HasPrefix(name, dir+"/") {
			list = append(list, chunkstore.Entry{Name: name, Size: int64(len(f))})
		}
	}
	return list, nil
}

func (m memory) Remove(_ context.Context, name string) error {
	delete(m, name)
	return nil
}

func (m memory) Hold(context.Context, string) (func() error, error) {
	return func() error { return nil }, nil
}

const testChunk = 4096

// version is a restore point and what it holds.
type version struct {
	point catalog.Point
	disk  []byte
}

// sample is a repository of three points of a disk of some 70 chunks, so that its
// tree has two levels. Later points share most of the first one.
type sample struct {
	files  memory
	points []version
}

func newSample(t testing.TB) sample {
	t.Helper()
	ctx := t.Context()
	s := sample{files: memory{}}
	// As Init makes it in a directory.
	dir := t.TempDir()
	if _, err := chunkstore.Init(ctx, dir, testChunk); err != nil {
		t.Fatal(err)
	}
	copyDir(t, s.files, dir)

	disk := make([]byte, 70*testChunk+100)
	for i, text := range []string{"boot", "first", "second"} {
		copy(disk[i*20*testChunk:], strings.Repeat(text+" ", 40))
	}
	copy(disk[70*testChunk:], "the short end")
	s.commit(t, disk)
	copy(disk[3*testChunk:], strings.Repeat("changed ", 30))
	s.commit(t, disk)
	copy(disk[65*testChunk:], strings.Repeat("again ", 30))
	clear(disk[20*testChunk : 21*testChunk])
	s.commit(t, disk)
	return s
}

func (s *sample) open(t testing.TB) *chunkstore.Store {
	t.Helper()
	store, err := chunkstore.OpenBackend(t.Context(), s.files, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// commit adds disk as a point.
func (s *sample) commit(t testing.TB, disk []byte) {
	t.Helper()
	ctx, store := t.Context(), s.open(t)
	w, err := store.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cat, err := catalog.Load(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	parent, _ := cat.Latest("host/vg/lv")
	b, err := image.NewBuilder(ctx, w, w, int64(len(disk)), testChunk, parent.Root)
	if err != nil {
		t.Fatal(err)
	}
	for i, rest := 0, disk; len(rest) > 0; i++ {
		chunk := rest[:min(testChunk, len(rest))]
		rest = rest[len(chunk):]
		var id chunkstore.ID
		if len(bytes.Trim(chunk, "\x00")) > 0 {
			if id, err = w.Put(ctx, chunkstore.KindData, chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Set(int64(i), id); err != nil {
			t.Fatal(err)
		}
	}
	root, _, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	p := cat.Follow(catalog.Point{ID: w.ID(), Volume: "host/vg/lv", Size: int64(len(disk)), ChunkSize: testChunk,
		Root: root, Mode: blkbak.ModeFull, Program: "test"})
	body, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx, body); err != nil {
		t.Fatal(err)
	}
	s.points = append(s.points, version{p, bytes.Clone(disk)})
}

// damaged is the sample with one file being other bytes, or none if they are nil.
func (s sample) damaged(name string, with []byte) sample {
	files := maps.Clone(s.files)
	if delete(files, name); with != nil {
		files[name] = with
	}
	return sample{files, s.points}
}

// examination is what check and restoring make of a damaged repository.
type examination struct {
	found    bool // something wrong was found, be it that it cannot be opened
	whole    []int
	affected []int // points that the report names
}

// examine checks the repository and reads every point. It fails if anything is
// read that is not what was stored, or a point cannot be had that the report does
// not name.
func (s sample) examine(t testing.TB, what string) (e examination) {
	ctx := t.Context()
	store, err := chunkstore.OpenBackend(ctx, s.files, chunkstore.Options{})
	if err != nil {
		if !errors.Is(err, blkbak.ErrCorrupt) && !errors.Is(err, blkbak.ErrNotFound) && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: open: %v", what, err)
		}
		e.found = true
		return e
	}
	defer store.Close()
	rep, err := Run(ctx, store, Options{ReadData: true})
	if err != nil {
		t.Errorf("%s: check: %v", what, err)
		return e
	}
	e.found = !rep.OK
	for i, v := range s.points {
		if slices.ContainsFunc(rep.Errors, func(e Error) bool { return slices.Contains(e.Points, v.point.ID) }) {
			e.affected = append(e.affected, i)
		}
		o, err := store.Outcome(ctx, v.point.ID)
		if err == nil {
			var p catalog.Point
			if p, err = catalog.Decode(o.Session, o.Body); err == nil {
				err = readPoint(ctx, store, p, v.disk)
			}
		}
		if errors.Is(err, errWrongBytes) {
			t.Errorf("%s: point %d: %v", what, i, err)
		}
		if err == nil {
			e.whole = append(e.whole, i)
		} else if !slices.Contains(e.affected, i) {
			t.Errorf("%s: point %d is not whole and the report does not name it: %v\n%+v", what, i, err, rep.Errors)
		}
	}
	return e
}

// rooms are lent to read disks into: the tests read them very often.
var rooms = sync.Pool{New: func() any { return new([]byte) }}

var errWrongBytes = errors.New("wrong bytes were read")

func readPoint(ctx context.Context, store *chunkstore.Store, p catalog.Point, want []byte) error {
	im, err := image.Open(ctx, store, p.Root, image.NewCache(image.CacheOptions{ChunkBytes: -1}))
	if err != nil {
		return err
	}
	if im.Size() != int64(len(want)) {
		return errWrongBytes
	}
	room := rooms.Get().(*[]byte)
	defer rooms.Put(room)
	got := append((*room)[:0], make([]byte, len(want))...)
	*room = got
	n, err := im.ReadContext(ctx, got, 0)
	if !bytes.Equal(got[:n], want[:n]) {
		return errWrongBytes
	}
	return err
}
