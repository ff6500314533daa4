//go:build unix

package chunkstore

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/blkbak/blkbak"
)

func mmap(f *os.File, size int64) ([]byte, error) {
	if int64(int(size)) != size {
		return nil, errors.New("file too large for this machine's address space")
	}
	return syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
}

func munmap(b []byte) error { return syscall.Munmap(b) }

// noSpace makes a full disk recognisable.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return blkbak.WithHint(fmt.Errorf("%w: %w", blkbak.ErrNoSpace, err),
			"free some room where the repository lies; nothing that was committed is affected")
	}
	return err
}
