package engine

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/lvm"
)

var update = flag.Bool("update", false, "write the golden files anew")

// scenario is a state that a run can find, and what it makes of it.
type scenario struct {
	name    string
	prepare func(w *world)
	req     Request
	mode    blkbak.Mode
	warns   bool
}

// dieAt makes the next run die after the first step that begins so.
func (w *world) dieAt(step string) {
	w.Helper()
	hit := false
	w.fault = func(_ int, s string) fault {
		if !hit && strings.HasPrefix(s, step) {
			hit = true
			return crashAfter
		}
		return none
	}
	w.run(Request{})
	w.fault = nil
	if !hit {
		w.Fatalf("no step %q", step)
	}
}

func (w *world) mustRun(req Request) {
	w.Helper()
	if _, _, err := w.run(req); err != nil {
		w.Fatal(err)
	}
}

var scenarios = []scenario{
	{name: "first run", prepare: func(w *world) {}, mode: blkbak.ModeFull},
	{name: "increment", prepare: func(w *world) {
		w.mustRun(Request{})
		w.write(5*worldChunk+100, []byte("changed"))
		w.write(20*worldChunk, make([]byte, 3*worldChunk))
	}, mode: blkbak.ModeCOW},
	{name: "nothing changed", prepare: func(w *world) { w.mustRun(Request{}) }, mode: blkbak.ModeCOW},
	{name: "overflow", prepare: func(w *world) {
		w.mustRun(Request{COWSize: 6 * worldChunk})
		w.write(0, randomBytes(rand.New(rand.NewPCG(5, 5)), 10*worldChunk))
	}, mode: blkbak.ModeScan, warns: true},
	{name: "base removed by someone", prepare: func(w *world) {
		w.mustRun(Request{})
		w.write(3*worldChunk, []byte("x"))
		delete(w.volumes, w.snapshots()[0].Name)
	}, mode: blkbak.ModeScan, warns: true},
	{name: "resized", prepare: func(w *world) {
		w.mustRun(Request{})
		w.resize(80 * worldChunk)
	}, mode: blkbak.ModeScan, warns: true},
	{name: "about to be merged", prepare: func(w *world) {
		w.mustRun(Request{})
		w.snapshots()[0].Merging = true
	}, mode: blkbak.ModeScan, warns: true},
	{name: "full asked for", prepare: func(w *world) { w.mustRun(Request{}) }, req: Request{Full: true}, mode: blkbak.ModeFull},
	{name: "died before the journal", prepare: func(w *world) {
		w.mustRun(Request{})
		w.write(3*worldChunk, []byte("x"))
		w.dieAt("lvm create")
		w.write(9*worldChunk, []byte("y"))
	}, mode: blkbak.ModeCOW},
	{name: "died after the journal", prepare: func(w *world) {
		w.mustRun(Request{})
		w.write(3*worldChunk, []byte("x"))
		w.dieAt("journal write")
		w.write(9*worldChunk, []byte("y"))
	}, mode: blkbak.ModeCOW},
	{name: "died after the base was removed", prepare: func(w *world) {
		w.mustRun(Request{})
		w.write(3*worldChunk, []byte("x"))
		w.dieAt("lvm remove")
		w.write(9*worldChunk, []byte("y"))
	}, mode: blkbak.ModeCOW},
	{name: "died twice after the base was removed", prepare: func(w *world) {
		w.mustRun(Request{})
		w.write(3*worldChunk, []byte("x"))
		w.dieAt("lvm remove")
		w.write(9*worldChunk, []byte("y"))
		w.dieAt("lvm remove")
		w.write(11*worldChunk, []byte("z"))
	}, mode: blkbak.ModeCOW},
	{name: "died after the commit", prepare: func(w *world) {
		w.mustRun(Request{})
		w.write(3*worldChunk, []byte("x"))
		w.dieAt("repository create points/")
		w.write(9*worldChunk, []byte("y"))
	}, mode: blkbak.ModeCOW},
	{name: "the old base overflowed after the journal", prepare: func(w *world) {
		w.mustRun(Request{COWSize: 6 * worldChunk})
		w.write(3*worldChunk, []byte("x"))
		w.dieAt("journal write")
		for _, s := range w.snapshots() {
			s.Size = 64 * worldChunk // but for the older one
		}
		w.snapshots()[slices.IndexFunc(w.snapshots(), func(v *volume) bool { return v.UUID == "uuid-2" })].Valid = false
		w.write(9*worldChunk, []byte("y"))
	}, mode: blkbak.ModeCOW},
	{name: "journal damaged", prepare: func(w *world) {
		w.mustRun(Request{})
		w.write(3*worldChunk, []byte("x"))
		w.dieAt("lvm remove")
		b, err := os.ReadFile(w.journalPath())
		if err != nil {
			w.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(w.journalPath(), b, 0o600); err != nil {
			w.Fatal(err)
		}
	}, mode: blkbak.ModeScan, warns: true},
	{name: "half-made snapshot left", prepare: func(w *world) {
		w.mustRun(Request{})
		w.breakNext = true
		w.dieAt("lvm create")
		w.write(9*worldChunk, []byte("y"))
	}, mode: blkbak.ModeCOW},
}

// start makes the scenario's world, each time the same.
func (s scenario) start(t testing.TB, dir string) *world {
	w := newWorld(t, dir, 64*worldChunk)
	r := rand.New(rand.NewPCG(1, 1))
	w.write(0, randomBytes(r, 16*worldChunk))
	w.write(40*worldChunk, randomBytes(r, 3*worldChunk))
	// Snapshots of somebody else, one with our mark for another repository.
	w.foreign("nightly", nil)
	w.foreign("data-blkbak-ffffffff", []string{lvm.Mark, "blkbak.repo=another", "blkbak.volume=host/vg/data"})
	s.prepare(w)
	return w
}

func (w *world) foreign(name string, tags []string) {
	w.add(name, lvm.Volume{Kind: lvm.KindSnapshot, Size: 4 * worldChunk, ChunkSize: worldChunk, Valid: true,
		Origin: "data", OriginUUID: w.origin().UUID, Tags: tags}).data = slices.Clone(w.origin().data)
}

func (w *world) resize(size int64) {
	o := w.origin()
	o.data = append(slices.Clone(o.data[:min(size, o.Size)]), make([]byte, max(0, size-o.Size))...)
	o.Size = size
	w.size = max(w.size, 8*size)
}

// TestSteps holds what a run does, in order, against a golden text.
func TestSteps(t *testing.T) {
	var b strings.Builder
	dir := t.TempDir()
	for _, s := range scenarios {
		w := s.start(t, dir)
		p, plan, err := w.run(s.req)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if p.Mode != s.mode || plan.Mode != s.mode || (len(p.Warnings) > 0) != s.warns {
			t.Errorf("%s: mode %s, plan %s, warnings %q", s.name, p.Mode, plan.Mode, p.Warnings)
		}
		steps := slices.Clone(w.steps)
		w.checkPoints()
		w.checkQuiet(p)
		b.WriteString(script(fmt.Sprintf("%s: %s, %s\n\t%s\n\n", s.name, p.Mode, plan.Reason, strings.Join(steps, "\n\t"))))
	}
	const golden = "testdata/steps.txt"
	got := b.String()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the steps differ from %s; see with -update and git diff:\n%s", golden, got)
	}
}

// TestEveryFault breaks every step of every scenario in every way, and then sees
// that the points are whole and that the next run needs nobody's help.
func TestEveryFault(t *testing.T) {
	runs := 0
	dir := t.TempDir()
	for _, s := range scenarios {
		from := s.start(t, dir)
		from.checkPoints()
		if b, err := os.ReadFile(from.journalPath()); err == nil {
			from.start = b
		}
		w := from.clone()
		w.mustRun(s.req)
		for k, step := range w.steps {
			for _, f := range faults {
				if f == halfMade && !strings.HasPrefix(step, "lvm create") {
					continue // no other step can be half-made
				}
				runs++
				s.breakStep(t, from.clone(), k+1, f)
			}
		}
	}
	t.Logf("%d runs broken", runs)
}

func (s scenario) breakStep(t *testing.T, w *world, k int, f fault) {
	var at string
	var before []string
	for _, v := range w.ours() {
		before = append(before, v.UUID)
	}
	w.fault = func(n int, step string) fault {
		if n == k {
			at = step
			return f
		}
		return none
	}
	_, _, err := w.run(s.req)
	defer func() {
		if t.Failed() {
			t.Fatalf("%s: step %d, %q: %v; the run's error: %v", s.name, k, at, f, err)
		}
	}()
	if at == "" {
		t.Fatalf("%s: step %d did not come", s.name, k)
	}
	if (f == crashBefore || f == crashAfter) && !errors.Is(err, errDead) && !strings.HasPrefix(at, "lvm tag") &&
		!strings.HasPrefix(at, "journal remove") && !strings.HasPrefix(at, "repository remove") {
		t.Errorf("the process died and the run says %v", err)
	}
	w.fault = nil
	w.checkPoints()
	if f != crashBefore && f != crashAfter && !strings.HasPrefix(at, "lvm remove") {
		for _, v := range w.ours() {
			if !slices.Contains(before, v.UUID) && !w.recorded(v.UUID) {
				t.Errorf("%s is left, and no record says what it stands for", v.FullName())
			}
		}
	}
	w.write(50*worldChunk, []byte("after the fault"))
	p, _, err := w.run(Request{})
	if err != nil {
		t.Fatalf("%s: step %d, %q: %v: the next run: %v", s.name, k, at, f, err)
	}
	if s.mode == blkbak.ModeCOW && p.Mode != blkbak.ModeCOW {
		t.Errorf("the next run is a %s: %q", p.Mode, p.Warnings)
	}
	w.checkAll()
	w.checkQuiet(p)
}

// recorded tells whether the journal or the latest point is about the snapshot.
func (w *world) recorded(uuid string) bool {
	w.Helper()
	j, err := os.ReadFile(w.journalPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Fatal(err)
	}
	cat, store := w.catalog()
	defer store.Close()
	latest, _ := cat.Latest("host/vg/data")
	return latest.Source.SnapshotUUID == uuid || strings.Contains(string(j), `"base":"`+uuid+`"`)
}

// TestRolledBack takes a host back to where a run had died, while the repository
// stays: the latest point is of a time that never came. Changes are relative to
// the point that the journal names, in this run and in the one after its death.
func TestRolledBack(t *testing.T) {
	for _, again := range []bool{false, true} {
		w := newWorld(t, t.TempDir(), 64*worldChunk)
		w.write(0, randomBytes(rand.New(rand.NewPCG(1, 1)), 20*worldChunk))
		w.mustRun(Request{})
		w.write(3*worldChunk, []byte("in both times"))
		w.dieAt("lvm remove")
		w.start, _ = os.ReadFile(w.journalPath())
		was := w.clone()
		w.write(5*worldChunk, []byte("in the time that never came"))
		w.mustRun(Request{})
		w.checkPoints()

		w.volumes = was.volumes
		w.restoreJournal(w.start)
		w.write(9*worldChunk, []byte("in the time that came"))
		if again {
			w.dieAt("lvm remove")
			w.write(11*worldChunk, []byte("and went on"))
		}
		p, _, err := w.run(Request{})
		if err != nil || p.Mode != blkbak.ModeCOW {
			t.Errorf("%s, %v", p.Mode, err)
		}
		w.checkAll()
		w.checkQuiet(p)
	}
}

// TestResizedMeanwhile resizes the volume when its size was asked for already:
// nothing can be said of what is behind the old end.
func TestResizedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	for _, at := range []string{"lvm list", "lvm create", "lvm status"} {
		w := newWorld(t, dir, 64*worldChunk)
		w.mustRun(Request{})
		w.write(0, []byte("changed"))
		w.fault = func(_ int, step string) fault {
			if strings.HasPrefix(step, at) && w.origin().Size == 64*worldChunk {
				w.resize(70 * worldChunk)
				copy(w.origin().data[66*worldChunk:], "what was there before")
			}
			return none
		}
		if _, _, err := w.run(Request{}); !errors.Is(err, blkbak.ErrBusy) {
			t.Errorf("resized before %q: error %v", at, err)
		}
		w.fault = nil
		w.checkPoints()
		p, _, err := w.run(Request{})
		if err != nil || p.Mode != blkbak.ModeScan {
			t.Errorf("the run after it: %s, %v", p.Mode, err)
		}
		w.checkPoints()
		w.checkQuiet(p)
	}
}
