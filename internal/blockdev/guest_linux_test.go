package blockdev

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
)

// scratchDisk is a block device that a test may destroy. It is given only to
// tests in a virtual machine: BLKBAK_GUEST=1, and BLKBAK_GUEST_DISK if it is not
// /dev/vdb.
func scratchDisk(t *testing.T) string {
	t.Helper()
	if os.Getenv("BLKBAK_GUEST") != "1" {
		t.Skip("destroys a disk: set BLKBAK_GUEST=1 in a virtual machine")
	}
	disk := os.Getenv("BLKBAK_GUEST_DISK")
	if disk == "" {
		disk = "/dev/vdb"
	}
	if uses, err := InUse(disk); err != nil || len(uses) > 0 {
		t.Fatalf("%s: in use: %v, %v", disk, uses, err)
	}
	return disk
}

func tool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func TestGuestBlockModel(t *testing.T) {
	disk := scratchDisk(t)
	for _, o := range []Options{{Write: true}, {Write: true, Direct: true, Exclusive: true}} {
		d := mustOpen(t, disk, o)
		if !d.IsBlock() || d.Direct() != o.Direct || d.Size() < 16<<20 {
			t.Fatalf("block %v, direct %v, size %d", d.IsBlock(), d.Direct(), d.Size())
		}
		model := make([]byte, 8<<20)
		if err := d.WriteZeros(0, int64(len(model))); err != nil {
			t.Fatal(err)
		}
		testModel(t, d, model, 500)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := d.DropCache(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(model))
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
			t.Errorf("%+v: disk differs from model, %v", o, err)
		}
		if data, hole, err := d.NextData(4096); data != 4096 || hole != d.Size() || err != nil {
			t.Errorf("data %d to %d, %v", data, hole, err)
		}
		n, err := d.WriteAt(make([]byte, 8192), d.Size()-4096)
		if n != 4096 || !errors.Is(err, blkbak.ErrNoSpace) {
			t.Errorf("write over the end: %d, %v", n, err)
		}
		if err := d.Truncate(4096); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("truncate: %v", err)
		}
		d.Close()
	}
}

// TestGuestStaleCache shows why Direct exists: what device-mapper writes below
// the page cache is seen by a direct read, and after DropCache by any.
func TestGuestStaleCache(t *testing.T) {
	disk := scratchDisk(t)
	under := mustOpen(t, disk, Options{Write: true, Direct: true})
	sectors := "2048"
	tool(t, "dmsetup", "create", "--noudevsync", "blkbak-stale", "--table", "0 "+sectors+" linear "+disk+" 0")
	defer tool(t, "dmsetup", "remove", "--noudevsync", "blkbak-stale")
	tool(t, "dmsetup", "mknodes", "blkbak-stale")
	over := mustOpen(t, "/dev/mapper/blkbak-stale", Options{Write: true, Direct: true})
	defer over.Close()
	buffered := mustOpen(t, disk, Options{})

	name, _, err := over.DM()
	if name != "blkbak-stale" || err != nil {
		t.Errorf("device-mapper name %q, %v", name, err)
	}
	if uses, err := InUse(disk); len(uses) != 1 || uses[0].Kind != "holder" || !strings.Contains(uses[0].Detail, "blkbak-stale") {
		t.Errorf("uses %v, %v", uses, err)
	}
	if _, err := Open(disk, Options{Write: true, Exclusive: true}); !errors.Is(err, blkbak.ErrBusy) {
		t.Errorf("exclusive open of a device with a holder: %v", err)
	}

	read := func(d *Device) byte {
		b := AlignedBuffer(4096)
		if _, err := d.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	write := func(v byte) {
		b := AlignedBuffer(4096)
		for i := range b {
			b[i] = v
		}
		if _, err := over.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	if err := buffered.DropCache(); err != nil {
		t.Fatal(err)
	}
	if v := read(buffered); v != 1 {
		t.Fatalf("first buffered read: %d", v)
	}
	write(2)
	if v := read(under); v != 2 {
		t.Errorf("direct read is stale: %d", v)
	}
	t.Logf("buffered read after a write of 2 below it: %d", read(buffered))
	if err := buffered.DropCache(); err != nil {
		t.Fatal(err)
	}
	if v := read(buffered); v != 2 {
		t.Errorf("buffered read after DropCache: %d", v)
	}
}

func TestGuestInUse(t *testing.T) {
	disk := scratchDisk(t)
	for _, mkfs := range []string{"mke2fs -q -F -t ext4", "mkfs.xfs -q -f", "mkfs.btrfs -q -f"} {
		tool(t, append(strings.Fields(mkfs), disk)...)
		point := filepath.Join(t.TempDir(), "a b")
		if err := os.Mkdir(point, 0o700); err != nil {
			t.Fatal(err)
		}
		tool(t, "mount", disk, point)
		uses, err := InUse(disk)
		if err != nil || len(uses) != 1 || uses[0] != (Use{"mounted", point, ""}) {
			t.Errorf("%s: uses %v, %v", mkfs, uses, err)
		}
		if _, err := Open(disk, Options{Write: true, Exclusive: true}); !errors.Is(err, blkbak.ErrBusy) {
			t.Errorf("%s: exclusive open of a mounted device: %v", mkfs, err)
		}
		tool(t, "umount", point)
		if uses, err := InUse(disk); len(uses) != 0 || err != nil {
			t.Errorf("%s: after umount: %v, %v", mkfs, uses, err)
		}
	}
	d := mustOpen(t, disk, Options{Write: true, Exclusive: true})
	if err := d.WriteZeros(0, 1<<20); err != nil {
		t.Fatal(err)
	}
}

func TestGuestProbePV(t *testing.T) {
	disk := scratchDisk(t)
	tool(t, "pvcreate", "-ff", "-y", disk)
	defer tool(t, "pvremove", "-ff", "-y", disk)
	d := mustOpen(t, disk, Options{Direct: true})
	got, err := Probe(d)
	if want := blkid(t, disk); got != want || err != nil || got.Type != "LVM2_member" {
		t.Errorf("got %+v, %v; blkid says %+v", got, err, want)
	}
	if name, _, err := d.DM(); name != "" || err != nil {
		t.Errorf("a plain disk in device-mapper: %q, %v", name, err)
	}
}
