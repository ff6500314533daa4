package vm

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// baseTest is a volume with a point, about whose base something is then wrong.
type baseTest struct {
	*testing.T
	vg    *volumeGroup
	args  []string // of snapshot
	first point
	base  string // the snapshot that goes with first
	seed  uint64
}

// write changes a few chunks of the volume.
func (x *baseTest) write() {
	x.Helper()
	x.seed++
	scribble(x, x.vg.path("data"), x.seed, 20, 4096)
}

// next makes a point that must be right, in a run that ends with that code, and
// with a warning that contains text if that is 3.
func (x *baseTest) next(code int, mode, text string) point {
	x.Helper()
	return x.nextOf("data", code, mode, text)
}

func (x *baseTest) nextOf(origin string, code int, mode, text string) point {
	x.Helper()
	p := snapshotRun(x, code, x.args...)
	if p.Mode != mode || !strings.Contains(strings.Join(p.Warnings, "\n"), text) {
		x.Errorf("mode %s with warnings %q, want %s and %q", p.Mode, p.Warnings, mode, text)
	}
	x.vg.wantPoint(origin, p)
	return p
}

// keepsBase fails the test unless all is as it was before a run that was refused.
func (x *baseTest) keepsBase(others ...string) {
	x.Helper()
	if got := x.vg.bases(); !slices.Equal(got, []string{x.base}) {
		x.Errorf("volumes of blkbak after a run that was refused: %v, want %s", got, x.base)
	}
	x.vg.wantSnapshots(append(others, x.base)...)
	var points []point
	if runJSON(x, &points, "list"); len(points) != 1 {
		x.Errorf("%d points after a run that was refused, want 1", len(points))
	}
}

// TestUnusableBase does to a volume and to its base snapshot what happens to them
// in life. Whatever it is, a point is right or is not made; that everything had to
// be read is said; and the run after that is an increment again.
func TestUnusableBase(t *testing.T) {
	disk := scratchDisk(t)
	for _, c := range []struct {
		name string
		do   func(*baseTest)
	}{
		{"Overflowed", (*baseTest).overflowed},
		{"OverflowedSinceReboot", (*baseTest).overflowedInactive},
		{"Removed", (*baseTest).removed},
		{"Grown", (*baseTest).grown},
		{"Shrunk", (*baseTest).shrunk},
		{"Merged", (*baseTest).merged},
		{"MergePending", (*baseTest).mergePending},
		{"Inactive", (*baseTest).inactive},
		{"FullGroup", (*baseTest).fullGroup},
		{"ForeignSnapshot", (*baseTest).foreignSnapshot},
		{"Renamed", (*baseTest).renamed},
		{"Replaced", (*baseTest).replaced},
		{"WrittenBase", (*baseTest).writtenBase},
		{"SecondRun", (*baseTest).secondRun},
	} {
		t.Run(c.name, func(t *testing.T) {
			newRepo(t, "")
			vg := newVG(t, disk)
			scribble(t, vg.create("data", "12M"), 100, 50, 64<<10)
			x := &baseTest{T: t, vg: vg, seed: 200, args: []string{vg.ref("data"), "--cow-size", "4MiB"}}
			x.first = x.next(0, "full", "")
			x.base = vg.base("data", x.first)
			x.write()
			c.do(x)
			x.write()
			x.next(0, "lvm-cow", "")
			runOK(t, "check", "--read-data")
			if root := showPoint(t, x.first.ID).Root; root != x.first.Root {
				t.Errorf("the first point had root %s, now it has %s", x.first.Root, root)
			}
			wantRestored(t, x.first)
		})
	}
}

func (x *baseTest) overflowed() {
	scribble(x, x.vg.path("data"), 1, 200, 64<<10)
	if st := snapshotStatus(x, x.vg.dm(x.base)); st.Usable() == nil {
		x.Fatalf("%s did not overflow: %+v", x.base, st)
	}
	x.next(3, "scan", "overflowed")
}

// overflowedInactive activates the volume anew: the kernel then takes the
// snapshot's state from its header.
func (x *baseTest) overflowedInactive() {
	scribble(x, x.vg.path("data"), 1, 200, 64<<10)
	x.vg.lvm("lvchange", "-an", x.vg.ref("data"))
	x.vg.lvm("lvchange", "-ay", x.vg.ref("data"))
	x.next(3, "scan", "")
}

func (x *baseTest) removed() {
	x.vg.remove(x.base)
	x.next(3, "scan", "is gone")
}

// grown: LVM resizes a volume with snapshots only while it is inactive.
func (x *baseTest) grown() {
	x.vg.lvm("lvchange", "-an", x.vg.ref("data"))
	x.vg.lvm("lvextend", "-qq", "-L", "16M", x.vg.ref("data"))
	x.vg.lvm("lvchange", "-ay", x.vg.ref("data"))
	if p := x.next(3, "scan", "resized"); p.Size != 16<<20 {
		x.Errorf("the point has %d bytes, want 16 MiB", p.Size)
	}
}

// shrunk: LVM refuses that for a volume with snapshots, inactive or not, so that
// whoever does it removes the base first.
func (x *baseTest) shrunk() {
	x.vg.lvm("lvchange", "-an", x.vg.ref("data"))
	reduce := []string{"lvreduce", "-qq", "-f", "-y", "-L", "8M", x.vg.ref("data")}
	if _, err := try(reduce...); err != nil {
		x.Log(err)
		x.vg.remove(x.base)
		x.vg.lvm(reduce...)
	}
	x.vg.lvm("lvchange", "-ay", x.vg.ref("data"))
	if p := x.next(3, "scan", ""); p.Size != 8<<20 {
		x.Errorf("the point has %d bytes, want 8 MiB", p.Size)
	}
}

// merged rolls the volume back to its base, which is the base's end. The bytes
// are then those of the point.
func (x *baseTest) merged() {
	x.vg.lvm("lvconvert", "--merge", "-y", x.vg.ref(x.base))
	x.vg.wantSnapshots()
	if p := x.next(3, "scan", "is gone"); p.Root != x.first.Root {
		x.Errorf("after the merge the root is %s, want that of the first point, %s", p.Root, x.first.Root)
	}
}

// mergePending asks for a merge while the volume is open: it begins when the
// volume is activated the next time.
func (x *baseTest) mergePending() {
	f, err := os.Open(x.vg.path("data"))
	if err != nil {
		x.Fatal(err)
	}
	defer f.Close()
	x.vg.lvm("lvconvert", "--merge", "-y", x.vg.ref(x.base))
	refused(x, 5, "merge", x.args...)
	if got := x.vg.bases(); len(got) != 1 || got[0] != x.base {
		x.Errorf("volumes of blkbak: %v, want %s", got, x.base)
	}
	f.Close()
	x.vg.lvm("lvchange", "-an", x.vg.ref("data"))
	x.vg.lvm("lvchange", "-ay", x.vg.ref("data"))
	eventually(x, "the merge is done", func() bool {
		try("lvconvert", "--merge", "-y", x.vg.ref(x.base)) // finishes what nobody polls here
		return len(x.vg.bases()) == 0
	})
	if p := x.next(3, "scan", "is gone"); p.Root != x.first.Root {
		x.Errorf("after the merge the root is %s, want that of the first point, %s", p.Root, x.first.Root)
	}
}

// inactive: the table is on disk, and good when the volume is active again.
func (x *baseTest) inactive() {
	x.vg.lvm("lvchange", "-an", x.vg.ref("data"))
	refused(x, 5, "lvchange -ay", x.args...)
	if got := x.vg.bases(); !slices.Equal(got, []string{x.base}) {
		x.Errorf("volumes of blkbak: %v, want %s", got, x.base)
	}
	x.vg.lvm("lvchange", "-ay", x.vg.ref("data"))
	x.next(0, "lvm-cow", "")
}

func (x *baseTest) fullGroup() {
	x.vg.lvm("lvcreate", "-qq", "-y", "-l", "100%FREE", "-n", "filler", x.vg.name)
	refused(x, 1, "vgextend", x.args...)
	x.keepsBase()
	x.vg.remove("filler")
	x.next(0, "lvm-cow", "")
}

// foreignSnapshot: what others made is neither a base nor in the way.
func (x *baseTest) foreignSnapshot() {
	foreign := x.vg.snapshot("data", "foreign", "8M")
	before := hashOf(x, foreign)
	x.write()
	x.next(0, "lvm-cow", "")
	x.vg.remove(x.vg.bases()...) // the foreign one must not stand in for it
	x.write()
	p := x.next(3, "scan", "is gone")
	x.vg.wantSnapshots("foreign", x.vg.base("data", p))
	if hashOf(x, foreign) != before {
		x.Error("the foreign snapshot has changed")
	}
}

// renamed: the series goes by the volume's name, what changed by its UUID.
func (x *baseTest) renamed() {
	x.vg.lvm("lvrename", x.vg.name, "data", "other")
	series := x.first.Volume
	x.args = []string{x.vg.ref("other"), "--cow-size", "4MiB", "--volume", series}
	scribble(x, x.vg.path("other"), 7, 20, 4096)
	x.nextOf("other", 0, "lvm-cow", "")

	// Without --volume it is another series, whose runs leave this one's base alone.
	p := snapshotRun(x, 0, x.vg.ref("other"), "--cow-size", "4MiB")
	if p.Mode != "full" || p.Volume != strings.TrimSuffix(series, "data")+"other" || p.Root != rootOf(x, x.vg.path("other")) {
		x.Errorf("without --volume: %+v", p)
	}
	if got := x.vg.bases(); len(got) != 2 {
		x.Errorf("volumes of blkbak: %v, want one of each series", got)
	}
	for _, name := range x.vg.bases() {
		if strings.Contains(x.vg.lvm("lvs", "--noheadings", "-o", "lv_tags", x.vg.ref(name)), "blkbak.point="+p.ID) {
			x.vg.remove(name)
		}
	}
	x.vg.lvm("lvrename", x.vg.name, "other", "data")
	x.args = []string{x.vg.ref("data"), "--cow-size", "4MiB"}
}

// replaced: another volume of the same name and size is not what the base, or
// the point, is about.
func (x *baseTest) replaced() {
	x.vg.remove("data") // and its snapshot with it
	scribble(x, x.vg.create("data", "12M"), 55, 30, 64<<10)
	if p := x.next(3, "scan", ""); p.Root == x.first.Root {
		x.Error("two volumes have one root")
	}
}

// writtenBase: somebody wrote to the snapshot itself. It still lists more than
// what changed in the origin.
func (x *baseTest) writtenBase() {
	scribble(x, x.vg.path(x.base), 9, 20, 4096)
	x.next(0, "lvm-cow", "")
}

// secondRun stops a run while it holds the volume's lock: another one ends at
// once and touches nothing.
func (x *baseTest) secondRun() {
	p := start(x, append([]string{program(x), "--json", "snapshot"}, x.args...)...)
	eventually(x, "the run has locked the volume", func() bool { return holdsLock(x, p.cmd.Process.Pid) })
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		x.Fatal(err)
	}
	refused(x, 5, "wait", x.args...)
	p.cmd.Process.Signal(syscall.SIGCONT)
	if err := p.cmd.Wait(); err != nil {
		x.Errorf("the run that was held up: %v: %s", err, p.text())
	}
	if len(x.vg.bases()) != 1 {
		x.Errorf("volumes of blkbak: %v, want one", x.vg.bases())
	}
}

// holdsLock tells whether a process holds a lock on a file named "lock" in the
// directory of states.
func holdsLock(t testing.TB, pid int) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		// 1: FLOCK  ADVISORY  WRITE 1234 00:17:5678 0 EOF
		f := strings.Fields(line)
		if len(f) < 6 || f[4] != fmt.Sprint(pid) {
			continue
		}
		locked := find(t, os.Getenv("BLKBAK_STATE_DIR"), "lock")
		for _, ino := range locked {
			if strings.HasSuffix(f[5], fmt.Sprintf(":%d", ino)) {
				return true
			}
		}
	}
	return false
}

// find returns the inode numbers of the files below dir that have that name.
func find(t testing.TB, dir, name string) []uint64 {
	t.Helper()
	var found []uint64
	out := sh(t, "find", dir, "-name", name, "-printf", "%i\n")
	for _, line := range strings.Fields(out) {
		var ino uint64
		if _, err := fmt.Sscan(line, &ino); err != nil {
			t.Fatal(out)
		}
		found = append(found, ino)
	}
	return found
}
