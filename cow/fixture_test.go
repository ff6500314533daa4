package cow

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/klauspost/compress/zstd"
)

// fixtureDir holds the cases; another collection of the same form can be named.
func fixtureDir() string {
	if d := os.Getenv("BLKBAK_COW_FIXTURES"); d != "" {
		return d
	}
	return "testdata"
}

type storeFacts struct {
	Header *struct {
		Valid   uint32
		Version uint32
	}
	ChunkBytes int64 `json:"chunk_bytes"`
	Exceptions int64
	AreasRead  int64 `json:"areas_read"`
}

type caseFacts struct {
	SnapSHA256  string `json:"snap_sha256"`
	Snap2SHA256 string `json:"snap2_sha256"`
	COW, COW2   *storeFacts
	COWBefore   *storeFacts
	Images      map[string]struct {
		Bytes  int64
		SHA256 string
	}
	dir, name string
}

func loadCases(t testing.TB) []caseFacts {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(fixtureDir(), "*", "case.json"))
	if err != nil || len(files) < 30 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	var out []caseFacts
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var c caseFacts
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(f, err)
		}
		c.dir = filepath.Dir(f)
		c.name = filepath.Base(c.dir)
		out = append(out, c)
	}
	return out
}

// unpack returns the content of a packed image, and nil if it is not kept.
func unpack(t testing.TB, dir, name string) memory {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, name+".zst"))
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
		t.Fatal(f.Name(), err)
	}
	return b
}

func readExceptions(t *testing.T, path string) []entry {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []entry
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var e entry
		if _, err := fmt.Sscanf(sc.Text(), "%d\t%d", &e.old, &e.new); err != nil {
			t.Fatalf("%s: %q: %v", path, sc.Text(), err)
		}
		out = append(out, e)
	}
	return out
}

// readChanged returns ranges of chunks as extents.
func readChanged(t *testing.T, path string, chunk, size int64) []blkbak.Extent {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []blkbak.Extent
	for _, w := range strings.Fields(string(b)) {
		var from, to int64
		if n, _ := fmt.Sscanf(w, "%d-%d", &from, &to); n == 1 {
			to = from
		} else if n != 2 {
			t.Fatalf("%s: %q", path, w)
		}
		out = append(out, blkbak.Extent{Off: from * chunk, Len: min((to+1)*chunk, size) - from*chunk})
	}
	return out
}

// covers tells whether every byte of b is in a. Both are sorted.
func covers(a, b []blkbak.Extent) bool {
	both := blkbak.MergeExtents(slices.Concat(a, b))
	return blkbak.ExtentBytes(both) == blkbak.ExtentBytes(a)
}

func sha(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestFixtures reads every store that a real kernel left in testdata as its
// manifest says, with and without knowing the number of areas.
func TestFixtures(t *testing.T) {
	for _, c := range loadCases(t) {
		for name, facts := range map[string]*storeFacts{"cow": c.COW, "cow2": c.COW2, "cowbefore": c.COWBefore} {
			if facts != nil {
				t.Run(c.name+"/"+name, func(t *testing.T) { checkFixture(t, c, name, facts) })
			}
		}
	}
}

func checkFixture(t *testing.T, c caseFacts, name string, facts *storeFacts) {
	img := unpack(t, c.dir, name)
	size := int64(len(img))
	if size != c.Images[name].Bytes {
		t.Fatalf("%d bytes", size)
	}
	opts := Options{OriginSize: c.Images["t0"].Bytes}
	r := &direct{ReaderAt: img, align: pageSize}
	s, err := Read(t.Context(), r, size, opts)
	if facts.Header == nil || facts.Header.Valid == 0 {
		if !errors.Is(err, blkbak.ErrNeedsFull) || errors.Is(err, blkbak.ErrCorrupt) {
			t.Fatalf("store without validity: %v", err)
		}
		if facts.Header == nil {
			return
		}
		opts.Inspect = true
		s, err = Read(t.Context(), r, size, opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.Header.Valid != facts.Header.Valid || s.Header.ChunkSize() != facts.ChunkBytes ||
		s.Exceptions != facts.Exceptions || s.Areas != facts.AreasRead {
		t.Errorf("header %+v, %d exceptions, %d areas; want %+v", s.Header, s.Exceptions, s.Areas, facts)
	}
	want := readExceptions(t, filepath.Join(c.dir, name+".exceptions.tsv"))
	if got := tableOf(t, s); !slices.Equal(got, want) {
		t.Errorf("exceptions differ")
	}
	extents := s.Extents()
	if !slices.Equal(extents, extentsOf(want, facts.ChunkBytes, opts.OriginSize)) {
		t.Errorf("extents %v", extents)
	}
	changed := readChanged(t, filepath.Join(c.dir, name+".changed.txt"), facts.ChunkBytes, opts.OriginSize)
	if facts.Header.Valid != 0 && !covers(extents, changed) {
		t.Errorf("a changed chunk is in no extent")
	}
	for _, areas := range []int64{1, s.Areas, s.Areas + 3, 1 << 40} {
		o := opts
		o.Areas = areas
		if got := mustRead(t, r, size, o); !slices.Equal(got.Extents(), extents) || got.Areas != s.Areas {
			t.Errorf("areas %d: other extents", areas)
		}
	}
	// Data is read as it is asked for, not aligned.
	opts.Areas = s.Areas
	checkContent(t, c, name, mustRead(t, img, size, opts))
}

// checkContent lays the store over the origin as it was in the end, where that is
// kept, and compares with what the kernel showed as the snapshot.
func checkContent(t *testing.T, c caseFacts, name string, s *Store) {
	want, originName := c.SnapSHA256, "t1"
	switch {
	case c.name == "merging": // half of it is back in the origin
		want = c.Images["t0"].SHA256
		if name == "cow" {
			originName = "origin"
		}
	case name == "cow2":
		want = c.Snap2SHA256
	}
	origin := unpack(t, c.dir, originName)
	if origin == nil || want == "" {
		return
	}
	o, err := s.Overlay(t.Context(), origin)
	if err != nil {
		t.Fatal(err)
	}
	if got := sha(t, o); got != want {
		t.Errorf("origin and store together are %s, want %s", got, want)
	}
}

// TestFixtureStatus compares what dmsetup said of each live snapshot with its store.
func TestFixtureStatus(t *testing.T) {
	for _, c := range loadCases(t) {
		t.Run(c.name, func(t *testing.T) {
			status := parseFile(t, filepath.Join(c.dir, "state.status"))
			tables := parseFile(t, filepath.Join(c.dir, "state.table"))
			seen := 0
			for i, line := range status {
				if line.Kind != TargetSnapshot && line.Kind != TargetMerge {
					continue
				}
				seen++
				st, err := line.Status()
				if err != nil {
					t.Fatal(err)
				}
				tab, err := tables[i].Table()
				if err != nil {
					t.Fatal(err)
				}
				facts := c.COW
				if line.Name == "vg-snap2" {
					facts = c.COW2
				}
				usable := facts.Header != nil && facts.Header.Valid == 1 && line.Kind != TargetMerge && c.name != "raw-overflow-po"
				if err := st.Usable(); (err == nil) != usable || err != nil && !errors.Is(err, blkbak.ErrNeedsFull) {
					t.Errorf("%s: usable: %v", line.Name, err)
				}
				if tab.Persistent != (facts.Header != nil) || tab.Overflow != (c.name == "raw-overflow-po") {
					t.Errorf("%s: table %+v", line.Name, tab)
				}
				if facts.Header != nil && tab.ChunkSize != facts.ChunkBytes {
					t.Errorf("%s: chunk size %d", line.Name, tab.ChunkSize)
				}
				if usable && st.Areas(tab.ChunkSize) != facts.AreasRead {
					t.Errorf("%s: %d areas, the store has %d", line.Name, st.Areas(tab.ChunkSize), facts.AreasRead)
				}
			}
			if seen == 0 {
				t.Error("no snapshot")
			}
		})
	}
}

func parseFile(t *testing.T, path string) []Target {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ParseTargets(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return out
}
