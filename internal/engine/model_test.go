package engine

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/lvm"
)

// TestModel lets many runs meet everything that can happen to a volume and to a
// process, in random order. Whatever happens, a point that is committed holds
// what its snapshot froze, and when things are quiet again the next run works.
func TestModel(t *testing.T) {
	worlds, rounds := 100, 30
	if testing.Short() {
		worlds = 20
	}
	dir := t.TempDir()
	modes := map[blkbak.Mode]int{}
	failed := 0
	for seed := range uint64(worlds) {
		m := &model{world: newWorld(t, dir, 64*worldChunk), r: rand.New(rand.NewPCG(seed, 7)), seed: seed}
		m.write(0, randomBytes(m.r, 20*worldChunk))
		for range rounds {
			m.event()
			mode, err := m.round()
			if err != nil {
				failed++
			} else {
				modes[mode]++
			}
		}
		m.settle()
	}
	t.Logf("%d rounds: %d failed, points by mode: %v", worlds*rounds, failed, modes)
	for _, mode := range []blkbak.Mode{blkbak.ModeFull, blkbak.ModeScan, blkbak.ModeCOW} {
		if modes[mode] < worlds/2 {
			t.Errorf("only %d points by %s: the model does not reach what it is for", modes[mode], mode)
		}
	}
}

// model is a world with a will of its own.
type model struct {
	*world
	r      *rand.Rand
	seed   uint64
	before *world // as it was some time ago
}

// travel takes the host, or the repository, back to what it was before, and
// leaves the other: a hypervisor's snapshot, a backup of the backups. UUIDs that
// were given away stay so.
func (m *model) travel() {
	if m.before == nil || m.chance(40) {
		m.before = m.clone()
		return
	}
	was := m.before.clone()
	if m.chance(60) {
		m.volumes, m.size = was.volumes, max(m.size, was.size)
	} else {
		m.files, m.known = was.files, was.known
	}
}

func (m *model) chance(percent int) bool { return m.r.IntN(100) < percent }

// scribble writes to the origin somewhere.
func (m *model) scribble(most int) {
	n := 1 + m.r.IntN(most*worldChunk)
	size := int(m.origin().Size)
	n = min(n, size)
	m.write(int64(m.r.IntN(size-n+1)), randomBytes(m.r, n))
}

// event is what can happen between two runs.
func (m *model) event() {
	m.Helper()
	for range m.r.IntN(6) {
		m.scribble(3)
	}
	m.inUse = m.chance(8)
	ours := slices.DeleteFunc(m.snapshots(), func(v *volume) bool { return !v.Tagged(lvm.Mark) })
	switch m.r.IntN(20) {
	case 0: // fills small stores
		for range 20 {
			m.scribble(8)
		}
	case 1:
		if len(ours) > 0 {
			delete(m.volumes, ours[m.r.IntN(len(ours))].Name)
		}
	case 2:
		m.resize(m.origin().Size + int64(m.r.IntN(6)*worldChunk))
	case 3: // LVM shrinks no origin
		if len(m.snapshots()) == 0 {
			m.resize(int64(20+m.r.IntN(40)) * worldChunk)
		}
	case 4:
		m.restoreJournal(nil)
	case 5, 6:
		if len(m.journals) > 0 {
			m.restoreJournal(m.journals[m.r.IntN(len(m.journals))])
		}
	case 7:
		if b, err := os.ReadFile(m.journalPath()); err == nil {
			m.restoreJournal(b[:m.r.IntN(len(b))])
		}
	case 8:
		if _, ok := m.volumes["nightly"]; ok {
			delete(m.volumes, "nightly")
		} else {
			m.foreign("nightly", nil)
		}
	case 9: // somebody mounts a snapshot of ours, and its journal is replayed
		if len(ours) > 0 {
			s := ours[m.r.IntN(len(ours))]
			off := m.r.IntN(len(s.data) - 100)
			s.except(int64(off), 100)
			copy(s.data[off:], randomBytes(m.r, 100))
		}
	case 11, 12, 13:
		m.travel()
	case 10: // a merge that waits for the next activation
		if len(ours) > 0 {
			ours[m.r.IntN(len(ours))].Merging = true
		}
	}
}

// round is one run, with or without faults.
func (m *model) round() (blkbak.Mode, error) {
	m.Helper()
	req := Request{Full: m.chance(5)}
	if m.chance(40) {
		req.COWSize = int64(6+m.r.IntN(30)) * worldChunk
	}
	broken := map[int]fault{}
	if m.chance(50) {
		for range 1 + m.r.IntN(3) {
			broken[1+m.r.IntN(22)] = faults[m.r.IntN(len(faults))]
		}
	}
	hit := false
	m.fault = func(n int, _ string) fault {
		f := broken[n]
		hit = hit || f != none
		return f
	}
	resized := false
	m.meanwhile = func() {
		switch {
		case m.chance(10):
			m.scribble(2)
		case m.r.IntN(1000) == 0:
			resized = true
			m.resize(m.origin().Size + worldChunk)
		}
	}
	before := m.base()
	point, _, err := m.run(req)
	m.fault, m.meanwhile = nil, nil
	m.checkPoints()
	switch {
	case m.Failed():
		m.Fatalf("seed %d", m.seed)
	case hit || resized:
	case err == nil && !m.inUse:
		m.checkQuiet(point)
		if point.Mode == blkbak.ModeScan && before != nil && before.Valid {
			m.Fatalf("seed %d: everything was read though %s was whole: %v", m.seed, before.FullName(), point.Warnings)
		}
	case err != nil && !errors.Is(err, errIO) && !errors.Is(err, blkbak.ErrNeedsFull) && !errors.Is(err, blkbak.ErrNoSpace):
		m.Fatalf("seed %d: nothing was broken, and the run says: %v", m.seed, err)
	}
	return point.Mode, err
}

// base is the snapshot that the latest point was read from, if it is fit to be
// the base of the next.
func (m *model) base() *volume {
	cat, store := m.catalog()
	defer store.Close()
	latest, ok := cat.Latest("host/vg/data")
	if !ok || latest.Size != m.origin().Size {
		return nil
	}
	for _, s := range m.snapshots() {
		if s.UUID == latest.Source.SnapshotUUID && !s.Merging {
			return s
		}
	}
	return nil
}

// settle ends the trouble: what is left must be put right by the next run alone,
// and the one after it must be an increment.
func (m *model) settle() {
	m.Helper()
	m.inUse = false
	for i := range 2 {
		p, _, err := m.run(Request{COWSize: 80 * worldChunk})
		if err != nil {
			m.Fatalf("seed %d: quiet run %d: %v", m.seed, i, err)
		}
		m.checkPoints()
		m.checkQuiet(p)
		if i == 1 && p.Mode != blkbak.ModeCOW {
			m.Fatalf("seed %d: the second quiet run is a %s: %v", m.seed, p.Mode, p.Warnings)
		}
		m.scribble(3)
	}
}
