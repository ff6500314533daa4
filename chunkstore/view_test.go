package chunkstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/blkbak/blkbak"
)

// Closing a store under readers makes them fail, not the process.
func TestCloseUnderReaders(t *testing.T) {
	s, dir := newStore(t)
	list := objects(41, 40)
	store(t, s, "", list)
	for range 20 {
		s := reopen(t, dir)
		var wg sync.WaitGroup
		started := make(chan struct{}, 4)
		for range cap(started) {
			wg.Go(func() {
				for i := 0; ; i++ {
					b := list[i%len(list)]
					s.Has(Sum(b))
					if _, err := s.Get(context.Background(), Sum(b), nil); err != nil {
						if !errors.Is(err, errClosed) {
							t.Error(err)
						}
						return
					}
					if i == 0 {
						started <- struct{}{}
					}
				}
			})
		}
		<-started
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := s.Refresh(t.Context()); !errors.Is(err, errClosed) {
			t.Errorf("refresh after the end: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	}
}

// mappings counts what this process has mapped of files below dir.
func mappings(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip("no /proc here")
	}
	return strings.Count(string(b), dir)
}

// A store that lives long and looks again at each commit of others keeps what it
// needs and nothing of what it needed, while readers are at work.
func TestRefreshKeepsNothingOld(t *testing.T) {
	writer, dir := newStore(t)
	reader := reopen(t, dir)
	first := objects(42, 3)
	store(t, writer, "", first)
	if err := reader.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				if !reader.Has(Sum(first[0])) {
					t.Error("an object vanished")
					return
				}
				runtime.Gosched()
			}
		})
	}
	for i := range 6 * smallSegments {
		list := objects(uint64(1000+i), 2)
		store(t, writer, "", list)
		wantAll(t, reader, list) // a miss, so it looks again
		if n, limit := len(reader.view.segments), smallSegments+1; n > limit {
			t.Fatalf("%d segments in use", n)
		}
	}
	stop.Store(true)
	wg.Wait()
	// Both stores, each with its packs read and its segments mapped.
	if n, limit := mappings(t, dir), 2*(smallSegments+1); n > limit {
		t.Errorf("%d mappings, more than %d", n, limit)
	}
	if err := errors.Join(reader.Close(), writer.Close()); err != nil {
		t.Fatal(err)
	}
	if n := mappings(t, dir); n > 0 {
		t.Errorf("%d mappings left", n)
	}
}

// Looking again without news opens nothing and reads no outcome twice.
func TestRefreshWithoutNews(t *testing.T) {
	m := newMem()
	initMem(t, m)
	r := newRun(t)
	if err := errors.Join(r.commit(openMem(t, m.process()), "a"), r.commit(openMem(t, m.process()), "b")); err != nil {
		t.Fatal(err)
	}
	f := &faulty{Backend: m.process(), at: -1}
	s := openMem(t, f)
	f.calls = nil
	for range 3 {
		if _, err := s.Get(t.Context(), ID{1}, nil); !errors.Is(err, blkbak.ErrNotFound) {
			t.Fatal(err)
		}
	}
	for _, c := range f.calls {
		if c.call != "list" {
			t.Errorf("%s %s", c.call, c.name)
		}
	}
}

// A mapped file that became shorter raises a signal when it is read. That is an
// unusable segment, not the end of the process.
func TestUnreadableMapping(t *testing.T) {
	s, dir := newStore(t)
	list := objects(43, 5)
	store(t, s, "", list)
	s = reopen(t, dir)
	path := filepath.Join(dir, files(t, dir, "idx")[0])
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.view.segments[0].check(); !errors.Is(err, blkbak.ErrCorrupt) {
		if err == nil && runtime.GOOS == "windows" {
			t.Skip("files are not mapped here")
		}
		t.Errorf("check: %v", err)
	}
	if s.Has(Sum(list[0])) {
		t.Error("found in what cannot be read")
	}
	if _, err := s.Get(t.Context(), Sum(list[0]), nil); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, list)
}

// A damaged cache of the index is found when an object cannot be had, and is read
// whole only once for all objects that are damaged themselves.
func TestMergedCacheIsSuspectedOnce(t *testing.T) {
	s, dir := newStore(t)
	for i := range 2 * smallSegments {
		store(t, s, "", objects(uint64(200+i), 2))
	}
	victim := objects(200, 2)[1]
	for _, pack := range s.Files(Sum(victim)) {
		flip(t, filepath.Join(dir, pack), packHeaderSize+frameHeaderSize)
	}
	s = reopen(t, dir)
	if s.view.merged == nil {
		t.Fatal("nothing is merged")
	}
	before := s.view.merged
	for range 3 {
		if _, err := s.Get(t.Context(), Sum(victim), nil); !errors.Is(err, blkbak.ErrCorrupt) {
			t.Errorf("damaged object: %v", err)
		}
	}
	if s.view.merged != before || !before.trusted {
		t.Error("a sound cache was made anew")
	}
}

// Sessions that begin at the same moment do not take each other for dead.
func TestSessionsBeginAtOnce(t *testing.T) {
	_, dir := newStore(t)
	var wg sync.WaitGroup
	for i := range 8 {
		s := reopen(t, dir)
		wg.Go(func() {
			for range 5 {
				w, err := s.Begin(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := w.Put(t.Context(), KindData, []byte{byte(i), 1}); err != nil {
					t.Error(err)
				}
				if err := w.Commit(t.Context(), nil); err != nil {
					t.Error(err)
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left := files(t, dir, "sess"); len(left) > 0 {
		// Markers of sessions that were taken over before they began.
		w := begin(t, reopen(t, dir))
		if err := w.Commit(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	if left := files(t, dir, "sess"); len(left) > 0 {
		t.Errorf("markers left: %v", left)
	}
	if p := verify(t, reopen(t, dir)); len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
}

// The remains of an interrupted run that cannot be read keep no one from working.
func TestUnreadableRemains(t *testing.T) {
	m := newMem()
	initMem(t, m)
	r := newRun(t)
	if err := r.abandon(openMem(t, m.process()), "a"); err != nil {
		t.Fatal(err)
	}
	pack := m.names("packs")[0]
	m.files[pack] = m.files[pack][:len(m.files[pack])-1]
	var reported []error
	s, err := OpenBackend(t.Context(), m.process(), Options{Report: func(err error) { reported = append(reported, err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := r.commit(s, "a+b"); err != nil {
		t.Fatal(err)
	}
	if len(reported) != 1 {
		t.Errorf("reported: %v", reported)
	}
	wantAll(t, s, r.lists["a"])
}

// Adopting the work of a long run takes bounded memory.
func TestAdoptionIsBounded(t *testing.T) {
	m := newMem()
	initMem(t, m)
	r := newRun(t)
	r.lists["a"] = objects(44, 300)
	if err := r.abandon(openMem(t, m.process()), "a"); err != nil {
		t.Fatal(err)
	}
	s := openMem(t, m.process())
	s.segmentEntries = 20
	w := begin(t, s)
	if len(w.fresh) > 2*s.segmentEntries || w.pendingEntries() > 2*s.segmentEntries {
		t.Errorf("%d objects in memory, %d to be indexed", len(w.fresh), w.pendingEntries())
	}
	put(t, w, r.lists["a"])
	if st := w.Stats(); st.Data.New+st.Nodes.New > 0 {
		t.Errorf("stored again: %+v", st)
	}
	wantAll(t, w, r.lists["a"])
	if err := w.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, r.lists["a"])
}
