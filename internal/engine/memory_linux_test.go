package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
)

// memoryLimit is what a run may take, whatever the size of the device.
const memoryLimit = 256 << 20

// measured is must, with the peak of the process's resident memory in bytes. The
// peak that wait4 reports would begin with this process's own, which is what the
// new one runs on until it executes the program.
func (p *program) measured(args ...string) (out []byte, peak int64) {
	p.Helper()
	cmd := p.command(args...)
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	ended := make(chan int64)
	stop := make(chan struct{})
	go func() {
		var peak int64
		for {
			peak = max(peak, highWater(cmd.Process.Pid))
			select {
			case <-stop:
				ended <- peak
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	code := p.wait(cmd)
	close(stop)
	if peak = <-ended; code != 0 || peak == 0 {
		p.Fatalf("%v: exit code %d, %d bytes of memory\n%s", args, code, peak, stderr(cmd))
	}
	return stdout(cmd), peak
}

// highWater is the most memory that the program of a process ever had.
func highWater(pid int) int64 {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || filepath.Base(exe) != "blkbak" {
		return 0 // not that program yet, or gone
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	fmt.Sscan(line, &kib)
	return kib << 10
}

// TestMemory makes points of a device of 1 TiB with data in 2000 places, in every
// way there is, and looks at the processes' peak of memory.
func TestMemory(t *testing.T) {
	const size, piece, pieces = 1 << 40, 64 << 10, 2000
	p := newProgram(t)
	dir := t.TempDir()
	image, store := filepath.Join(dir, "image"), filepath.Join(dir, "cow")
	f, err := blockdev.Open(image, blockdev.Options{Write: true, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Skip("the filesystem has no files of 1 TiB: ", err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	places := make([]int64, pieces)
	fill := func(places []int64) {
		for i := range places {
			places[i] = r.Int64N(size/piece) * piece
			if _, err := f.WriteAt(noise(piece, r.Uint64()|1), places[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(places)
	measure := func(want blkbak.Mode, args ...string) made {
		t.Helper()
		out, rss := p.measured(append([]string{"snapshot", image, "--volume", "disk", "--json"}, args...)...)
		var m made
		p.decode(out, &m)
		t.Logf("%-7s %4d MiB of memory, %9d bytes read", m.Mode, rss>>20, m.Read)
		if rss > memoryLimit || m.Mode != want {
			t.Errorf("%s: %d bytes of memory, want %d and %s", m.Mode, rss, memoryLimit, want)
		}
		return m
	}
	measure(blkbak.ModeFull)

	changes := func() (extents []blkbak.Extent) {
		more := make([]int64, 500)
		fill(more)
		for _, off := range more {
			extents = append(extents, blkbak.Extent{Off: off, Len: piece})
		}
		places = append(places, more...)
		return blkbak.MergeExtents(extents)
	}
	changes()
	measure(blkbak.ModeScan)

	extents := changes()
	w, err := os.Create(store)
	if err != nil {
		t.Fatal(err)
	}
	// What the snapshot held there is of no matter: the table counts.
	_, err = cow.Write(t.Context(), w, f, extents, cow.WriteOptions{OriginSize: size})
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	m := measure(blkbak.ModeCOW, "--cow", store)
	if want := blkbak.ExtentBytes(extents); m.Read != want {
		t.Errorf("%d bytes read, %d changed", m.Read, want)
	}
	if full := measure(blkbak.ModeFull, "--full"); full.Root != m.Root {
		t.Errorf("root %v by the exception store, %v by reading all", m.Root, full.Root)
	}

	out := filepath.Join(dir, "out")
	_, rss := p.measured("restore", "disk@~1", "--to", out)
	t.Logf("restore %4d MiB of memory", rss>>20)
	if rss > memoryLimit {
		t.Errorf("restore: %d bytes of memory, want %d", rss, memoryLimit)
	}
	got, err := blockdev.Open(out, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	a, b := make([]byte, piece), make([]byte, piece)
	for _, off := range places {
		if _, err := f.ReadAt(a, off); err != nil {
			t.Fatal(err)
		}
		if _, err := got.ReadAt(b, off); err != nil || !bytes.Equal(a, b) {
			t.Fatalf("restored bytes at %d differ, %v", off, err)
		}
	}
	if n := blocks(t, out); n > int64(len(places))*piece+64<<20 {
		t.Errorf("the restored file takes %d bytes", n)
	}
}
