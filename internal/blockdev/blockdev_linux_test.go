package blockdev

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/blkbak/blkbak"
)

// runs lists the data runs of d.
func runs(t *testing.T, d *Device) []blkbak.Extent {
	t.Helper()
	var list []blkbak.Extent
	for off := int64(0); ; {
		data, hole, err := d.NextData(off)
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, blkbak.Extent{Off: data, Len: hole - data})
		off = hole
	}
}

func TestNextData(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	d := mustOpen(t, path, Options{Write: true, Create: true})
	if err := d.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	if got := runs(t, d); got != nil {
		t.Fatalf("a hole of a file has data %v", got)
	}
	block := bytes.Repeat([]byte{1}, 64<<10)
	for _, off := range []int64{0, 16 << 20, 63 << 20} {
		if _, err := d.WriteAt(block, off); err != nil {
			t.Fatal(err)
		}
	}
	want := []blkbak.Extent{{Off: 0, Len: 64 << 10}, {Off: 16 << 20, Len: 64 << 10}, {Off: 63 << 20, Len: 64 << 10}}
	if got := runs(t, d); !reflect.DeepEqual(got, want) {
		t.Errorf("runs %v, want %v", got, want)
	}
	if data, hole, err := d.NextData(16<<20 + 5); data != 16<<20+5 || hole != 16<<20+64<<10 || err != nil {
		t.Errorf("from inside a run: %d, %d, %v", data, hole, err)
	}
	if _, _, err := d.NextData(64 << 20); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if _, _, err := d.NextData(-1); !errors.Is(err, blkbak.ErrUsage) {
		t.Errorf("before the start: %v", err)
	}
	// Zeroing gives the space back.
	if err := d.WriteZeros(16<<20, 64<<10); err != nil {
		t.Fatal(err)
	}
	if got := runs(t, d); len(got) != 2 {
		t.Errorf("a zeroed run is still data: %v", got)
	}
}

func TestExclusiveFile(t *testing.T) {
	path, _ := makeFile(t, 100)
	a := mustOpen(t, path, Options{Write: true, Exclusive: true})
	if _, err := Open(path, Options{Write: true, Exclusive: true}); !errors.Is(err, blkbak.ErrBusy) {
		t.Errorf("second exclusive open: %v", err)
	}
	a.Close()
	mustOpen(t, path, Options{Write: true, Exclusive: true, Direct: true})
	if _, err := Open(path, Options{Exclusive: true}); !errors.Is(err, blkbak.ErrBusy) {
		t.Errorf("exclusive and direct: %v", err)
	}
	mustOpen(t, path, Options{})
}

func TestDropCache(t *testing.T) {
	path, data := makeFile(t, 1<<20)
	d := mustOpen(t, path, Options{Write: true})
	if err := d.DropCache(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after the drop: %v", err)
	}
	if name, uuid, err := d.DM(); name != "" || uuid != "" || err != nil {
		t.Errorf("a file in device-mapper: %q, %q, %v", name, uuid, err)
	}
}

func TestMountsHere(t *testing.T) {
	m, err := Mounts()
	if err != nil || len(m) == 0 {
		t.Fatalf("%d mounts, %v", len(m), err)
	}
	for _, x := range m {
		if x.Point == "/proc" && x.FSType == "proc" {
			return
		}
	}
	t.Errorf("no /proc in %+v", m)
}

func TestInUseNothing(t *testing.T) {
	path, _ := makeFile(t, 100)
	if u, err := InUse(path); len(u) != 0 || err != nil {
		t.Errorf("%v, %v", u, err)
	}
	if _, err := InUse(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
