package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/blkbak/blkbak"
)

// Backend keeps write-once files by name. Names have one slash, between a
// directory from a fixed list and the rest; "config" has none.
//
// Errors match blkbak.ErrNotFound for a name that is not there. Implementations
// are safe for concurrent use.
type Backend interface {
	// Create makes a file of the given pieces. When it returns nil the file is
	// whole and durable. If the file exists already the error matches
	// blkbak.ErrExists. After any other error it does not exist, or it is whole
	// and nobody knows whether it is durable. Of several callers, in any
	// processes, at most one succeeds.
	Create(ctx context.Context, name string, data ...[]byte) error

	// Open gives access to a file.
	Open(ctx context.Context, name string) (Object, error)

	// List returns the files in the directory dir, in no order.
	List(ctx context.Context, dir string) ([]Entry, error)

	// Remove deletes a file durably. It is no error if it does not exist.
	Remove(ctx context.Context, name string) error

	// Hold takes the exclusive, crash-released hold on an existing file that
	// tells others its owner is alive. If another process, or another holder in
	// this one, has it, the error matches blkbak.ErrBusy.
	Hold(ctx context.Context, name string) (release func() error, err error)
}

// Object is an open file of a Backend. ReadAt is safe for concurrent use.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// mapper is an Object whose bytes can be mapped into memory instead of read. The
// mapping is valid until the object is closed.
type mapper interface {
	Map() ([]byte, error)
}

// Entry is one file of a listing.
type Entry struct {
	Name string // the whole name, directory included
	Size int64
}

// readFull fills b from off on. Too few bytes are damage; that they cannot be
// read is not, or nobody knows yet.
func readFull(name string, r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return &blkbak.FormatError{Format: name, Off: off + int64(n), Msg: fmt.Sprintf("ends here, %d bytes are missing", len(b)-n)}
	}
	return fmt.Errorf("read %s at byte %d: %w", name, off+int64(n), err)
}
