package blockdev

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/blkbak/blkbak"
)

// makeFile makes a file of n random bytes and returns them as well.
func makeFile(t *testing.T, n int) (string, []byte) {
	t.Helper()
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, data
}

func mustOpen(t *testing.T, path string, o Options) *Device {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// modes are the ways to open a file that this platform has.
func modes() []Options {
	m := []Options{{Write: true}}
	if runtime.GOOS == "linux" {
		m = append(m, Options{Write: true, Direct: true}, Options{Write: true, Exclusive: true})
	}
	return m
}

// TestModel drives a device with random reads, writes and zeroed ranges of every
// alignment and compares with a slice.
func TestModel(t *testing.T) {
	for _, o := range modes() {
		path, model := makeFile(t, 300<<10+777) // a tail that fills no block
		d := mustOpen(t, path, o)
		t.Logf("%+v: direct %v, unit %d", o, d.Direct(), d.LogicalBlock())
		testModel(t, d, model, 2000)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, model) {
			t.Errorf("%+v: file differs from model, %v", o, err)
		}
	}
}

func testModel(t *testing.T, d *Device, model []byte, steps int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(7, 7))
	mem := AlignedBuffer(128 << 10)
	for i := range steps {
		off := rnd.IntN(len(model))
		n := min(1+rnd.IntN(70<<10), len(model)-off)
		shift := rnd.IntN(9)
		if rnd.IntN(2) == 0 { // aligned, as far as the size allows
			off, shift = off&^4095, 0
			n = min((n+4095)&^4095, len(model)-off)
		}
		buf := mem[shift : shift+n]
		switch rnd.IntN(5) {
		case 0:
			for j := range buf {
				buf[j] = byte(rnd.Uint32())
			}
			if m, err := d.WriteAt(buf, int64(off)); m != n || err != nil {
				t.Fatalf("step %d: write %d+%d: %d, %v", i, off, n, m, err)
			}
			copy(model[off:], buf)
		case 1:
			if err := d.WriteZeros(int64(off), int64(n)); err != nil {
				t.Fatalf("step %d: zero %d+%d: %v", i, off, n, err)
			}
			clear(model[off : off+n])
		default:
			clear(buf)
			if m, err := d.ReadAt(buf, int64(off)); m != n || err != nil && !(err == io.EOF && off+n == len(model)) {
				t.Fatalf("step %d: read %d+%d: %d, %v", i, off, n, m, err)
			}
			if !bytes.Equal(buf, model[off:off+n]) {
				t.Fatalf("step %d: read %d+%d shift %d: wrong bytes", i, off, n, shift)
			}
		}
	}
}

func TestReadPastEnd(t *testing.T) {
	for _, o := range modes() {
		path, data := makeFile(t, 10000)
		d := mustOpen(t, path, o)
		if d.Size() != 10000 || d.IsBlock() {
			t.Errorf("size %d, block %v", d.Size(), d.IsBlock())
		}
		buf := AlignedBuffer(16384)
		if n, err := d.ReadAt(buf, 0); n != 10000 || err != io.EOF || !bytes.Equal(buf[:n], data) {
			t.Errorf("%+v: read over the end: %d, %v", o, n, err)
		}
		if n, err := d.ReadAt(buf, 8192); n != 10000-8192 || err != io.EOF {
			t.Errorf("%+v: read over the end from 8192: %d, %v", o, n, err)
		}
		for _, off := range []int64{10000, 12288, 1 << 40} {
			if n, err := d.ReadAt(buf[:100], off); n != 0 || err != io.EOF {
				t.Errorf("%+v: read at %d: %d, %v", o, off, n, err)
			}
		}
		if n, err := d.ReadAt(buf[:100], -1); n != 0 || err == nil || err == io.EOF {
			t.Errorf("%+v: read at -1: %d, %v", o, n, err)
		}
		if n, err := d.ReadAt(nil, 0); n != 0 || err != nil {
			t.Errorf("%+v: empty read: %d, %v", o, n, err)
		}
	}
}

func TestWriteZerosRange(t *testing.T) {
	path, _ := makeFile(t, 1000)
	d := mustOpen(t, path, Options{Write: true})
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, 1001}, {999, 2}, {1 << 62, 1 << 62}} {
		if err := d.WriteZeros(r[0], r[1]); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%v: %v", r, err)
		}
	}
	if err := d.WriteZeros(1000, 0); err != nil {
		t.Error(err)
	}
}

func TestCreateAndTruncate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new")
	_, err := Open(path, Options{Write: true})
	if !errors.Is(err, blkbak.ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := Open(path, Options{Create: true}); !errors.Is(err, blkbak.ErrUsage) {
		t.Errorf("create to read: %v", err)
	}
	d := mustOpen(t, path, Options{Write: true, Create: true})
	if err := d.Truncate(1 << 20); err != nil || d.Size() != 1<<20 {
		t.Errorf("size %d, %v", d.Size(), err)
	}
	if _, err := Open(t.TempDir(), Options{}); err == nil {
		t.Error("opened a directory")
	}
}

func TestSame(t *testing.T) {
	path, _ := makeFile(t, 10)
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Skip(err)
	}
	other, _ := makeFile(t, 10)
	a, b, c := mustOpen(t, path, Options{}), mustOpen(t, link, Options{}), mustOpen(t, other, Options{})
	if !a.Same(b) || a.Same(c) {
		t.Errorf("same: %v, %v", a.Same(b), a.Same(c))
	}
	if ok, err := a.SamePath(link); !ok || err != nil {
		t.Errorf("link: %v, %v", ok, err)
	}
	if ok, err := a.SamePath(other); ok || err != nil {
		t.Errorf("other: %v, %v", ok, err)
	}
	if _, err := a.SamePath(path + ".none"); err == nil {
		t.Error("nothing is the same")
	}
}

func TestAlignedBuffer(t *testing.T) {
	for _, n := range []int{0, 1, 511, 4096, 100001} {
		b := AlignedBuffer(n)
		if len(b) != n || cap(b) != n || n > 0 && addr(b)%4096 != 0 {
			t.Errorf("%d: len %d cap %d at %#x", n, len(b), cap(b), addr(b))
		}
	}
}
