package cow

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// TestDirectIO reads a store from a file system that takes O_DIRECT seriously.
func TestDirectIO(t *testing.T) {
	img := unpack(t, "testdata/boundary-257", "cow")
	path := filepath.Join(t.TempDir(), "cow")
	if err := os.WriteFile(path, img, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECT, 0)
	if errors.Is(err, syscall.EINVAL) {
		t.Skip("no direct I/O here:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	opts := Options{OriginSize: 8 << 20}
	want := mustRead(t, img, int64(len(img)), opts)
	got := mustRead(t, f, int64(len(img)), opts)
	if !slices.Equal(got.Extents(), want.Extents()) || !slices.Equal(tableOf(t, got), tableOf(t, want)) {
		t.Error("differs")
	}
}
