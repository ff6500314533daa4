//go:build !unix

package chunkstore

import (
	"io"
	"os"
)

// Where files cannot be mapped they are read.
func mmap(f *os.File, size int64) ([]byte, error) {
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

func munmap([]byte) error { return nil }

func noSpace(err error) error { return err }
