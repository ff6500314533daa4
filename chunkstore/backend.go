package chunkstore

import (
	"context"
	"io"
)

// Backend keeps write-once files by name. Names have one slash, between a
// directory from a fixed list and the rest; "config" has none.
//
// Errors match blkbak.ErrNotFound for a name that is not there. Implementations
// are safe for concurrent use.
type Backend interface {
	// Create makes a file of the given pieces. When it returns nil the file is
	// whole and durable; otherwise it does not exist, or holds what someone
	// else created: then the error matches blkbak.ErrExists. Of several callers,
	// in any processes, exactly one succeeds.
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
