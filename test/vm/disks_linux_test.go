package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// inUse holds the scratch disks that tests have. Tests do not run in parallel.
var inUse = map[string]bool{}

// scratchDisks returns the disks that the runner gave to the tests, in order.
func scratchDisks(t testing.TB) []string {
	t.Helper()
	serials, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		t.Fatal(err)
	}
	var disks []string
	for _, path := range serials {
		serial, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(serial), "disk") {
			disks = append(disks, "/dev/"+filepath.Base(filepath.Dir(path)))
		}
	}
	slices.Sort(disks)
	return disks
}

// scratchDisk takes a disk of its own for the test: empty, some hundred MiB. The
// test gives it back when it ends. A TestPowerCut gets the same disks in the same
// order at each boot, empty at the first.
func scratchDisk(t testing.TB) string {
	t.Helper()
	for _, disk := range scratchDisks(t) {
		if inUse[disk] {
			continue
		}
		inUse[disk] = true
		if !strings.HasPrefix(t.Name(), "TestPowerCut") || boot(t) == 1 {
			sh(t, "blkdiscard", "-f", disk)
		}
		t.Cleanup(func() { delete(inUse, disk) })
		return disk
	}
	t.Fatal("no scratch disk is left: scripts/vm-test --disks")
	return ""
}

// volumeGroup is a volume group on scratch disks. Its methods fail the test that
// it was made for.
type volumeGroup struct {
	t    testing.TB
	name string
}

// newVG makes a volume group on a scratch disk, or on several. When the test ends,
// all volumes go with it, and no device-mapper device may be left.
func newVG(t testing.TB, disks ...string) *volumeGroup {
	t.Helper()
	if len(disks) == 0 {
		disks = []string{scratchDisk(t)}
	}
	// Hyphens are doubled in the names of device-mapper: have one in every test.
	vg := &volumeGroup{t, "test-" + filepath.Base(disks[0])}
	vg.lvm(append([]string{"vgcreate", "-qq", vg.name}, disks...)...)
	t.Cleanup(vg.destroy)
	return vg
}

// existingVG finds the volume group of an earlier boot on its disk, and activates
// all of it.
func existingVG(t testing.TB, disk string) *volumeGroup {
	t.Helper()
	vg := &volumeGroup{t, "test-" + filepath.Base(disk)}
	vg.lvm("vgchange", "-qq", "-ay", vg.name)
	t.Cleanup(vg.destroy)
	return vg
}

func (vg *volumeGroup) destroy() {
	vg.t.Helper()
	if _, err := try("vgremove", "-qq", "-ff", "-y", vg.name); err != nil {
		vg.t.Error(err)
	}
	if left := dmDevices(vg.t, vg.name); len(left) > 0 {
		vg.t.Errorf("device-mapper devices are left: %v", left)
		for _, name := range left {
			if _, err := try("dmsetup", "remove", "--force", "--retry", name); err != nil {
				vg.t.Error(err)
			}
		}
	}
}

// lvm runs an LVM command that must succeed, and returns what it printed.
func (vg *volumeGroup) lvm(args ...string) string {
	vg.t.Helper()
	return sh(vg.t, args...)
}

// ref is how LVM's commands call a volume: vg/lv.
func (vg *volumeGroup) ref(lv string) string { return vg.name + "/" + lv }

// path is a volume's device.
func (vg *volumeGroup) path(lv string) string { return "/dev/" + vg.ref(lv) }

// create makes a classic volume and returns its device.
func (vg *volumeGroup) create(lv, size string) string {
	vg.t.Helper()
	vg.lvm("lvcreate", "-qq", "-y", "-Wy", "-n", lv, "-L", size, vg.name)
	return vg.path(lv)
}

// snapshot makes a classic snapshot of a volume, with room for size of changes in
// chunks of 4 KiB, and returns its device.
func (vg *volumeGroup) snapshot(origin, snap, size string) string {
	vg.t.Helper()
	vg.lvm("lvcreate", "-qq", "-y", "-s", "-n", snap, "-L", size, "-c", "4K", vg.ref(origin))
	return vg.path(snap)
}

// thinPool makes a pool of that size, with blocks of 64 KiB.
func (vg *volumeGroup) thinPool(pool, size string) {
	vg.t.Helper()
	vg.lvm("lvcreate", "-qq", "-y", "--type", "thin-pool", "-c", "64K", "-Zy", "-n", pool, "-L", size, vg.name)
}

// thin makes a thin volume in a pool and returns its device.
func (vg *volumeGroup) thin(pool, lv, size string) string {
	vg.t.Helper()
	vg.lvm("lvcreate", "-qq", "-y", "--type", "thin", "-V", size, "-n", lv, "--thinpool", vg.ref(pool))
	return vg.path(lv)
}

// thinSnapshot makes an active snapshot of a thin volume and returns its device.
func (vg *volumeGroup) thinSnapshot(origin, snap string) string {
	vg.t.Helper()
	vg.lvm("lvcreate", "-qq", "-y", "-s", "-kn", "-n", snap, vg.ref(origin))
	return vg.path(snap)
}

// remove removes volumes.
func (vg *volumeGroup) remove(lvs ...string) {
	vg.t.Helper()
	for _, lv := range lvs {
		vg.lvm("lvremove", "-qq", "-f", vg.ref(lv))
	}
}

// snapshots returns the names of the snapshots in the group, sorted.
func (vg *volumeGroup) snapshots() []string {
	vg.t.Helper()
	out := vg.lvm("lvs", "--noheadings", "-o", "lv_name", "-O", "lv_name", "-S", "origin!=\"\"", vg.name)
	return strings.Fields(out)
}

// wantSnapshots fails the test unless these snapshots are there, and no others.
func (vg *volumeGroup) wantSnapshots(want ...string) {
	vg.t.Helper()
	slices.Sort(want)
	if got := vg.snapshots(); !slices.Equal(got, want) {
		vg.t.Errorf("snapshots in %s: %v, want %v", vg.name, got, want)
	}
}

// dm is the name that device-mapper gives to a volume or, with a suffix such as
// "-cow", "-real", "_tmeta", to a hidden part of it.
func (vg *volumeGroup) dm(lv string) string {
	name, suffix := lv, ""
	for _, s := range []string{"-cow", "-real", "-tpool"} {
		if cut, ok := strings.CutSuffix(lv, s); ok {
			name, suffix = cut, s
		}
	}
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return double(vg.name) + "-" + double(name) + suffix
}

// cow is the device that holds a classic snapshot's exception store.
func (vg *volumeGroup) cow(snap string) string { return "/dev/mapper/" + vg.dm(snap+"-cow") }

// dmDevices returns the device-mapper devices of a volume group.
func dmDevices(t testing.TB, vg string) []string {
	t.Helper()
	var names []string
	for line := range strings.Lines(sh(t, "dmsetup", "ls")) {
		name, _, _ := strings.Cut(line, "\t")
		if strings.HasPrefix(name, strings.ReplaceAll(vg, "-", "--")+"-") {
			names = append(names, name)
		}
	}
	return names
}

// dmStatus and dmTable return the fields of the only line of a device's status
// or table: start, length, target type and what it says.
func dmStatus(t testing.TB, name string) []string {
	t.Helper()
	return strings.Fields(sh(t, "dmsetup", "status", name))
}

func dmTable(t testing.TB, name string) []string {
	t.Helper()
	return strings.Fields(sh(t, "dmsetup", "table", name))
}

// mkfs makes a filesystem: ext4, xfs, btrfs.
func mkfs(t testing.TB, dev, fstype string) {
	t.Helper()
	args := map[string][]string{
		// Lazy initialisation would write to the volume minutes later.
		"ext4":  {"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"},
		"xfs":   {"mkfs.xfs", "-q", "-f"},
		"btrfs": {"mkfs.btrfs", "-q", "-f"},
	}[fstype]
	if args == nil {
		t.Fatalf("mkfs: no filesystem %q", fstype)
	}
	sh(t, append(args, dev)...)
}

// mount mounts a device on a directory of its own and returns that. Options are
// as for mount -o: "ro", "nouuid". It is unmounted when the test ends, and before
// the volume group goes.
func mount(t testing.TB, dev string, options ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/mnt", filepath.Base(dev)+"-")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "mount", "-o", strings.Join(append(options, "noatime"), ","), dev, dir)
	t.Cleanup(func() {
		if mounted(t, dir) {
			umount(t, dir)
		}
	})
	return dir
}

// umount unmounts what is mounted on dir. A filesystem that is still frozen is
// thawed first, or it would stay for ever, and the test fails.
func umount(t testing.TB, dir string) {
	t.Helper()
	wantThawed(t, dir)
	if _, err := try("umount", dir); err != nil {
		t.Error(err)
	}
}

func mounted(t testing.TB, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(table), " "+dir+" ")
}

// fsck fails the test when a filesystem on an unmounted device is not clean. It
// writes nothing: a journal that was not replayed must be mounted away first.
func fsck(t testing.TB, dev, fstype string) {
	t.Helper()
	switch fstype {
	case "ext4":
		sh(t, "e2fsck", "-fn", dev)
	case "xfs":
		sh(t, "xfs_repair", "-n", dev)
	case "btrfs":
		sh(t, "btrfs", "check", "--readonly", dev)
	default:
		t.Fatalf("fsck: no filesystem %q", fstype)
	}
}

// frozenAfter is how long a filesystem may keep a write waiting.
var frozenAfter = time.Minute

// wantThawed fails the test when the filesystem on dir does not take a write
// within some seconds, and then thaws it. The write is another process: one that
// waits for a frozen filesystem cannot be ended, not even by the end of the test.
func wantThawed(t testing.TB, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	probe := filepath.Join(dir, ".thawed")
	go func() {
		_, err := try("bash", "-c", fmt.Sprintf("echo >%[1]q && sync %[1]q && rm %[1]q", probe))
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil && !strings.Contains(err.Error(), "Read-only") {
			t.Errorf("%s takes no write: %v", dir, err)
		}
	case <-time.After(frozenAfter):
		t.Errorf("the filesystem on %s is frozen", dir)
		sh(t, "fsfreeze", "-u", dir)
		<-done
	}
}
