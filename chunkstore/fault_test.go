package chunkstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
)

// run is a series of calls that ends at the first error. Lists are named by the
// body of the outcome that publishes them.
type run struct {
	t     *testing.T
	lists map[string][][]byte
	acked map[string]bool
}

// commit makes a session that stores the lists named and commits.
func (r *run) commit(s *Store, body string) error {
	w, err := s.Begin(r.t.Context())
	if err != nil {
		return err
	}
	defer w.Close()
	for name := range strings.SplitSeq(body, "+") {
		for i, b := range r.lists[name] {
			if _, err := w.Put(r.t.Context(), Kind(1+i%2), b); err != nil {
				return err
			}
		}
		if err := w.Flush(r.t.Context()); err != nil {
			return err
		}
	}
	if err := w.Commit(r.t.Context(), []byte(body)); err != nil {
		return err
	}
	r.acked[body] = true
	return nil
}

// abandon makes a session that stores a list and does not commit.
func (r *run) abandon(s *Store, name string) error {
	w, err := s.Begin(r.t.Context())
	if err != nil {
		return err
	}
	defer w.Close()
	put(r.t, w, nil)
	for i, b := range r.lists[name] {
		if _, err := w.Put(r.t.Context(), Kind(1+i%2), b); err != nil {
			return err
		}
	}
	return w.Flush(r.t.Context())
}

// scenario is what a writer does in the tests of faults: it commits, leaves a
// session behind, adopts that, and reads all of it.
func (r *run) scenario(b Backend) error {
	s, err := OpenBackend(r.t.Context(), b, Options{PackSize: 16 << 10})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := r.commit(s, "a"); err != nil {
		return err
	}
	if err := r.abandon(s, "b"); err != nil {
		return err
	}
	if err := r.commit(s, "b+c"); err != nil {
		return err
	}
	for _, x := range slices.Concat(r.lists["a"], r.lists["b"], r.lists["c"]) {
		got, err := s.Get(r.t.Context(), Sum(x), nil)
		if err == nil && !bytes.Equal(got, x) {
			r.t.Fatal("wrong bytes read")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wantSound opens what a fault left as another process does: everything that was
// acknowledged and everything that is visible is whole, and work goes on.
func (r *run) wantSound(m *memFiles, what string) {
	t := r.t
	t.Helper()
	b := m.process()
	defer b.exit()
	s := openMem(t, b)
	outcomes, err := s.Outcomes(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	left := maps.Clone(r.acked)
	for _, o := range outcomes {
		if o.Err != nil {
			t.Fatalf("%s: %v", what, o.Err)
		}
		if !o.Committed {
			continue
		}
		delete(left, string(o.Body))
		for name := range strings.SplitSeq(string(o.Body), "+") {
			wantAll(t, s, r.lists[name])
		}
	}
	if len(left) > 0 {
		t.Fatalf("%s: lost: %v", what, left)
	}
	again := &run{t, r.lists, make(map[string]bool)}
	if err := again.commit(s, "a+b+c+d"); err != nil {
		t.Fatalf("%s: the next run: %v", what, err)
	}
	for name := range r.lists {
		wantAll(t, s, r.lists[name])
	}
	if p := verify(t, s); len(p) > 0 {
		t.Fatalf("%s: problems %v", what, p)
	}
	if l := m.names("sess"); len(l) > 0 {
		t.Fatalf("%s: markers left: %v", what, l)
	}
}

func newRun(t *testing.T) *run {
	return &run{t, map[string][][]byte{"a": objects(21, 12), "b": objects(22, 12), "c": objects(23, 12), "d": objects(24, 3)}, make(map[string]bool)}
}

// Every call that a writer makes of its backend goes wrong in turn: by failing
// once, by failing as all do after it, by the death of the process before or
// after it took effect.
func TestEveryCallFails(t *testing.T) {
	base := newMem()
	initMem(t, base)
	dry := &faulty{Backend: (&memFiles{files: maps.Clone(base.files), holds: map[string]*memBackend{}}).process(), at: -1}
	if err := newRun(t).scenario(dry); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls", len(dry.calls))
	if len(dry.calls) < 100 {
		t.Fatalf("the scenario makes %d calls", len(dry.calls))
	}
	for _, mode := range []struct {
		name        string
		after, dead bool
	}{{"fails", false, false}, {"fails after it took effect", true, false}, {"dies before", false, true}, {"dies after", true, true}} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			for n := range dry.calls {
				m := &memFiles{files: maps.Clone(base.files), holds: map[string]*memBackend{}}
				p := m.process()
				f := &faulty{Backend: p, at: n, after: mode.after, dead: mode.dead, err: errInjected}
				r := newRun(t)
				err := r.scenario(f)
				what := fmt.Sprintf("call %d, %s %s", n, dry.calls[n].call, dry.calls[n].name)
				if !f.fired {
					t.Fatalf("%s: never made", what)
				}
				if mode.dead && err == nil && n < len(dry.calls)-1 {
					t.Fatalf("%s: nothing failed in a dead process", what)
				}
				p.exit()
				r.wantSound(m, what)
			}
		})
	}
}

// A process dies at each of its calls with a session open, while another one has
// one open too and goes on.
func TestDeathBesideALivingSession(t *testing.T) {
	base := newMem()
	initMem(t, base)
	for n := 0; ; n++ {
		m := &memFiles{files: maps.Clone(base.files), holds: map[string]*memBackend{}}
		living := openMem(t, m.process())
		w := begin(t, living)
		mine := objects(31, 10)
		put(t, w, mine)

		p := m.process()
		f := &faulty{Backend: p, at: n, after: n%2 == 0, dead: true, err: errInjected}
		r := newRun(t)
		r.scenario(f)
		p.exit()

		third := openMem(t, m.process())
		if err := r.commit(third, "a+b"); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context(), nil); err != nil {
			t.Fatalf("call %d: the living session: %v", n, err)
		}
		w.Close()
		wantAll(t, third, mine)
		r.wantSound(m, fmt.Sprintf("call %d", n))
		if !f.fired {
			return
		}
	}
}

// Making the index anew may die anywhere, and is done again.
func TestRebuildDiesAnywhere(t *testing.T) {
	for n := 0; ; n++ {
		m := newMem()
		initMem(t, m)
		r := newRun(t)
		s := openMem(t, m.process())
		if err := errors.Join(r.commit(s, "a"), r.commit(s, "b+c")); err != nil {
			t.Fatal(err)
		}
		segments := m.names("idx")
		delete(m.files, segments[0])
		bad := bytes.Clone(m.files[segments[1]])
		bad[len(bad)/2] ^= 4
		m.files[segments[1]] = bad

		p := m.process()
		f := &faulty{Backend: p, at: n, after: n%2 == 0, dead: true, err: errInjected}
		if s, err := OpenBackend(t.Context(), f, Options{}); err == nil {
			if _, err = s.RebuildIndex(t.Context()); err == nil && f.fired && n < len(f.calls)-1 {
				t.Fatalf("call %d: nothing failed in a dead process", n)
			}
			s.Close()
		}
		p.exit()
		last := openMem(t, m.process())
		if _, err := last.RebuildIndex(t.Context()); err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
		r.wantSound(m, fmt.Sprintf("call %d", n))
		if !f.fired {
			t.Logf("%d calls", n)
			return
		}
	}
}

// What a pack held that is gone is stored again after the index was made anew.
func TestLostPackIsStoredAgain(t *testing.T) {
	m := newMem()
	initMem(t, m)
	r := newRun(t)
	s := openMem(t, m.process())
	if err := errors.Join(r.commit(s, "a"), r.commit(s, "b")); err != nil {
		t.Fatal(err)
	}
	delete(m.files, m.names("packs")[0])
	problems := verify(t, openMem(t, m.process()))
	if len(problems) != 1 || problems[0].Kind != "pack" {
		t.Errorf("problems: %v", problems)
	}
	if _, err := s.RebuildIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := verify(t, s); len(p) > 0 {
		t.Errorf("problems after the index was made anew: %v", p)
	}
	if err := r.commit(s, "a+b"); err != nil {
		t.Fatal(err)
	}
	r.wantSound(m, "lost pack")
}

// Without the outcome of a session, what others rest on stays visible, and the
// loss is reported until the index is made anew.
func TestLostOutcome(t *testing.T) {
	m := newMem()
	initMem(t, m)
	r := newRun(t)
	s := openMem(t, m.process())
	if err := errors.Join(r.commit(s, "a"), r.commit(s, "a+b")); err != nil {
		t.Fatal(err)
	}
	var first string
	for _, name := range m.names("points") {
		id, _ := blkbak.ParsePointID(name[len("points/"):])
		if o, _ := s.Outcome(t.Context(), id); string(o.Body) == "a" {
			first = name
		}
	}
	delete(m.files, first)
	delete(r.acked, "a")
	s = openMem(t, m.process())
	wantAll(t, s, r.lists["a"])
	if p := verify(t, s); len(p) != 1 || p[0].Kind != "point" || p[0].File != first {
		t.Errorf("problems: %v, want one with %s", p, first)
	}
	if n, err := s.RebuildIndex(t.Context()); err != nil || n == 0 {
		t.Errorf("rebuilt from %d packs, %v", n, err)
	}
	if p := verify(t, s); len(p) > 0 {
		t.Errorf("problems after: %v", p)
	}
	r.wantSound(m, "lost outcome")
}
