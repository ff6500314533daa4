// Package vm holds the tests that need root, device-mapper, LVM, NBD and real
// filesystems. They run in a virtual machine of their own, so that they can do
// as they like with its disks and its kernel:
//
//	make test-vm                              all of them
//	scripts/vm-test -run TestLVMSnapshot      some
//
// scripts/vm-test compiles the tests and the blkbak binary, boots scripts/vm with
// a few empty disks and runs the tests there, one after the other. Outside of
// that machine the package has nothing to run, and says so.
//
// A test takes a disk (scratchDisk, newVG), builds what it needs on it and leaves
// the cleaning to the harness: mounts, volumes and disks go when the test ends,
// and whatever device-mapper device is left after that fails the test.
//
//	func TestSomething(t *testing.T) {
//		vg := newVG(t)
//		origin := vg.create("data", "64M")
//		mkfs(t, origin, "ext4")
//		dir := mount(t, origin)
//		writeRandom(t, dir+"/file", 1, 1<<20)
//		vg.snapshot("data", "snap", "32M")
//		...
//	}
//
// A test whose name begins with TestPowerCut has a machine of its own. It may
// call powerCut, which ends the machine between two instructions; the machine
// then starts again on the same disks, and the same test runs with boot one
// higher. All that passes from one boot to the next is what is on the disks.
package vm
