package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
)

// restoreSize makes several pieces of 1 MiB, the last one odd.
const restoreSize = 5<<20 + 12345

// aPoint makes a point of an image with data, holes, and a page of data in a
// chunk of zeros.
func aPoint(t testing.TB) (*Engine, catalog.Point, []byte) {
	t.Helper()
	e := newEngine(t, 64<<10)
	r := rand.New(rand.NewPCG(3, 4))
	data := make([]byte, restoreSize)
	for _, run := range []blkbak.Extent{{Off: 0, Len: 1<<20 + 100}, {Off: 2 << 20, Len: 300 << 10}, {Off: 3<<20 + 4096*5, Len: 4096}, {Off: restoreSize - 77, Len: 77}} {
		for i := range run.Len {
			data[run.Off+i] = byte(r.Uint32()) | 1
		}
	}
	path := filepath.Join(t.TempDir(), "image")
	writeFile(t, path, data)
	return e, e.mustSnapshot(t, Request{Source: path, Volume: "disk"}), data
}

func (e *Engine) mustRestore(t testing.TB, req RestoreRequest) Restored {
	t.Helper()
	out, err := e.Restore(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// onlyFiles wants these names in dir and no others.
func onlyFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range names {
		got = append(got, n.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}

func TestRestoreNewFile(t *testing.T) {
	e, p, data := aPoint(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "out.img")
	out := e.mustRestore(t, RestoreRequest{Point: p, Target: path, Verify: true})
	if !bytes.Equal(readFile(t, path), data) {
		t.Error("the file is not the image")
	}
	if !out.Verified || out.Size != restoreSize || out.Zeroed != 0 {
		t.Errorf("%+v", out)
	}
	// What is written is pages with data in them, and only those take room.
	var pages int64
	for off := 0; off < len(data); off += compareGrain {
		if page := data[off:min(off+compareGrain, len(data))]; !isZero(page) {
			pages += int64(len(page))
		}
	}
	if out.Written != pages {
		t.Errorf("%d bytes written, want %d", out.Written, pages)
	}
	if n := blocks(t, path); n > pages+8*compareGrain {
		t.Errorf("the file takes %d bytes for %d of data", n, pages)
	}
	onlyFiles(t, dir, "out.img")
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// TestRestoreInPlace counts what is written to a file that differs in known places.
func TestRestoreInPlace(t *testing.T) {
	e, p, data := aPoint(t)
	path := filepath.Join(t.TempDir(), "disk")
	for _, c := range []struct {
		name            string
		damage          func(b []byte) []byte
		written, zeroed int64
	}{
		{"equal", func(b []byte) []byte { return b }, 0, 0},
		{"a byte in a page", func(b []byte) []byte { b[5000] ^= 1; return b }, compareGrain, 0},
		{"two pages apart", func(b []byte) []byte { b[0] ^= 1; b[4096*7+9] ^= 1; return b }, 2 * compareGrain, 0},
		{"the odd end", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, restoreSize % compareGrain, 0},
		{"a byte where a hole is", func(b []byte) []byte { b[4<<20+5] = 1; return b }, 0, 1 << 20},
		{"grown", func(b []byte) []byte { return append(b, 1, 2, 3) }, 0, 0},
	} {
		writeFile(t, path, c.damage(slices.Clone(data)))
		out := e.mustRestore(t, RestoreRequest{Point: p, Target: path, Force: true, Verify: true})
		if !bytes.Equal(readFile(t, path), data) {
			t.Errorf("%s: the file is not the image", c.name)
		}
		if out.Written != c.written || out.Zeroed > c.zeroed || (out.Zeroed > 0) != (c.zeroed > 0) {
			t.Errorf("%s: %d written, %d zeroed; want %d and %d at most", c.name, out.Written, out.Zeroed, c.written, c.zeroed)
		}
	}
	writeFile(t, path, data[:100])
	e.mustRestore(t, RestoreRequest{Point: p, Target: path, Force: true, Verify: true})
	if !bytes.Equal(readFile(t, path), data) {
		t.Error("a file that was shorter is not the image")
	}
	// Over garbage, holes are made where the image has none of it.
	writeFile(t, path, bytes.Repeat([]byte{0xaa}, restoreSize))
	e.mustRestore(t, RestoreRequest{Point: p, Target: path, Force: true})
	if n := blocks(t, path); !bytes.Equal(readFile(t, path), data) || n > 3<<20 {
		t.Errorf("the file takes %d bytes, or is not the image", n)
	}
}

func TestRestoreRefuses(t *testing.T) {
	e, p, data := aPoint(t)
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	writeFile(t, there, []byte("precious"))
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	behind := filepath.Join(dir, "behind")
	if err := os.Symlink(e.RepoDir, behind); err != nil {
		t.Fatal(err)
	}
	held := filepath.Join(dir, "held")
	writeFile(t, held, data)
	holder, err := blockdev.Open(held, blockdev.Options{Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	for _, c := range []struct {
		name, target string
		force        bool
		want         error
	}{
		{"exists", there, false, blkbak.ErrExists},
		{"a directory", dir, true, blkbak.ErrUsage},
		{"a character device", "/dev/null", true, blkbak.ErrUsage},
		{"no such directory", filepath.Join(dir, "no", "file"), false, os.ErrNotExist},
		{"a link to nothing", dangling, false, os.ErrNotExist},
		{"in the repository", filepath.Join(e.RepoDir, "packs", "x"), false, blkbak.ErrUsage},
		{"a file of the repository", filepath.Join(e.RepoDir, "config"), true, blkbak.ErrUsage},
		{"in the repository by a link", filepath.Join(behind, "idx", "x"), true, blkbak.ErrUsage},
		{"another restore is at work", held, true, blkbak.ErrBusy},
	} {
		if _, err := e.Restore(t.Context(), RestoreRequest{Point: p, Target: c.target, Force: c.force}); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
	}
	if string(readFile(t, there)) != "precious" {
		t.Error("a refused target was written to")
	}
	onlyFiles(t, dir, "behind", "dangling", "held", "there")
}

// TestRestoreLeftovers finds the partial files of restores that were killed, and
// of one that is at work.
func TestRestoreLeftovers(t *testing.T) {
	e, p, _ := aPoint(t)
	dir := t.TempDir()
	target := filepath.Join(dir, "disk")
	dead, alive := filepath.Join(dir, ".disk.partial-1"), filepath.Join(dir, ".disk.partial-2")
	for _, name := range []string{dead, alive, filepath.Join(dir, ".disk2.partial-3")} {
		writeFile(t, name, []byte("left"))
	}
	holder, err := blockdev.Open(alive, blockdev.Options{Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	e.mustRestore(t, RestoreRequest{Point: p, Target: target})
	onlyFiles(t, dir, ".disk.partial-2", ".disk2.partial-3", "disk")
}

// faultySink fails after so many bytes, as a full disk does.
type faultySink struct {
	sink
	room int64
}

func (f *faultySink) write(p []byte, off int64) error {
	if f.room -= int64(len(p)); f.room < 0 {
		return syscall.ENOSPC
	}
	return f.sink.write(p, off)
}

func TestRestoreFails(t *testing.T) {
	e, p, data := aPoint(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")

	// The disk fills up.
	target, err := newTargetFile(path, p.Size)
	if err != nil {
		t.Fatal(err)
	}
	r := e.mustOpen(t, p)
	err = r.run(t.Context(), &faultySink{target, 1 << 20})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "write ") {
		t.Errorf("error %v", err)
	}
	if err := target.close(err == nil); err != nil {
		t.Error(err)
	}
	onlyFiles(t, dir)

	// Somebody takes the name meanwhile: what is theirs stays.
	e.Progress = func(string, int64, int64) { writeFile(t, path, []byte("theirs")) }
	if _, err := e.Restore(t.Context(), RestoreRequest{Point: p, Target: path}); !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v", err)
	}
	onlyFiles(t, dir, "disk")
	if string(readFile(t, path)) != "theirs" {
		t.Error("a file that came meanwhile was replaced")
	}
	os.Remove(path)

	// It is called off in the middle.
	ctx, cancel := context.WithCancel(t.Context())
	e.Progress = func(string, int64, int64) { cancel() }
	if _, err := e.Restore(ctx, RestoreRequest{Point: p, Target: path}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	onlyFiles(t, dir)

	// The stored bytes are damaged: no file is better than a wrong one.
	e.Progress = func(string, int64, int64) {}
	damagePacks(t, e)
	if _, err := e.Restore(t.Context(), RestoreRequest{Point: p, Target: path}); !errors.Is(err, blkbak.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	onlyFiles(t, dir)
	// A target that has the bytes already does not help: what is compared is read.
	writeFile(t, path, data)
	if _, err := e.Restore(t.Context(), RestoreRequest{Point: p, Target: path, Force: true}); !errors.Is(err, blkbak.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

func (e *Engine) mustOpen(t testing.TB, p catalog.Point) *restore {
	t.Helper()
	im, err := image.Open(t.Context(), e.Store, p.Root, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &restore{engine: e, image: im}
}

// damagePacks flips a bit in the middle of every pack with data in it.
func damagePacks(t testing.TB, e *Engine) {
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(e.RepoDir, "packs", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	for _, name := range packs {
		b := readFile(t, name)
		if len(b) < 100<<10 {
			continue
		}
		b[len(b)/2] ^= 0x10
		if err := os.Chmod(name, 0o600); err != nil {
			t.Fatal(err)
		}
		writeFile(t, name, b)
	}
}

// TestVerify changes the target between the writing and the reading back.
func TestVerify(t *testing.T) {
	e, p, data := aPoint(t)
	for _, off := range []int64{0, 4096*3 + 1, 2<<20 + 5, 4 << 20, restoreSize - 1} {
		dir := t.TempDir()
		path := filepath.Join(dir, "disk")
		for _, fresh := range []bool{true, false} {
			if !fresh {
				writeFile(t, path, data)
			}
			e.Progress = func(what string, done, _ int64) {
				if what != "verifying" && done < restoreSize || what == "verifying" {
					return
				}
				name := path
				if fresh {
					left, _ := filepath.Glob(filepath.Join(dir, ".disk.partial-*"))
					name = left[0]
				}
				f, err := os.OpenFile(name, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				f.WriteAt([]byte{data[off] ^ 1}, off)
				f.Close()
			}
			// The last piece is put after progress was told of it, and may undo the
			// damage in its own pages: those are for the other offsets.
			if off == restoreSize-1 {
				e.Progress = flipOnVerify(t, e.Progress)
			}
			_, err := e.Restore(t.Context(), RestoreRequest{Point: p, Target: path, Force: true, Verify: true})
			if !errors.Is(err, blkbak.ErrCorrupt) {
				t.Errorf("byte %d changed, fresh %v: error %v", off, fresh, err)
			}
			if fresh {
				onlyFiles(t, dir)
			}
		}
	}
}

// flipOnVerify does what damage does, but when the verifying has begun.
func flipOnVerify(t testing.TB, damage func(string, int64, int64)) func(string, int64, int64) {
	once := false
	return func(what string, _, total int64) {
		if what == "verifying" && !once {
			once = true
			damage("restoring", total, total)
		}
	}
}

func TestRestoreStream(t *testing.T) {
	e, p, data := aPoint(t)
	if got := e.content(t, p); !bytes.Equal(got, data) {
		t.Error("the stream is not the image")
	}
	r, w := io.Pipe()
	go func() {
		io.CopyN(io.Discard, r, 1<<20)
		r.CloseWithError(syscall.EPIPE)
	}()
	if _, err := e.Restore(t.Context(), RestoreRequest{Point: p, Stream: w}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("error %v", err)
	}
}

// TestCancelLeaksNothing calls off snapshots and restores at every piece. The
// bubble ends only when every goroutine has.
func TestCancelLeaksNothing(t *testing.T) {
	e, p, data := aPoint(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	writeFile(t, image, data)
	for _, job := range []func(context.Context) error{
		func(ctx context.Context) error {
			_, _, err := e.Snapshot(ctx, Request{Source: image, Volume: "other", Full: true})
			return err
		},
		func(ctx context.Context) error {
			_, err := e.Restore(ctx, RestoreRequest{Point: p, Target: filepath.Join(dir, "out"), Verify: true})
			return err
		},
		func(ctx context.Context) error {
			_, err := e.Restore(ctx, RestoreRequest{Point: p, Stream: io.Discard})
			return err
		},
	} {
		canceled := 0
		for at := 0; ; at++ {
			var err error
			calls := 0
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				e.Progress = func(string, int64, int64) {
					if calls++; calls > at {
						cancel()
					}
				}
				err = job(ctx)
			})
			if calls <= at { // the job ended before
				if err != nil {
					t.Error(err)
				}
				break
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("canceled at %d: %v", at, err)
			}
			if err != nil {
				canceled++
			}
			os.Remove(filepath.Join(dir, "out"))
		}
		if canceled < 3 {
			t.Errorf("%d of the jobs were called off", canceled)
		}
	}
	os.Remove(filepath.Join(dir, "out"))
	onlyFiles(t, dir, "image")
}
