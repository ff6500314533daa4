package vm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
	"golang.org/x/sys/unix"
)

// dmCreate makes a device-mapper device of one target, until the test ends or it
// is removed.
func dmCreate(t testing.TB, name string, bytes int64, target string) string {
	t.Helper()
	sh(t, "dmsetup", "create", name, "--table", fmt.Sprintf("0 %d %s", bytes/512, target))
	t.Cleanup(func() {
		if _, err := os.Stat("/dev/mapper/" + name); err == nil {
			sh(t, "dmsetup", "remove", "--retry", name)
		}
	})
	return "/dev/mapper/" + name
}

// TestWriterAcceptedByKernel lets the kernel use exception stores that package cow
// wrote: the snapshot must show what it was written to show, and go on.
func TestWriterAcceptedByKernel(t *testing.T) {
	const odd = 24<<20 - 3*512 // ends in the middle of a chunk of any size
	vg := newVG(t)
	origin := vg.create("origin", "24M")
	store := vg.create("store", "64M")
	fill(t, origin, func(p []byte, off int64) { copy(p, randomBytes(uint64(off), len(p))) })
	// What lies on the store's device looks like a table: the remains of another
	// store, which must not be taken for this one's.
	stale := bytes.Repeat([]byte{7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0}, directBlock/16)
	fill(t, store, func(p []byte, _ int64) { copy(p, stale) })
	for _, c := range []struct {
		name    string
		chunk   int64
		extents []blkbak.Extent
	}{
		{"Empty", 4 << 10, nil},
		{"First", 4 << 10, []blkbak.Extent{{Off: 0, Len: 1}}},
		{"Last", 4 << 10, []blkbak.Extent{{Off: odd - 1, Len: 1}}},
		{"AlmostFullArea", 4 << 10, []blkbak.Extent{{Off: 1 << 20, Len: 255 * 4096}}},
		{"FullArea", 4 << 10, []blkbak.Extent{{Off: 1 << 20, Len: 256 * 4096}}},
		{"OverFullArea", 4 << 10, []blkbak.Extent{{Off: 1 << 20, Len: 257 * 4096}}},
		{"ThreeFullAreas", 4 << 10, []blkbak.Extent{{Off: 4096, Len: 300 * 4096}, {Off: 20 << 20, Len: 468 * 4096}}},
		{"All", 4 << 10, []blkbak.Extent{{Off: 0, Len: odd}}},
		{"FullArea", 16 << 10, []blkbak.Extent{{Off: 3 << 20, Len: 1024 * 16384}}},
		{"Scattered", 16 << 10, scatter(300, odd)},
		{"Scattered", 64 << 10, scatter(100, odd)},
		{"All", 64 << 10, []blkbak.Extent{{Off: 0, Len: odd}}},
		{"Scattered", 512 << 10, scatter(9, odd)},
	} {
		t.Run(fmt.Sprintf("%s/%dKiB", c.name, c.chunk>>10), func(t *testing.T) {
			x := writerTest{t, origin, store, odd, c.chunk}
			x.run(c.extents)
		})
	}
}

// scatter returns about n small extents, some of which touch.
func scatter(n int, size int64) []blkbak.Extent {
	rng := rand.New(rand.NewPCG(uint64(n), 0))
	var e []blkbak.Extent
	for range n {
		e = append(e, blkbak.Extent{Off: rng.Int64N(size - 5000), Len: 1 + rng.Int64N(5000)})
	}
	return blkbak.MergeExtents(e)
}

type writerTest struct {
	*testing.T
	origin, store string
	size, chunk   int64
}

func (x *writerTest) run(extents []blkbak.Extent) {
	want := make([]byte, x.size) // what the snapshot is to show
	blocks(x, x.origin, func(off int64, p []byte) bool { copy(want[min(off, x.size):], p); return true })
	for i, e := range extents {
		copy(want[e.Off:e.End()], randomBytes(uint64(2*i+1), int(e.Len)))
	}
	x.write(want, extents)

	base := dmCreate(x, "writer-base", x.size, "linear "+x.origin+" 0")
	live := dmCreate(x, "writer-origin", x.size, "snapshot-origin "+base)
	snap := dmCreate(x, "writer-snap", x.size, fmt.Sprintf("snapshot %s %s P %d", base, x.store, x.chunk/512))
	x.wantContent(snap, want)
	if st := snapshotStatus(x, "writer-snap"); st.Usable() != nil || st.Allocated != x.allocated(extents) {
		x.Errorf("the kernel says %+v (%v), want %d bytes allocated", st, st.Usable(), x.allocated(extents))
	}

	// The kernel goes on: what changes in the origin is kept for the snapshot, and
	// what is written to the snapshot is in it.
	more := scribble(x, live, 11, 40, 4096)
	own := scribbleInto(x, snap, want, 12, 20, 4096)
	x.wantContent(snap, want)
	sh(x, "dmsetup", "remove", "--retry", "writer-snap")
	s := readStore(x, x.store, cow.Options{OriginSize: x.size})
	all := slices.Concat(extents, more, own)
	all = blkbak.AlignExtents(blkbak.MergeExtents(all), x.chunk, x.size)
	if got := s.Extents(); !slices.Equal(got, all) {
		x.Errorf("read back: %d extents, want %d\n%v\n%v", len(got), len(all), got, all)
	}
	// And all that is on the disk by now, loaded again, is the same snapshot.
	snap = dmCreate(x, "writer-snap", x.size, fmt.Sprintf("snapshot %s %s P %d", base, x.store, x.chunk/512))
	x.wantContent(snap, want)
	for _, name := range []string{"writer-snap", "writer-origin", "writer-base"} {
		sh(x, "dmsetup", "remove", "--retry", name)
	}
}

// write writes the store for a snapshot that shows want.
func (x *writerTest) write(want []byte, extents []blkbak.Extent) {
	x.Helper()
	d, err := blockdev.Open(x.store, blockdev.Options{Direct: true, Write: true, Exclusive: true})
	if err != nil {
		x.Fatal(err)
	}
	defer d.Close()
	o := cow.WriteOptions{OriginSize: x.size, ChunkSize: x.chunk, Size: d.Size()}
	if _, err := cow.Write(x.Context(), d, bytes.NewReader(want), extents, o); err != nil {
		x.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		x.Fatal(err)
	}
}

// allocated is how much of the store's device the kernel must find in use: the
// header, the data and the areas, that after a full one included.
func (x *writerTest) allocated(extents []blkbak.Extent) int64 {
	n := (blkbak.ExtentBytes(blkbak.AlignExtents(extents, x.chunk, x.size)) + x.chunk - 1) / x.chunk
	return (1 + n + n/(x.chunk/16) + 1) * x.chunk
}

// fill writes all of a device, in blocks that fn makes.
func fill(t testing.TB, dev string, fn func(p []byte, off int64)) {
	t.Helper()
	f := openDirect(t, dev, os.O_WRONLY)
	defer f.Close()
	buf := directBuffer(directBlock)
	for off, end := int64(0), size(t, dev); off < end; off += directBlock {
		fn(buf, off)
		if _, err := f.WriteAt(buf, off); err != nil {
			t.Fatal(err)
		}
	}
}

func (x *writerTest) wantContent(dev string, want []byte) {
	x.Helper()
	if n := size(x, dev); n != int64(len(want)) {
		x.Fatalf("%s has %d bytes, want %d", dev, n, len(want))
	}
	blocks(x, dev, func(off int64, p []byte) bool {
		if bytes.Equal(p, want[off:][:len(p)]) {
			return true
		}
		i := 0
		for p[i] == want[off:][i] {
			i++
		}
		x.Errorf("%s differs from what was written at byte %d", dev, off+int64(i))
		return false
	})
}

// scribbleInto does what scribble does to a device, and to its image in memory.
func scribbleInto(t testing.TB, dev string, image []byte, seed uint64, count, block int) []blkbak.Extent {
	t.Helper()
	written := scribble(t, dev, seed, count, block)
	f := openDirect(t, dev, os.O_RDONLY)
	defer f.Close()
	buf := directBuffer(block)
	for _, e := range written {
		for off := e.Off; off < e.End(); off += int64(block) {
			if _, err := f.ReadAt(buf, off); err != nil {
				t.Fatal(err)
			}
			copy(image[off:], buf)
		}
	}
	return written
}

// TestReadWhileAppending reads a snapshot's table again and again while writers
// make it grow. A table must list every write that was acknowledged before reading
// began, and none that was never begun.
func TestReadWhileAppending(t *testing.T) {
	for _, chunk := range []int64{4 << 10, 16 << 10, 64 << 10} {
		volume := "48M"
		if chunk == 4<<10 {
			volume = "24M" // 6144 chunks are enough
		}
		t.Run(fmt.Sprintf("%dKiB", chunk>>10), func(t *testing.T) {
			vg := newVG(t)
			origin := vg.create("data", volume)
			vg.lvm("lvcreate", "-qq", "-y", "-s", "-n", "snap", "-L", "72M", "-c", fmt.Sprintf("%db", chunk), vg.ref("data"))
			x := newAppendTest(t, origin, chunk)
			x.start(4)
			for round := range 30 {
				x.read(vg, round%2 == 0)
			}
			x.wait()
			s := readStore(t, vg.cow("snap"), cow.Options{OriginSize: x.size})
			if got, want := s.Exceptions, x.acked.count(); got != want {
				t.Errorf("in the end %d exceptions, %d chunks were written", got, want)
			}
			t.Logf("30 readings while the table grew to %d exceptions in %d areas; %d saw writes that were not acknowledged yet",
				s.Exceptions, s.Areas, x.raced)
			if x.raced == 0 {
				t.Error("no reading raced with a write")
			}
		})
	}
}

// chunkSet is a set of chunk numbers that several goroutines add to.
type chunkSet []atomic.Bool

func (s chunkSet) count() (n int64) {
	for i := range s {
		if s[i].Load() {
			n++
		}
	}
	return n
}

type appendTest struct {
	*testing.T
	origin       string
	chunk, size  int64
	begun, acked chunkSet
	order        []int // of writing: each chunk once
	next         atomic.Int64
	limit        atomic.Int64 // writers wait before this one
	wg           sync.WaitGroup
	raced        int
}

func newAppendTest(t *testing.T, origin string, chunk int64) *appendTest {
	x := &appendTest{T: t, origin: origin, chunk: chunk, size: size(t, origin)}
	n := int(x.size / chunk)
	x.begun, x.acked = make(chunkSet, n), make(chunkSet, n)
	x.order = rand.New(rand.NewPCG(uint64(chunk), 0)).Perm(n)
	return x
}

// start writes chunks, a block of each, in the background. Each reading has its
// part of them to race with.
func (x *appendTest) start(writers int) {
	x.Cleanup(x.wait)
	for range writers {
		f := openDirect(x, x.origin, os.O_WRONLY|unix.O_SYNC)
		x.wg.Go(func() {
			defer f.Close()
			buf := directBuffer(4096)
			for {
				i := x.next.Add(1) - 1
				if i >= int64(len(x.order)) {
					return
				}
				for i >= x.limit.Load() {
					unix.Nanosleep(&unix.Timespec{Nsec: 200_000}, nil)
				}
				c := x.order[i]
				x.begun[c].Store(true)
				if _, err := f.WriteAt(buf, int64(c)*x.chunk); err != nil {
					x.Error(err)
					return
				}
				x.acked[c].Store(true)
			}
		})
	}
}

// read reads the table once while a part of the writes is under way.
func (x *appendTest) read(vg *volumeGroup, known bool) {
	x.Helper()
	part := int64(len(x.order)) / 32
	done := x.acked.count()
	x.limit.Add(part)
	for x.acked.count() < done+part/4 && !x.Failed() {
		unix.Nanosleep(&unix.Timespec{Nsec: 100_000}, nil)
	}
	o := cow.Options{OriginSize: x.size}
	if known {
		o.Areas = snapshotStatus(x, vg.dm("snap")).Areas(x.chunk)
	}
	before := make([]bool, len(x.acked))
	for i := range before {
		before[i] = x.acked[i].Load()
	}
	s := readStore(x, vg.cow("snap"), o)
	listed := make([]bool, len(x.acked))
	for e := range s.All() {
		for off := e.Off; off < e.End(); off += x.chunk {
			listed[off/x.chunk] = true
		}
	}
	more := 0
	for i := range listed {
		switch {
		case before[i] && !listed[i]:
			x.Fatalf("chunk %d was acknowledged before the table was read, and is not in it", i)
		case listed[i] && !x.begun[i].Load():
			x.Fatalf("chunk %d is in the table, and nobody wrote it", i)
		case listed[i] && !before[i]:
			more++
		}
	}
	if more > 0 {
		x.raced++
	}
}

// wait lets the writers come to their end.
func (x *appendTest) wait() {
	x.limit.Store(int64(len(x.order)))
	x.wg.Wait()
}
