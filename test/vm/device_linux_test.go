package vm

import (
	"os"
	"path/filepath"
	"testing"
)

// TestPlainDevice makes points of what is no logical volume: right when nobody can
// write to it, refused when somebody can.
func TestPlainDevice(t *testing.T) {
	newRepo(t, "")
	disk := scratchDisk(t)
	part := partition(t, disk, 48<<20)
	mkfs(t, part, "ext4")
	dir := mount(t, part)
	writeRandom(t, filepath.Join(dir, "file"), 1, 1<<20)
	refused(t, 5, "unmount", part)
	refused(t, 5, "unmount", part, "--dry-run")
	sh(t, "mount", "-o", "remount,ro", dir)
	first := snapshotRun(t, 0, part)
	sh(t, "mount", "-o", "remount,rw", dir)
	refused(t, 5, "unmount", part)
	writeRandom(t, filepath.Join(dir, "file"), 2, 1<<20)
	umount(t, dir)
	second := snapshotRun(t, 0, part)
	if first.Mode != "full" || second.Mode != "scan" || first.Root == second.Root {
		t.Errorf("first %+v, second %+v", first, second)
	}
	if root := rootOf(t, part); root != second.Root {
		t.Errorf("the point has root %s, the device %s", second.Root, root)
	}
	image := filepath.Join(t.TempDir(), "image")
	runOK(t, "restore", second.ID, "--to", image)
	wantSame(t, image, part)
	var points []point
	if runJSON(t, &points, "list"); len(points) != 2 {
		t.Errorf("%d points, want 2", len(points))
	}
}

// partition puts a partition of that many bytes on a disk, until the test ends.
func partition(t testing.TB, disk string, bytes int) string {
	t.Helper()
	const start = 2048
	mbr := make([]byte, 512)
	// One entry of a DOS table: type 0x83, start, length, in sectors.
	copy(mbr[446:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, start & 255, start >> 8, 0, 0})
	n := bytes / 512
	copy(mbr[458:], []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	mbr[510], mbr[511] = 0x55, 0xaa
	table := func(sector []byte) {
		f, err := os.OpenFile(disk, os.O_WRONLY|os.O_SYNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(sector); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		sh(t, "blockdev", "--rereadpt", disk)
	}
	table(mbr)
	t.Cleanup(func() { table(make([]byte, 512)) })
	eventually(t, disk+" has a partition", func() bool { _, err := os.Stat(disk + "1"); return err == nil })
	return disk + "1"
}
