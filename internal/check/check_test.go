package check

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

func copyDir(t testing.TB, m memory, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		m[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

var allPoints = []int{0, 1, 2}

func TestSoundRepository(t *testing.T) {
	s := newSample(t)
	for _, read := range []bool{false, true} {
		rep, err := Run(t.Context(), s.open(t), Options{ReadData: read})
		if err != nil || !rep.OK || rep.Points != 3 || rep.Objects == 0 || (rep.Bytes > 0) != read {
			t.Errorf("read data %v: %+v, %v", read, rep, err)
		}
	}
	if e := s.examine(t, "sound"); e.found || !slices.Equal(e.whole, allPoints) {
		t.Errorf("%+v", e)
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		t.Logf("%5d %s", len(s.files[name]), name)
		size += len(s.files[name])
	}
	if size > 32<<10 {
		t.Errorf("%d bytes are too many for the tests of damage", size)
	}
}

// each calls f with every file, several at a time, and with numbers below the
// count for it.
func each(t *testing.T, s sample, count func(name string) int, f func(name string, i int)) {
	todo := make(chan func())
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for work := range todo {
				work()
			}
		})
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		for i := range count(name) {
			todo <- func() { f(name, i) }
		}
	}
	close(todo)
	wg.Wait()
}

// Every changed bit of every file is found, no wrong byte is ever read, and a
// point that the report does not name restores whole.
func TestEveryBitFlip(t *testing.T) {
	s := newSample(t)
	step := 1
	if testing.Short() {
		step = 11
	}
	each(t, s, func(name string) int { return len(s.files[name]) * 8 / step }, func(name string, i int) {
		bit := i * step
		b := slices.Clone(s.files[name])
		b[bit/8] ^= 1 << (bit % 8)
		what := fmt.Sprintf("%s bit %d of byte %d", name, bit%8, bit/8)
		e := s.damaged(name, b).examine(t, what)
		if !e.found {
			t.Errorf("%s: not found", what)
		}
		if strings.HasPrefix(name, "points/") && len(e.whole) < 2 {
			t.Errorf("%s: a point's file is about that point alone, whole are %v", what, e.whole)
		}
	})
}

// Every file is cut at every length.
func TestEveryTruncation(t *testing.T) {
	s := newSample(t)
	each(t, s, func(name string) int { return len(s.files[name]) }, func(name string, n int) {
		what := fmt.Sprintf("%s cut to %d bytes", name, n)
		if e := s.damaged(name, s.files[name][:n:n]).examine(t, what); !e.found {
			t.Errorf("%s: not found", what)
		}
	})
}

// Every file is deleted, is appended to, and takes the place of every other one.
func TestDeletedAndSwappedFiles(t *testing.T) {
	s := newSample(t)
	for name := range s.files {
		d := s.damaged(name, nil)
		if strings.HasPrefix(name, "points/") {
			// The point is gone, with its name; the others are not touched by it.
			d.points = slices.DeleteFunc(slices.Clone(s.points), func(v version) bool { return "points/"+v.point.ID.String() == name })
		}
		e := d.examine(t, name+" deleted")
		if !e.found {
			t.Errorf("%s deleted: not found", name)
		}
		if strings.HasPrefix(name, "points/") && len(e.whole) != 2 {
			t.Errorf("%s deleted: whole are %v", name, e.whole)
		}
		if e := s.damaged(name, append(slices.Clone(s.files[name]), 0)).examine(t, name+" appended to"); !e.found {
			t.Errorf("%s appended to: not found", name)
		}
		for other, b := range s.files {
			if other == name {
				continue
			}
			if e := s.damaged(name, b).examine(t, name+" is "+other); !e.found {
				t.Errorf("%s is %s: not found", name, other)
			}
		}
	}
}

// The report names the points that damage affects, and no others.
func TestAffectedPoints(t *testing.T) {
	s := newSample(t)
	store := s.open(t)
	chunk := func(v version, i int) chunkstore.ID { return chunkstore.Sum(v.disk[i*testChunk:][:testChunk]) }
	for _, c := range []struct {
		what     string
		id       chunkstore.ID
		affected []int
	}{
		{"a chunk of all points", chunk(s.points[0], 0), []int{0, 1, 2}},
		{"a chunk that the last point does not have", chunk(s.points[0], 20), []int{0, 1}},
		{"a chunk that came with the second point", chunk(s.points[1], 3), []int{1, 2}},
		{"a chunk of the last point", chunk(s.points[2], 65), []int{2}},
		{"the root of the second point", s.points[1].point.Root, []int{1}},
	} {
		packs := store.Files(c.id)
		if len(packs) != 1 {
			t.Fatalf("%s is in %v", c.what, packs)
		}
		d := sample{maps.Clone(s.files), s.points}
		d.files[packs[0]] = breakObject(t, s.files[packs[0]], c.id)
		e := d.examine(t, c.what)
		if !e.found || !slices.Equal(e.affected, c.affected) || len(e.whole) != 3-len(c.affected) {
			t.Errorf("%s: %+v, want affected %v", c.what, e, c.affected)
		}
	}
}

// breakObject changes a byte of the object in a pack. Where it is the test knows
// from the table, whose entries are 48 bytes: name, then offset.
func breakObject(t *testing.T, pack []byte, id chunkstore.ID) []byte {
	t.Helper()
	at := strings.LastIndex(string(pack), string(id[:]))
	if at < 0 {
		t.Fatal("not in the pack")
	}
	off := int(pack[at+32]) | int(pack[at+33])<<8 | int(pack[at+34])<<16
	b := slices.Clone(pack)
	b[off+20] ^= 0x55
	return b
}

// A point that says another size than its map has is found out.
func TestPointAgainstItsMap(t *testing.T) {
	s := newSample(t)
	w, err := s.open(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := s.points[2].point
	p.ID, p.Size, p.Number = w.ID(), p.Size-1, 4
	p.Parent, p.Previous = blkbak.PointID{}, chunkstore.ID{}
	body, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), body); err != nil {
		t.Fatal(err)
	}
	rep, err := Run(t.Context(), s.open(t), Options{})
	if err != nil || len(rep.Errors) != 1 || rep.Errors[0].Kind != "point" || !slices.Equal(rep.Errors[0].Points, []blkbak.PointID{p.ID}) {
		t.Errorf("%+v, %v", rep, err)
	}
}

// A damaged copy is reported, and affects no point while another one is good.
func TestSecondCopy(t *testing.T) {
	s := newSample(t)
	// Two writers at the same time store the same chunk.
	twin := sample{maps.Clone(s.files), nil}
	other := make([]byte, testChunk)
	copy(other, "both have it")
	one := sample{maps.Clone(s.files), nil}
	twin.commit(t, other)
	one.commit(t, other)
	maps.Copy(twin.files, one.files)
	store := twin.open(t)
	packs := store.Files(chunkstore.Sum(other))
	if len(packs) != 2 {
		t.Fatalf("copies in %v", packs)
	}
	d := twin.damaged(packs[0], breakObject(t, twin.files[packs[0]], chunkstore.Sum(other)))
	e := sample{d.files, append(twin.points, one.points...)}.examine(t, "one copy")
	if !e.found || len(e.affected) != 0 || len(e.whole) != 2 {
		t.Errorf("%+v", e)
	}
}
