package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/blkbak/blkbak"
)

// newStore makes a repository with small packs.
func newStore(t testing.TB) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	if _, err := Init(t.Context(), dir, 0); err != nil {
		t.Fatal(err)
	}
	return reopen(t, dir), dir
}

func reopen(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir, Options{PackSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// objects makes n plaintexts: text, noise and short ones, all different.
func objects(seed uint64, n int) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([][]byte, n)
	for i := range out {
		b := make([]byte, 1+r.IntN(8<<10))
		switch i % 3 {
		case 0:
			copy(b, strings.Repeat(fmt.Sprintf("object %d of seed %d, ", i, seed), 400))
			b = append(b, byte(i), byte(i>>8))
		default:
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			b = append(b, fmt.Sprint(seed, i)...)
		}
		out[i] = b
	}
	return out
}

func begin(t testing.TB, s *Store) *Session {
	t.Helper()
	w, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func put(t testing.TB, w *Session, list [][]byte) {
	t.Helper()
	for i, b := range list {
		kind := KindData
		if i%5 == 0 {
			kind = KindNode
		}
		if id, err := w.Put(t.Context(), kind, b); err != nil || id != Sum(b) {
			t.Fatalf("put %d: %v, %v", i, id, err)
		}
	}
}

// store puts list in a session of its own and commits it.
func store(t testing.TB, s *Store, body string, list [][]byte) blkbak.PointID {
	t.Helper()
	w := begin(t, s)
	put(t, w, list)
	if err := w.Commit(t.Context(), []byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.ID()
}

type getter interface {
	Get(context.Context, ID, []byte) ([]byte, error)
}

func wantAll(t testing.TB, g getter, list [][]byte) {
	t.Helper()
	for i, b := range list {
		got, err := g.Get(t.Context(), Sum(b), nil)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("object %d of %d bytes: %d bytes, %v", i, len(b), len(got), err)
		}
	}
}

func verify(t testing.TB, s *Store) []Problem {
	t.Helper()
	var list []Problem
	if _, err := s.Verify(t.Context(), VerifyOptions{ReadData: true, Report: func(p Problem) { list = append(list, p) }}); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestRoundTrip(t *testing.T) {
	s, dir := newStore(t)
	list := objects(1, 300)
	w := begin(t, s)
	put(t, w, list)
	wantAll(t, w, list) // before anything is flushed
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAll(t, w, list)
	if s.Has(Sum(list[0])) {
		t.Error("visible before the commit")
	}
	if err := w.Commit(t.Context(), []byte("the body")); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, list) // refreshes by itself
	again := reopen(t, dir)
	wantAll(t, again, list)
	if o, err := again.Outcome(t.Context(), w.ID()); err != nil || !o.Committed || string(o.Body) != "the body" {
		t.Errorf("outcome %+v, %v", o, err)
	}
	if p := verify(t, again); len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "sess")); len(left) > 0 {
		t.Errorf("session markers left: %v", left)
	}
	if _, err := s.Get(t.Context(), ID{1}, nil); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("unknown object: %v", err)
	}
}

func TestNothingIsStoredTwice(t *testing.T) {
	s, dir := newStore(t)
	list := objects(2, 100)
	store(t, s, "a", list)
	before := files(t, dir, "packs")
	w := begin(t, s)
	put(t, w, list)
	put(t, w, list)
	if err := w.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if st := w.Stats(); st.Data.New+st.Nodes.New != 0 || st.Data.Reused+st.Nodes.Reused != 200 {
		t.Errorf("stats %+v", st)
	}
	if after := files(t, dir, "packs"); !slices.Equal(before, after) {
		t.Errorf("packs %v, then %v", before, after)
	}
}

func TestConcurrentPrepare(t *testing.T) {
	s, _ := newStore(t)
	s.segmentEntries = 50 // look up in the session's own segments too
	list := objects(3, 400)
	w := begin(t, s)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var buf []byte
			for _, b := range list {
				p := w.Prepare(KindData, Sum(b), b, buf)
				if err := w.Append(t.Context(), p); err != nil {
					t.Error(err)
				}
				buf = p.Buffer()
			}
		})
	}
	wg.Wait()
	if st := w.Stats(); st.Data.New != 400 || st.Data.Reused != 7*400 {
		t.Errorf("stats %+v", st)
	}
	wantAll(t, w, list)
	if err := w.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, list)
}

// A session that ends without a commit is adopted by the next one: what it wrote
// is not written again.
func TestAdoption(t *testing.T) {
	s, dir := newStore(t)
	list := objects(4, 200)
	for range 3 { // adopters die as well
		w := begin(t, s)
		put(t, w, list)
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	packs := files(t, dir, "packs")
	if reopen(t, dir).Has(Sum(list[0])) {
		t.Error("objects of a dead session are visible")
	}
	w := begin(t, s)
	put(t, w, list)
	if st := w.Stats(); st.Data.New+st.Nodes.New != 0 {
		t.Errorf("stored again: %+v", st)
	}
	wantAll(t, w, list)
	if err := w.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	wantAll(t, reopen(t, dir), list)
	if got := files(t, dir, "packs"); !slices.Equal(got, packs) {
		t.Errorf("packs %v, then %v", packs, got)
	}
	if left := files(t, dir, "sess"); len(left) > 0 {
		t.Errorf("markers left: %v", left)
	}
	if len(files(t, dir, "idx")) != 1 {
		t.Errorf("segments: %v", files(t, dir, "idx"))
	}
	if p := verify(t, s); len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
}

func TestLiveSessionIsLeftAlone(t *testing.T) {
	s, _ := newStore(t)
	a := begin(t, s)
	put(t, a, objects(5, 50))
	b := begin(t, s)
	if len(b.dead) != 0 {
		t.Error("a live session was taken for dead")
	}
	for _, w := range []*Session{a, b} {
		if err := w.Commit(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
}

func TestRevokedSessionCannotCommit(t *testing.T) {
	s, _ := newStore(t)
	w := begin(t, s)
	put(t, w, objects(6, 10))
	if err := s.backend.Create(t.Context(), outcomeName(w.ID()), seal(sealRevoked, nil)...); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), nil); !errors.Is(err, ErrRevoked) || !errors.Is(err, blkbak.ErrBusy) {
		t.Errorf("commit of a revoked session: %v", err)
	}
}

// Many commits leave many segments: they are merged in the cache, and nothing
// but speed depends on it.
func TestMergedCache(t *testing.T) {
	s, dir := newStore(t)
	var all [][]byte
	for i := range 3 * smallSegments {
		list := objects(uint64(100+i), 7)
		store(t, s, "", list)
		all = append(all, list...)
	}
	s = reopen(t, dir)
	if n := len(s.view.segments); n > smallSegments+1 {
		t.Errorf("%d segments in use", n)
	}
	wantAll(t, s, all)

	path := s.mergedPath()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		bad := slices.Clone(good)
		bad[len(bad)*i/40] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		wantAll(t, reopen(t, dir), all)
	}
}

func TestRebuildIndex(t *testing.T) {
	s, dir := newStore(t)
	a, b := objects(7, 60), objects(8, 60)
	store(t, s, "a", a)
	store(t, s, "b", b)
	segments := files(t, dir, "idx")
	if err := os.Remove(filepath.Join(dir, segments[0])); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(dir, segments[1]), 200)
	s = reopen(t, dir)
	if _, err := s.Get(t.Context(), Sum(a[0]), nil); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("without an index: %v", err)
	}
	if n, err := s.RebuildIndex(t.Context()); err != nil || n == 0 {
		t.Fatalf("rebuilt from %d packs, %v", n, err)
	}
	wantAll(t, s, append(a, b...))
	if p := verify(t, s); len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
	if n, err := s.RebuildIndex(t.Context()); n != 0 || err != nil {
		t.Errorf("a second time: %d packs, %v", n, err)
	}
}

func TestInit(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, blkbak.ErrNotFound) || blkbak.Hint(err) == "" {
		t.Errorf("open before init: %v", err)
	}
	for _, size := range []int64{-1, 1, 4095, 5000, MaxObject * 2} {
		if _, err := Init(t.Context(), dir, size); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("chunk size %d: %v", size, err)
		}
	}
	if _, err := Init(t.Context(), dir, 8192); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), dir, 8192); !errors.Is(err, blkbak.ErrExists) {
		t.Errorf("second init: %v", err)
	}
	if s := reopen(t, dir); s.Config().ChunkSize != 8192 || s.Config().ID.IsZero() {
		t.Errorf("config %+v", s.Config())
	}
	// What an interrupted Init and a new filesystem leave is no obstacle.
	begun := t.TempDir()
	for _, d := range []string{"packs", "lost+found"} {
		os.Mkdir(filepath.Join(begun, d), 0o700)
	}
	os.WriteFile(filepath.Join(begun, ".tmp-1"), []byte("half"), 0o600)
	if _, err := Init(t.Context(), begun, 0); err != nil {
		t.Error(err)
	}
	foreign := t.TempDir()
	os.Mkdir(filepath.Join(foreign, "photos"), 0o700)
	if _, err := Init(t.Context(), foreign, 0); !errors.Is(err, blkbak.ErrExists) {
		t.Errorf("init among other directories: %v", err)
	}
	full := t.TempDir()
	os.WriteFile(filepath.Join(full, "precious"), nil, 0o600)
	if _, err := Init(t.Context(), full, 0); !errors.Is(err, blkbak.ErrExists) {
		t.Errorf("init in a directory with files: %v", err)
	}
}

// A config with a sound checksum and senseless content.
func TestHostileConfig(t *testing.T) {
	for _, body := range []string{
		"", "null", "{}", "[]", `{"id":"0123456789abcdef","chunk_size":0}`, `{"id":"0123456789abcdef","chunk_size":-4096}`,
		`{"id":"0123456789abcdef","chunk_size":4097}`, `{"id":"","chunk_size":4096}`, `{"id":"x","chunk_size":4096}`,
	} {
		m := newMem()
		m.files["config"] = bytes.Join(seal(sealConfig, []byte(body)), nil)
		if _, err := OpenBackend(t.Context(), m.process(), Options{}); !errors.Is(err, blkbak.ErrCorrupt) {
			t.Errorf("%s: %v", body, err)
		}
	}
	m := newMem()
	m.files["config"] = bytes.Join(seal(sealConfig, []byte(`{"id":"0123456789abcdef","chunk_size":4096,"features":["future"]}`)), nil)
	if _, err := OpenBackend(t.Context(), m.process(), Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("unknown feature: %v", err)
	}
}

func files(t testing.TB, dir, sub string) []string {
	t.Helper()
	names, err := os.ReadDir(filepath.Join(dir, sub))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, n := range names {
		list = append(list, sub+"/"+n.Name())
	}
	return list
}

func flip(t testing.TB, path string, off int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
