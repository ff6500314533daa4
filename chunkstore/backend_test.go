package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/atomicfile"
)

// memFiles is what a Backend in memory keeps. Its processes come and go.
type memFiles struct {
	mu    sync.Mutex
	files map[string][]byte
	holds map[string]*memBackend
}

// memBackend is the Backend as one process has it.
type memBackend struct{ *memFiles }

func newMem() *memFiles {
	return &memFiles{files: make(map[string][]byte), holds: make(map[string]*memBackend)}
}

func (m *memFiles) process() *memBackend { return &memBackend{m} }

// exit gives back what a process that ended holds.
func (b *memBackend) exit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.holds, func(_ string, by *memBackend) bool { return by == b })
}

func (b *memBackend) Create(ctx context.Context, name string, data ...[]byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.files[name]; ok {
		return fmt.Errorf("create %s: %w", name, blkbak.ErrExists)
	}
	b.files[name] = bytes.Join(data, nil)
	return nil
}

// memObject cannot be mapped, so that the other path is tested as well.
type memObject struct{ *bytes.Reader }

func (memObject) Close() error { return nil }

func (b *memBackend) Open(_ context.Context, name string) (Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.files[name]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", name, blkbak.ErrNotFound)
	}
	return memObject{bytes.NewReader(f)}, nil
}

func (b *memBackend) List(_ context.Context, dir string) (list []Entry, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, f := range b.files {
		if strings.HasPrefix(name, dir+"/") {
			list = append(list, Entry{name, int64(len(f))})
		}
	}
	return list, nil
}

func (b *memBackend) Remove(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.files, name)
	return nil
}

func (b *memBackend) Hold(_ context.Context, name string) (func() error, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.files[name]; !ok {
		return nil, fmt.Errorf("hold %s: %w", name, blkbak.ErrNotFound)
	}
	if b.holds[name] != nil {
		return nil, fmt.Errorf("hold %s: %w", name, blkbak.ErrBusy)
	}
	b.holds[name] = b
	return func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.holds, name)
		return nil
	}, nil
}

// names lists the files in dir, sorted.
func (m *memFiles) names(dir string) []string {
	list, _ := m.process().List(context.Background(), dir)
	var names []string
	for _, e := range list {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

// initMem makes a repository in memory, as Init does in a directory.
func initMem(t testing.TB, m *memFiles) {
	t.Helper()
	body := `{"id":"0123456789abcdef","created":"2026-11-24T00:00:00Z","chunk_size":4096,"features":[]}`
	if err := m.process().Create(t.Context(), "config", seal(sealConfig, []byte(body))...); err != nil {
		t.Fatal(err)
	}
}

func openMem(t testing.TB, b Backend) *Store {
	t.Helper()
	s, err := OpenBackend(t.Context(), b, Options{PackSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestBackends holds every Backend to what the interface says.
func TestBackends(t *testing.T) {
	local := func(t *testing.T) Backend {
		dir := t.TempDir()
		for _, d := range directories {
			if err := atomicfile.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		return localDir{dir}
	}
	for name, make := range map[string]func(*testing.T) Backend{
		"local":  local,
		"memory": func(*testing.T) Backend { return newMem().process() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("files", func(t *testing.T) { testBackendFiles(t, make(t)) })
			t.Run("one winner", func(t *testing.T) { testBackendCreate(t, make(t)) })
			t.Run("hold", func(t *testing.T) { testBackendHold(t, make(t)) })
		})
	}
}

func testBackendFiles(t *testing.T, b Backend) {
	ctx := t.Context()
	if err := b.Create(ctx, "idx/a", []byte("hello, "), nil, []byte("world")); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(ctx, "packs/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	o, err := b.Open(ctx, "idx/a")
	if err != nil || o.Size() != 12 {
		t.Fatalf("open: %v", err)
	}
	p := make([]byte, 5)
	if n, err := o.ReadAt(p, 7); n != 5 || string(p) != "world" {
		t.Errorf("read %q, %v", p[:n], err)
	}
	if err := readFull("a", o, p, 8); !errors.Is(err, blkbak.ErrCorrupt) {
		t.Errorf("read past the end: %v", err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if l, err := b.List(ctx, "idx"); err != nil || !slices.Equal(l, []Entry{{"idx/a", 12}}) {
		t.Errorf("list %v, %v", l, err)
	}
	if l, err := b.List(ctx, "sess"); err != nil || len(l) != 0 {
		t.Errorf("empty list %v, %v", l, err)
	}
	for range 2 {
		if err := b.Remove(ctx, "idx/a"); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if _, err := b.Open(ctx, "idx/a"); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("open what is gone: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Create(ended, "idx/c", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("create after the end: %v", err)
	}
	if _, err := b.Open(ctx, "idx/c"); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("it was created all the same: %v", err)
	}
}

func testBackendCreate(t *testing.T, b Backend) {
	var wg sync.WaitGroup
	var winner atomic.Pointer[string]
	for i := range 16 {
		wg.Go(func() {
			text := fmt.Sprintf("writer %d", i)
			err := b.Create(t.Context(), "points/x", []byte(text))
			if err == nil && !winner.CompareAndSwap(nil, &text) {
				t.Error("two won")
			}
			if err != nil && !errors.Is(err, blkbak.ErrExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := readAll(t.Context(), b, "points/x", 100); err != nil || string(got) != *winner.Load() {
		t.Errorf("%q, %v", got, err)
	}
}

func testBackendHold(t *testing.T, b Backend) {
	ctx := t.Context()
	if _, err := b.Hold(ctx, "sess/x"); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("hold on nothing: %v", err)
	}
	if _, err := b.Open(ctx, "sess/x"); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("the hold made the file: %v", err)
	}
	if err := b.Create(ctx, "sess/x", []byte("marker")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		release, err := b.Hold(ctx, "sess/x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Hold(ctx, "sess/x"); !errors.Is(err, blkbak.ErrBusy) {
			t.Errorf("second hold: %v", err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
}

// A hold on a marker that is removed at the same moment must not leave a new,
// empty one behind.
func TestHoldDoesNotMakeFiles(t *testing.T) {
	_, dir := newStore(t)
	b := localDir{dir}
	path := filepath.Join(dir, "sess", "x")
	for range 200 {
		if err := b.Create(t.Context(), "sess/x", []byte("marker")); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { b.Remove(t.Context(), "sess/x") })
		wg.Go(func() {
			release, err := b.Hold(t.Context(), "sess/x")
			if err == nil {
				release()
			} else if !errors.Is(err, blkbak.ErrNotFound) {
				t.Error(err)
			}
		})
		wg.Wait()
		if l, err := b.List(t.Context(), "sess"); err != nil || len(l) > 0 {
			t.Fatalf("left behind: %v, %v, %s", l, err, path)
		}
	}
}

// op is one call of a Backend, as faults see it.
type op struct{ call, name string }

// faulty is a Backend that goes wrong at a given call.
type faulty struct {
	Backend
	mu    sync.Mutex
	calls []op
	at    int   // the call, from 0, that goes wrong; -1 for none
	after bool  // the call is made, and then reported as failed
	dead  bool  // from then on everything fails
	err   error // what failing calls return
	fired bool
}

var errInjected = errors.New("injected fault")

// enter returns what to do about a call: make it or not, and the error to return.
func (f *faulty) enter(call, name string) (do bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.calls)
	f.calls = append(f.calls, op{call, name})
	switch {
	case f.at >= 0 && n == f.at:
		f.fired = true
		return f.after, f.err
	case f.at >= 0 && n > f.at && f.dead:
		return false, f.err
	}
	return true, nil
}

func (f *faulty) Create(ctx context.Context, name string, data ...[]byte) error {
	do, err := f.enter("create", name)
	if do {
		err = errors.Join(f.Backend.Create(ctx, name, data...), err)
	}
	return err
}

func (f *faulty) Remove(ctx context.Context, name string) error {
	do, err := f.enter("remove", name)
	if do {
		err = errors.Join(f.Backend.Remove(ctx, name), err)
	}
	return err
}

func (f *faulty) List(ctx context.Context, dir string) ([]Entry, error) {
	if _, err := f.enter("list", dir); err != nil {
		return nil, err
	}
	return f.Backend.List(ctx, dir)
}

func (f *faulty) Open(ctx context.Context, name string) (Object, error) {
	if _, err := f.enter("open", name); err != nil {
		return nil, err
	}
	o, err := f.Backend.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return &faultyObject{o, f, name}, nil
}

func (f *faulty) Hold(ctx context.Context, name string) (func() error, error) {
	if _, err := f.enter("hold", name); err != nil {
		return nil, err
	}
	return f.Backend.Hold(ctx, name)
}

type faultyObject struct {
	Object
	f    *faulty
	name string
}

func (o *faultyObject) ReadAt(p []byte, off int64) (int, error) {
	if _, err := o.f.enter("read", o.name); err != nil {
		return 0, err
	}
	return o.Object.ReadAt(p, off)
}
