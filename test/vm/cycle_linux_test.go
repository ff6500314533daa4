package vm

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSnapshotCycle makes points of a filesystem that is being worked on, and
// holds each against the kernel's own snapshot of that moment: the bytes, the
// root, the files, the filesystem's state, the database in it.
func TestSnapshotCycle(t *testing.T) {
	for _, c := range []struct {
		fstype, size, journal, chunk string
		ro                           []string // options for a mount that writes nothing
	}{
		{"ext4", "32M", "delete", "4KiB", []string{"ro", "noload"}},
		{"ext4", "32M", "wal", "64KiB", []string{"ro", "noload"}},
		{"xfs", "48M", "wal", "4KiB", []string{"ro", "norecovery", "nouuid"}},
		{"xfs", "48M", "delete", "64KiB", []string{"ro", "norecovery", "nouuid"}},
	} {
		t.Run(c.fstype+"/"+c.chunk, func(t *testing.T) {
			newRepo(t, "")
			vg := newVG(t)
			origin := vg.create("data", c.size)
			mkfsSmall(t, origin, c.fstype)
			dir := mount(t, origin)
			x := &cycleTest{T: t, vg: vg, fstype: c.fstype, ro: c.ro, server: serve(t),
				args: []string{vg.ref("data"), "--cow-size", "52MiB", "--cow-chunk", c.chunk}}
			x.work = startWorkload(t, dir, c.journal)
			x.work.more(10)
			x.point("full")
			for range 5 {
				x.work.more(10)
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
	var listed int64
	if len(x.points) > 0 {
		before := x.vg.base("data", x.points[len(x.points)-1])
		listed = x.vg.listed(before, size(x, x.vg.path("data")))
	}
	first := x.work.committed.Load()
	p := snapshotRun(x, 0, x.args...)
	last := x.work.committed.Load()
	x.work.pause()
	defer x.work.resume()

	if p.Mode != mode {
		x.Errorf("point %d was made by %s, want %s", len(x.points), p.Mode, mode)
	}
	// The table grew until the run read it: quietPoint knows more exactly.
	if mode == "lvm-cow" && (p.Read < listed || p.Read > p.Size/2) {
		x.Errorf("point %d: %d bytes read, the table listed %d before, of %d", len(x.points), p.Read, listed, p.Size)
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
