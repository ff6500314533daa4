package vm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"github.com/blkbak/blkbak"
	"golang.org/x/sys/unix"
)

// directBlock is how much is read or written at once without the page cache.
const directBlock = 1 << 20

// directBuffer returns n bytes that start on a page.
func directBuffer(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := page - int(uintptr(unsafe.Pointer(&b[0]))%page)
	return b[skip:][:n:n]
}

// openDirect opens a device, or a file on a filesystem that can do it, without
// the page cache; on others (tmpfs) with it.
func openDirect(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0o600)
	if errors.Is(err, syscall.EINVAL) {
		f, err = os.OpenFile(path, flags, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// size returns the size of a device or a file in bytes.
func size(t testing.TB, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// blocks reads a device or file from start to end, past the page cache, and calls
// fn with each part and its offset.
func blocks(t testing.TB, path string, fn func(off int64, p []byte) bool) {
	t.Helper()
	f := openDirect(t, path, os.O_RDONLY)
	defer f.Close()
	buf := directBuffer(directBlock)
	for off := int64(0); ; {
		n, err := f.Read(buf)
		if n > 0 && !fn(off, buf[:n]) {
			return
		}
		off += int64(n)
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("%s at byte %d: %v", path, off, err)
		}
	}
}

// hashOf returns the SHA-256 of a device or file, read past the page cache.
func hashOf(t testing.TB, path string) string {
	t.Helper()
	h := sha256.New()
	blocks(t, path, func(_ int64, p []byte) bool { h.Write(p); return true })
	return hex.EncodeToString(h.Sum(nil))
}

// wantSame fails the test unless two devices or files hold the same bytes, all
// of them, and says where they differ first.
func wantSame(t testing.TB, got, want string) {
	t.Helper()
	if g, w := size(t, got), size(t, want); g != w {
		t.Errorf("%s has %d bytes, %s has %d", got, g, want, w)
		return
	}
	f := openDirect(t, want, os.O_RDONLY)
	defer f.Close()
	buf := directBuffer(directBlock)
	blocks(t, got, func(off int64, p []byte) bool {
		t.Helper()
		q := buf[:len(p)]
		// A direct read takes whole blocks; past the end of a file less comes.
		if n, err := f.ReadAt(buf, off); n < len(p) {
			t.Fatalf("%s at byte %d: %v", want, off, err)
		}
		if bytes.Equal(p, q) {
			return true
		}
		i := 0
		for p[i] == q[i] {
			i++
		}
		t.Errorf("%s and %s differ at byte %d: %#02x, want %#02x", got, want, off+int64(i), p[i], q[i])
		return false
	})
}

// flushBuffers empties the page cache of a device, as its next user wants it.
func flushBuffers(t testing.TB, dev string) {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		t.Fatalf("BLKFLSBUF %s: %v", dev, err)
	}
}

// entry is one file in a tree.
type entry struct {
	mode fs.FileMode
	size int64  // regular files
	sum  string // SHA-256 of a regular file, target of a symbolic link
}

func (e entry) String() string { return fmt.Sprintf("%v %d %s", e.mode, e.size, e.sum) }

// treeOf returns all files below dir, by path; lost+found apart.
func treeOf(t testing.TB, dir string) map[string]entry {
	t.Helper()
	tree := map[string]entry{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if name == "lost+found" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{mode: info.Mode()}
		switch {
		case e.mode.IsRegular():
			e.size = info.Size()
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			e.sum = fmt.Sprintf("%x", sha256.Sum256(data))
		case e.mode&fs.ModeSymlink != 0:
			if e.sum, err = os.Readlink(path); err != nil {
				return err
			}
		}
		tree[name] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// wantTree fails the test unless the files below dir are those of an earlier
// treeOf, and lists what differs.
func wantTree(t testing.TB, dir string, want map[string]entry) {
	t.Helper()
	got := treeOf(t, dir)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[name]; !ok {
			t.Errorf("%s: %s is missing", dir, name)
		} else if g != want[name] {
			t.Errorf("%s: %s is %v, want %v", dir, name, g, want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s should not be there", dir, name)
		}
	}
}

// randomBytes returns n bytes that the seed determines.
func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	return p
}

// writeRandom writes a file of n bytes that the seed determines, and syncs it.
func writeRandom(t testing.TB, path string, seed uint64, n int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(randomBytes(seed, n)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// scribble writes count random blocks of that size at random places of a device,
// past the page cache and to the disk, and returns where, sorted and merged.
func scribble(t testing.TB, dev string, seed uint64, count, block int) []blkbak.Extent {
	t.Helper()
	f := openDirect(t, dev, os.O_WRONLY|os.O_SYNC)
	defer f.Close()
	rng := rand.New(rand.NewPCG(seed, 0))
	places := size(t, dev) / int64(block)
	buf := directBuffer(block)
	var written []blkbak.Extent
	for i := range count {
		off := rng.Int64N(places) * int64(block)
		copy(buf, randomBytes(seed<<16+uint64(i), block))
		if _, err := f.WriteAt(buf, off); err != nil {
			t.Fatalf("%s at byte %d: %v", dev, off, err)
		}
		written = append(written, blkbak.Extent{Off: off, Len: int64(block)})
	}
	return blkbak.MergeExtents(written)
}
