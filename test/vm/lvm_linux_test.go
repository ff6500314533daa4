package vm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
)

// The tests here know nothing of blkbak: they make sure that the machine does
// what the other tests build upon.

// TestLVMSnapshot takes a snapshot of a filesystem in use and finds in it what
// was there at that moment. Device-mapper freezes the filesystem of a device that
// it suspends, all but btrfs, which the kernel does not find by its device: there
// what was not synced is missing from the snapshot, unless somebody freezes it.
func TestLVMSnapshot(t *testing.T) {
	for _, c := range []struct {
		fstype string
		size   string
		ro     []string // options for a mount that writes nothing
		freeze bool
	}{
		{"ext4", "64M", []string{"ro", "noload"}, false},
		{"xfs", "320M", []string{"ro", "norecovery", "nouuid"}, false},
		{"btrfs", "128M", []string{"ro"}, true},
	} {
		t.Run(c.fstype, func(t *testing.T) {
			vg := newVG(t)
			origin := vg.create("data", c.size)
			mkfs(t, origin, c.fstype)
			dir := mount(t, origin)
			writeRandom(t, filepath.Join(dir, "kept"), 1, 1<<20)
			if err := os.Symlink("kept", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			before := treeOf(t, dir)

			if c.freeze {
				sh(t, "fsfreeze", "-f", dir)
			}
			snap := vg.snapshot("data", "snap", "32M")
			if c.freeze {
				sh(t, "fsfreeze", "-u", dir)
			}
			vg.wantSnapshots("snap")
			wantThawed(t, dir)
			writeRandom(t, filepath.Join(dir, "kept"), 2, 1<<20)
			writeRandom(t, filepath.Join(dir, "new"), 3, 1<<20)
			umount(t, dir) // btrfs mounts no copy of a filesystem that is mounted

			wantTree(t, mount(t, snap, c.ro...), before)
			fsck(t, origin, c.fstype)
		})
	}
}

// TestExceptionStore reads a snapshot's table from its device, and finds the very
// blocks that were written.
func TestExceptionStore(t *testing.T) {
	vg := newVG(t)
	origin := vg.create("data", "64M")
	vg.snapshot("data", "snap", "32M")
	want := scribble(t, origin, 1, 700, 4096) // three areas of 256 entries

	got := readExceptions(t, vg.cow("snap"))
	if !slices.Equal(got, want) {
		t.Errorf("the table has %d extents, %d were written:\n%v\n%v", len(got), len(want), got, want)
	}

	// start length "snapshot" used/total metadata, in sectors of 512 bytes
	status := dmStatus(t, vg.dm("snap"))
	used, _, _ := strings.Cut(status[3], "/")
	sectors, err := strconv.ParseInt(used, 10, 64)
	if err != nil {
		t.Fatal(status, err)
	}
	chunks := blkbak.ExtentBytes(want) / 4096
	if all := 1 + (chunks/256 + 1) + chunks; sectors*512 != all*4096 {
		t.Errorf("status says %d sectors, %d chunks make %d", sectors, chunks, all*8)
	}
	if table := dmTable(t, vg.dm("snap")); !slices.Contains(table, "P") {
		t.Errorf("not a persistent snapshot: %v", table)
	}
	vg.remove("snap")
	vg.wantSnapshots()
}

// readExceptions decodes an exception store with chunks of 4 KiB as plainly as
// possible: a header chunk, then areas of one chunk of entries and the 256 chunks
// of data that they tell of, until an entry whose new chunk is 0.
func readExceptions(t testing.TB, dev string) []blkbak.Extent {
	t.Helper()
	const chunk, entries = 4096, 256
	f := openDirect(t, dev, os.O_RDONLY)
	defer f.Close()
	buf := directBuffer(chunk)
	read := func(off int64) []byte {
		if _, err := f.ReadAt(buf, off); err != nil {
			t.Fatalf("%s at byte %d: %v", dev, off, err)
		}
		return buf
	}
	le := binary.LittleEndian
	h := read(0)
	if string(h[:4]) != "SnAp" || le.Uint32(h[4:]) != 1 || le.Uint32(h[8:]) != 1 || le.Uint32(h[12:]) != chunk/512 {
		t.Fatalf("%s: header % x", dev, h[:16])
	}
	var changed []blkbak.Extent
	for area := int64(0); ; area++ {
		p := read((1 + area*(entries+1)) * chunk)
		for i := range entries {
			old, new := le.Uint64(p[i*16:]), le.Uint64(p[i*16+8:])
			if new == 0 {
				return blkbak.MergeExtents(changed)
			}
			changed = append(changed, blkbak.Extent{Off: int64(old) * chunk, Len: chunk})
		}
	}
}

// TestThinDelta asks a pool's metadata what differs between a thin volume and its
// snapshot, while both are in use.
func TestThinDelta(t *testing.T) {
	vg := newVG(t)
	vg.thinPool("pool", "128M")
	origin := vg.thin("pool", "data", "64M")
	scribble(t, origin, 1, 64, 65536)
	before := hashOf(t, origin)
	snap := vg.thinSnapshot("data", "snap")
	vg.wantSnapshots("snap")
	scribble(t, origin, 2, 8, 65536)
	if hashOf(t, snap) != before {
		t.Error("writes to the origin changed its snapshot")
	}

	id := func(lv string) string { return vg.lvm("lvs", "--noheadings", "-o", "thin_id", vg.ref(lv)) }
	sh(t, "dmsetup", "message", vg.dm("pool-tpool"), "0", "reserve_metadata_snap")
	delta, err := try("thin_delta", "-m", "--thin1", id("snap"), "--thin2", id("data"),
		"/dev/mapper/"+vg.dm("pool_tmeta"))
	sh(t, "dmsetup", "message", vg.dm("pool-tpool"), "0", "release_metadata_snap")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(delta, "<different") && !strings.Contains(delta, "<right_only") {
		t.Errorf("thin_delta sees no difference:\n%s", delta)
	}
}

// TestNBDModule makes sure that the kernel's NBD client is there.
func TestNBDModule(t *testing.T) {
	sh(t, "modprobe", "nbd")
	if n := size(t, "/dev/nbd0"); n != 0 {
		t.Errorf("an unconnected /dev/nbd0 has %d bytes", n)
	}
	sh(t, "nbd-client", "-V")
}
