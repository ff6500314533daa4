package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/blkbak/blkbak/internal/blockdev"
)

// TestSnapshotCycle makes points of a filesystem that is being worked on, and
// holds each against the kernel's own snapshot of that moment: the bytes, the
// root, the files, the filesystem's state, the database in it.
func TestSnapshotCycle(t *testing.T) {
	for _, c := range []struct {
		fstype, journal, chunk string
		ro                     []string // options for a mount that writes nothing
	}{
		{"ext4", "delete", "4KiB", []string{"ro", "noload"}},
		{"ext4", "wal", "64KiB", []string{"ro", "noload"}},
		{"xfs", "wal", "4KiB", []string{"ro", "norecovery", "nouuid"}},
		{"xfs", "delete", "64KiB", []string{"ro", "norecovery", "nouuid"}},
	} {
		t.Run(c.fstype+"/"+c.chunk, func(t *testing.T) {
			newRepo(t, "")
			vg := newVG(t)
			origin := vg.create("data", "48M")
			mkfsSmall(t, origin, c.fstype)
			dir := mount(t, origin)
			x := &cycleTest{T: t, vg: vg, fstype: c.fstype, ro: c.ro, server: serve(t),
				args: []string{vg.ref("data"), "--cow-size", "52MiB", "--cow-chunk", c.chunk}}
			x.work = startWorkload(t, dir, c.journal)
			x.work.more(20)
			x.point("full")
			for range 5 {
				x.work.more(20)
				x.point("lvm-cow")
			}
			x.quietPoint(dir)
			for _, p := range x.points {
				wantRestored(t, p)
			}
			runOK(t, "check", "--read-data")
		})
	}
}

// mkfsSmall makes a filesystem as mkfs does, also an XFS far smaller than it is
// meant for.
func mkfsSmall(t testing.TB, dev, fstype string) {
	t.Helper()
	if fstype == "xfs" {
		sh(t, "mkfs.xfs", "-q", "-f", "--unsupported", dev)
		return
	}
	mkfs(t, dev, fstype)
}

type cycleTest struct {
	*testing.T
	vg     *volumeGroup
	fstype string
	ro     []string
	args   []string // of snapshot
	server *server
	work   *workload
	points []point
	rows   int64 // in the database of the last point
}

// point makes a point while the work goes on, and looks at it.
func (x *cycleTest) point(mode string) {
	x.Helper()
	var listed, written int64
	if len(x.points) > 0 {
		before := x.vg.base("data", x.points[len(x.points)-1])
		written = touched(x, x.vg.path("data"))
		listed = x.vg.listed(before, size(x, x.vg.path("data")))
	}
	first := x.work.committed.Load()
	p := snapshotRun(x, 0, x.args...)
	last := x.work.committed.Load()
	x.work.pause()
	defer x.work.resume()

	written = touched(x, x.vg.path("data")) - written
	if p.Mode != mode {
		x.Errorf("point %d was made by %s, want %s", len(x.points), p.Mode, mode)
	}
	if mode == "lvm-cow" && (p.Read < listed || p.Read > listed+written) {
		x.Errorf("point %d: %d bytes read, the table listed %d before, and no more than %d were touched since",
			len(x.points), p.Read, listed, written)
	}
	rows := x.compare(p)
	// A transaction may be committed before it is counted.
	if rows < first || rows > last+1 || rows < x.rows {
		x.Errorf("point %d has %d transactions: the one before has %d, %d were committed before the run and %d after",
			len(x.points), rows, x.rows, first, last)
	}
	x.Logf("point %d: %s, %d KiB listed, %d read, %d changed; %d transactions, %d to %d during the run",
		len(x.points), p.Mode, listed>>10, p.Read>>10, p.Changed>>10, rows, first, last)
	x.rows = rows
	x.points = append(x.points, p)
}

// compare holds a point against the kernel's snapshot, and returns how many
// transactions its database holds.
func (x *cycleTest) compare(p point) int64 {
	x.Helper()
	base := x.vg.path(x.vg.wantPoint("data", p))
	nbd, detach := x.server.attach(p.ID)
	wantSame(x, nbd, base)
	if x.fstype == "ext4" {
		fsck(x, nbd, x.fstype) // XFS keeps its log dirty while it is frozen: that is checked below
	}
	snapDir, nbdDir := mount(x, base, x.ro...), mount(x, nbd, x.ro...)
	wantTree(x, nbdDir, treeOf(x, snapDir))
	umount(x, nbdDir)
	umount(x, snapDir)
	detach()

	image := filepath.Join(x.TempDir(), "image")
	runOK(x, "restore", p.ID, "--to", image)
	sh(x, "modprobe", "loop")
	loop := sh(x, "losetup", "-f", "--show", image)
	defer func() {
		sh(x, "losetup", "-d", loop)
		if err := os.Remove(image); err != nil {
			x.Error(err)
		}
	}()
	var options []string
	if x.fstype == "xfs" {
		options = []string{"nouuid"}
	}
	dir := mount(x, loop, options...) // replays the log
	rows := rowsIn(x, dir)
	umount(x, dir)
	fsck(x, loop, x.fstype)
	return rows
}

// quietPoint makes a point when nothing happens: it reads just what is listed,
// and what freezing the filesystem writes.
func (x *cycleTest) quietPoint(dir string) {
	x.Helper()
	base := x.vg.base("data", x.points[len(x.points)-1])
	x.work.end()
	sh(x, "fsfreeze", "-f", dir)
	sh(x, "fsfreeze", "-u", dir)
	listed := x.vg.listed(base, size(x, x.vg.path("data")))
	p := snapshotRun(x, 0, x.args...)
	if p.Mode != "lvm-cow" || p.Read < listed || p.Read > listed+8*(64<<10) {
		x.Errorf("quiet point: %s, %d bytes read, %d were listed", p.Mode, p.Read, listed)
	}
	x.vg.wantPoint("data", p)
	x.points = append(x.points, p)
}

// touched is an upper bound of how many bytes of repository chunks all writes to
// a device since it was made touch: a write's ends touch one more.
func touched(t testing.TB, dev string) int64 {
	t.Helper()
	d, err := blockdev.Open(dev, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	major, minor := d.Number()
	stat, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", major, minor))
	if err != nil {
		t.Fatal(err)
	}
	// Documentation/block/stat.rst: writes are the fifth field, their sectors the seventh.
	f := strings.Fields(string(stat))
	writes, err1 := strconv.ParseInt(f[4], 10, 64)
	sectors, err2 := strconv.ParseInt(f[6], 10, 64)
	if err1 != nil || err2 != nil {
		t.Fatalf("%s: %s", dev, stat)
	}
	return sectors*512 + writes*2*(64<<10)
}
