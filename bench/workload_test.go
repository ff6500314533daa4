package bench

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/testkit"
)

// ext4 makes an image of size bytes with a tree that fills 85 % of it.
func ext4(t testing.TB, path string, size int64) {
	t.Helper()
	mke2fs := testkit.Tool(t, "mke2fs")
	tree := path + ".tree"
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tree)
	if err := Tree(tree, size/100*85, 1); err != nil {
		t.Fatal(err)
	}
	sparse(t, path, size)
	const uuid = "6c1b1ad4-9a3c-4f7c-8a4e-2f0f8f1d9e11"
	cmd := exec.CommandContext(t.Context(), mke2fs, "-q", "-F", "-t", "ext4", "-U", uuid, "-E", "hash_seed="+uuid+",root_owner=0:0",
		"-d", tree, path)
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000", "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// sparse makes a file of size bytes of nothing.
func sparse(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// dataOf is where an image file holds something, in whole blocks.
func dataOf(t testing.TB, path string) (data []blkbak.Extent, size int64) {
	t.Helper()
	dev, err := blockdev.Open(path, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for off := int64(0); ; {
		from, to, err := dev.NextData(off)
		if errors.Is(err, io.EOF) {
			return data, dev.Size()
		}
		if err != nil {
			t.Fatal(err)
		}
		data = blkbak.AppendExtent(data, blkbak.Extent{Off: from, Len: (to - from) / Block * Block})
		off = to
	}
}

// change writes the exception store of a snapshot to store and applies changes.
func change(t testing.TB, path, store string, changes []Change, seed uint64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if store != "" {
		c, err := os.Create(store)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := WriteCOW(t.Context(), c, f, st.Size(), changes); err != nil {
			t.Fatal(err)
		}
	}
	if err := Apply(f, changes, seed); err != nil {
		t.Fatal(err)
	}
}

// TestWorkload makes an image and a day, and holds them to what they promise.
//
// With BLKBAK_WORKLOAD=DIR it leaves them there for other programs, of
// BLKBAK_WORKLOAD_MIB: image, image.1 with one block in a hundred changed, day.cow
// with the exception store that says so, and same.cow that says nothing changed.
func TestWorkload(t *testing.T) {
	dir, size, keep := t.TempDir(), int64(64<<20), os.Getenv("BLKBAK_WORKLOAD")
	if keep != "" {
		mib, err := strconv.ParseInt(os.Getenv("BLKBAK_WORKLOAD_MIB"), 10, 64)
		if err != nil {
			t.Fatalf("BLKBAK_WORKLOAD_MIB: %v", err)
		}
		dir, size = keep, mib<<20
	}
	image, day := filepath.Join(dir, "image"), filepath.Join(dir, "image.1")
	ext4(t, image, size)
	copySparse(t, image, day)
	data, _ := dataOf(t, image)
	changes := Day(data, size/Block/100, 1)
	change(t, day, filepath.Join(dir, "day.cow"), changes, 1)
	change(t, image, filepath.Join(dir, "same.cow"), nil, 1)

	changed := Extents(changes)
	if n := blkbak.ExtentBytes(changed) / Block; n != size/Block/100 {
		t.Errorf("%d blocks change, not %d", n, size/Block/100)
	}
	pieces := blkbak.ExtentBytes(blkbak.AlignExtents(changed, 64<<10, size)) >> 16
	t.Logf("%d bytes of data; %d runs, %d blocks, %d pieces of 64 KiB change", blkbak.ExtentBytes(data), len(changes), size/Block/100, pieces)
	for store, want := range map[string][]blkbak.Extent{"day.cow": changed, "same.cow": {}} {
		if got := listed(t, filepath.Join(dir, store), size); !slices.Equal(got, want) {
			t.Errorf("%s lists %d extents, not %d", store, len(got), len(want))
		}
	}
	if got := differing(t, image, day); !slices.Equal(got, changed) {
		t.Errorf("%d runs differ, not %d", len(got), len(changed))
	}
}

// TestReproducible: the same seed makes the same tree and the same day.
func TestReproducible(t *testing.T) {
	sum := func(seed uint64) [32]byte {
		dir, h := t.TempDir(), sha256.New()
		if err := Tree(dir, 24<<20, seed); err != nil {
			t.Fatal(err)
		}
		if err := tarDir(h, dir); err != nil {
			t.Fatal(err)
		}
		return [32]byte(h.Sum(nil))
	}
	a := sum(1)
	if sum(1) != a || sum(2) == a {
		t.Error("a tree does not follow from its seed")
	}
	data := []blkbak.Extent{{Off: 0, Len: 8 << 20}, {Off: 16 << 20, Len: 8 << 20}}
	if !slices.Equal(Day(data, 100, 5), Day(data, 100, 5)) || slices.Equal(Day(data, 100, 5), Day(data, 100, 6)) {
		t.Error("a day does not follow from its seed")
	}
	for i, c := range Scattered(1<<40, 1000, 1) {
		if part := int64(1<<40) / Block / 1000 * Block; c.Off < int64(i)*part || c.End() > int64(i+1)*part || c.Off%Block != 0 {
			t.Fatalf("block %d of a thousand is at %d", i, c.Off)
		}
	}
}

// tarDir writes names, times and contents of a directory's files.
func tarDir(w io.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		io.WriteString(w, path[len(dir):]+st.ModTime().UTC().String())
		if d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
}

func copySparse(t testing.TB, from, to string) {
	t.Helper()
	data, size := dataOf(t, from)
	sparse(t, to, size)
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	for _, e := range data {
		if _, err := io.Copy(io.NewOffsetWriter(dst, e.Off), io.NewSectionReader(src, e.Off, e.Len)); err != nil {
			t.Fatal(err)
		}
	}
}

// listed is what an exception store lists.
func listed(t testing.TB, path string, origin int64) []blkbak.Extent {
	t.Helper()
	dev, err := blockdev.Open(path, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	s, err := cow.Read(t.Context(), dev, dev.Size(), cow.Options{OriginSize: origin})
	if err != nil {
		t.Fatal(err)
	}
	return slices.AppendSeq([]blkbak.Extent{}, s.All())
}

// differing is where two images of the same size differ, in blocks.
func differing(t testing.TB, a, b string) (out []blkbak.Extent) {
	t.Helper()
	data, _ := dataOf(t, b)
	fa, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer fb.Close()
	pa, pb := make([]byte, Block), make([]byte, Block)
	for _, e := range data {
		for off := e.Off; off < e.End(); off += Block {
			_, erra := fa.ReadAt(pa, off)
			_, errb := fb.ReadAt(pb, off)
			if err := errors.Join(erra, errb); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(pa, pb) {
				out = blkbak.AppendExtent(out, blkbak.Extent{Off: off, Len: Block})
			}
		}
	}
	return out
}
