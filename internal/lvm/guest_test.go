package lvm

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/run"
)

// guestDisk is a disk that tests may destroy, in a virtual machine only.
func guestDisk(t *testing.T) string {
	t.Helper()
	if os.Getenv("BLKBAK_GUEST") != "1" {
		t.Skip("destroys a disk: set BLKBAK_GUEST=1 in a virtual machine")
	}
	if d := os.Getenv("BLKBAK_GUEST_DISK"); d != "" {
		return d
	}
	return "/dev/vdb"
}

func tool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// guestGroup makes the group g-1 with the volume data of 64 MiB, with ext4.
func guestGroup(t *testing.T) *Tools {
	t.Helper()
	disk := guestDisk(t)
	tool(t, "vgcreate", "-y", "g-1", disk)
	t.Cleanup(func() {
		tool(t, "vgremove", "-f", "-y", "g-1")
		tool(t, "pvremove", "-y", disk)
	})
	tool(t, "lvcreate", "-y", "-n", "data", "-L", "64M", "g-1")
	tool(t, "mke2fs", "-q", "-F", "/dev/g-1/data")
	return New(new(run.Runner))
}

// TestGuestLife takes a snapshot through its whole life with the real tools.
func TestGuestLife(t *testing.T) {
	l := guestGroup(t)
	ctx := t.Context()
	origin, err := l.Volume(ctx, "g-1/data")
	if err != nil || origin.HasSnapshots || origin.Size != 64<<20 {
		t.Fatalf("%+v, %v", origin, err)
	}
	point, err := Tag("point", "0123 & more")
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{VG: "g-1", Origin: "data", Name: "blkbak-a", Size: 8 << 20, ChunkSize: 16 << 10, Tags: []string{point}, ReadOnly: true}
	if err := l.CreateSnapshot(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if err := l.CreateSnapshot(ctx, spec); !errors.Is(err, blkbak.ErrExists) {
		t.Errorf("again: %v", err)
	}
	a, err := l.Volume(ctx, "g-1/blkbak-a")
	if p, _ := a.TagValue("point"); err != nil || p != "0123 & more" || a.OriginUUID != origin.UUID || a.ChunkSize != 16<<10 || !a.Valid || a.Kind != KindSnapshot {
		t.Errorf("%+v, %v", a, err)
	}
	if err := os.WriteFile(a.Path, make([]byte, 512), 0); err == nil {
		t.Error("a read-only snapshot can be written to")
	}
	use, err := l.Status(ctx, DMName("g-1", "blkbak-a", ""))
	if err != nil || use.Usable() != nil || use.Total != 8<<20 || use.Metadata != 2*16<<10 {
		t.Errorf("%+v, %v", use, err)
	}
	if _, err := os.Stat(a.COWPath()); err != nil {
		t.Error(err)
	}
	if err := l.Retag(ctx, "g-1/blkbak-a", []string{point}, []string{"blkbak.point=2", "blkbak.base=1"}); err != nil {
		t.Error(err)
	}
	if err := l.Rename(ctx, "g-1/blkbak-a", "blkbak-b"); err != nil {
		t.Error(err)
	}
	list, err := l.Tagged(ctx, "blkbak.base=1")
	if err != nil || len(list) != 1 || list[0].Name != "blkbak-b" || !slices.Equal(list[0].Tags, []string{"blkbak", "blkbak.base=1", "blkbak.point=2"}) {
		t.Errorf("%+v, %v", list, err)
	}
	if text, err := l.Metadata(ctx, "g-1"); err != nil || !strings.Contains(string(text), "blkbak.point=2") {
		t.Errorf("%d bytes of metadata, %v", len(text), err)
	}
	if err := l.Remove(ctx, "g-1/data"); !errors.Is(err, blkbak.ErrUsage) {
		t.Errorf("removing the origin: %v", err)
	}
	// Overflow: the whole store and more.
	tool(t, "dd", "if=/dev/urandom", "of=/dev/g-1/data", "bs=1M", "count=20", "conv=fsync")
	if v, err := l.Volume(ctx, "g-1/blkbak-b"); err != nil || v.Valid || !v.Active {
		t.Errorf("overflowed: %+v, %v", v, err)
	}
	if u, err := l.Status(ctx, DMName("g-1", "blkbak-b", "")); err != nil || u.State != cow.StateInvalid {
		t.Errorf("overflowed: %+v, %v", u, err)
	}
	busy, err := os.Open("/dev/g-1/blkbak-b")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(ctx, "g-1/blkbak-b"); !errors.Is(err, blkbak.ErrBusy) {
		t.Errorf("open: %v", err)
	}
	busy.Close()
	if err := l.Remove(ctx, "g-1/blkbak-b"); err != nil {
		t.Error(err)
	}
	if err := l.Remove(ctx, "g-1/blkbak-b"); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("twice: %v", err)
	}
	g, err := l.Group(ctx, "g-1")
	if err != nil {
		t.Fatal(err)
	}
	err = l.CreateSnapshot(ctx, Spec{VG: "g-1", Origin: "data", Name: "c", Size: 64 << 20})
	if g.Free < 64<<20 && !errors.Is(err, blkbak.ErrNoSpace) || g.Free >= 64<<20 && err != nil {
		t.Errorf("%d bytes free: %v", g.Free, err)
	}
}

// TestGuestFrozen makes a snapshot of a filesystem that is frozen already. Old
// kernels leave something half-made: it must be seen and go away.
func TestGuestFrozen(t *testing.T) {
	l := guestGroup(t)
	ctx := t.Context()
	point := filepath.Join(t.TempDir(), "m")
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mount", "/dev/g-1/data", point)
	defer tool(t, "umount", point)
	tool(t, "fsfreeze", "-f", point)
	spec := Spec{VG: "g-1", Origin: "data", Name: "blkbak-f", Size: 8 << 20}
	err := l.CreateSnapshot(ctx, spec)
	tool(t, "fsfreeze", "-u", point)
	if err == nil {
		t.Log("this kernel makes snapshots of frozen filesystems")
	} else {
		if !errors.Is(err, blkbak.ErrBusy) {
			t.Errorf("%v", err)
		}
		v, verr := l.Volume(ctx, "g-1/blkbak-f")
		if verr != nil || !v.HalfMade() {
			t.Errorf("left behind: %+v, %v", v, verr)
		}
	}
	if err := l.Remove(ctx, "g-1/blkbak-f"); err != nil {
		t.Error(err)
	}
	// Thawed, and with nothing in its way, it works: the kernel freezes by itself.
	if err := l.CreateSnapshot(ctx, spec); err != nil {
		t.Error(err)
	}
	if err := l.Remove(ctx, "g-1/blkbak-f"); err != nil {
		t.Error(err)
	}
}

func TestGuestThin(t *testing.T) {
	l := guestGroup(t)
	ctx := t.Context()
	tool(t, "lvcreate", "-y", "--type", "thin-pool", "-L", "40M", "-n", "pool", "g-1")
	tool(t, "lvcreate", "-y", "-V", "64M", "-n", "thin", "--thinpool", "pool", "g-1")
	if err := l.CreateSnapshot(ctx, Spec{VG: "g-1", Origin: "thin", Name: "ts", Tags: []string{"blkbak.point=1"}, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	v, err := l.Volume(ctx, "g-1/ts")
	if err != nil || v.Kind != KindThin || v.Origin != "thin" || !v.Active || v.ThinID != 2 || v.HalfMade() {
		t.Errorf("%+v, %v", v, err)
	}
	if err := l.Remove(ctx, "g-1/ts"); err != nil {
		t.Error(err)
	}
}
