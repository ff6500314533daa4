//go:build unix

package engine

import (
	"os"
	"syscall"
	"testing"
)

// blocks is how many bytes a file takes on its filesystem.
func blocks(t testing.TB, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Blocks * 512
}
