package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/blkbak/blkbak"
)

func TestCreateHasOneWinner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "register")
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			err := Create(path, 0o600, fmt.Appendf(nil, "writer %02d", i))
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, blkbak.ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d writers won", won.Load())
	}
	onlyFile(t, path, 9)
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "the second"} {
		if err := Replace(path, 0o640, []byte(text[:1]), []byte(text[1:])); err != nil {
			t.Fatal(err)
		}
		onlyFile(t, path, len(text))
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", st.Mode())
	}
}

func TestFailedPlaceLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "d")
	if err := os.MkdirAll(filepath.Join(target, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(target, 0o600, []byte("x")); err == nil {
		t.Error("a directory with entries was replaced")
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestTryLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, blkbak.ErrBusy) {
		t.Errorf("second lock: %v", err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	l, err = TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Unlock()
}

func onlyFile(t *testing.T, path string, size int) {
	t.Helper()
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 || names[0].Name() != filepath.Base(path) {
		t.Errorf("directory holds %v, %v", names, err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != int64(size) {
		t.Errorf("%v, %v", st, err)
	}
}
