package nbdserver

import (
	"context"
	"fmt"
	"io"

	"github.com/blkbak/blkbak"
	"github.com/pojntfx/go-nbd/pkg/backend"
)

// Exports says what a server has to offer. Its methods are called from many
// connections at once.
type Exports interface {
	// Open prepares the export called name for one connection, which releases it
	// when it ends. The empty name asks for the default export. An error that is
	// blkbak.ErrNotFound tells the client that there is no such export.
	Open(ctx context.Context, name string) (*Export, error)
	// List returns what a client may see. An export need not be listed to be opened.
	List(ctx context.Context) ([]Info, error)
}

// Info describes an export in a list.
type Info struct {
	Name        string
	Description string // for people, may be empty
}

// Export is a disk as clients see it. All exports are read-only.
type Export struct {
	Info
	Size  int64 // bytes
	Image Image
	// Release, when not nil, is called once for each successful Open, after the
	// last use of Image.
	Release func()
}

// Image holds the bytes of an export. ReadAt is only ever asked for ranges within
// Export.Size, from many goroutines at once; what it reads must not change while
// the export is open, because clients may use several connections. A short or
// failed read fails that one request of the client, and nothing else.
//
// An Image that also implements Pinner, Mapper or ContextReader is served better.
type Image interface {
	io.ReaderAt
}

// ContextReader is an Image whose reads may take long and can be given up: ctx ends
// when the client is gone. They are always made beside the connection's reader,
// where those of other images are made there as long as they turn out to be quick.
type ContextReader interface {
	ReadAtContext(ctx context.Context, p []byte, off int64) (int, error)
}

// Piece is a part of an image: Data, or when that is nil, Zeros bytes of zero.
type Piece struct {
	Data  []byte
	Zeros int64
}

// Len is the number of bytes that p stands for.
func (p Piece) Len() int64 {
	if p.Data != nil {
		return int64(len(p.Data))
	}
	return p.Zeros
}

// Pinner is an Image that has parts of itself in memory.
type Pinner interface {
	// Pin appends to dst the pieces that make up the n bytes at off. It reports
	// false when any of them is not in memory, and never blocks or reads. The
	// server sends the data without copying it: the bytes must never change
	// again, and stay valid for as long as somebody refers to them.
	Pin(dst []Piece, off, n int64) ([]Piece, bool)
}

// Run is a stretch of an image that is all zeros, or that may hold anything.
type Run struct {
	Len  int64
	Zero bool
}

// Mapper is an Image that knows where it is zero. Clients skip those parts when
// they copy.
type Mapper interface {
	// AppendRuns appends to dst the runs from off on, without gaps, and stops
	// after limit runs or n bytes, whichever comes first. It appends at least one.
	AppendRuns(ctx context.Context, dst []Run, off, n int64, limit int) ([]Run, error)
}

// Fixed is a set of exports that never changes. Its exports are shared by all
// connections, so they need no Release. A lone export is also the default one.
type Fixed []*Export

// Open returns the export called name.
func (f Fixed) Open(_ context.Context, name string) (*Export, error) {
	for _, e := range f {
		if e.Name == name || name == "" && len(f) == 1 {
			return e, nil
		}
	}
	return nil, fmt.Errorf("export %q: %w", name, blkbak.ErrNotFound)
}

// List returns all exports in their order.
func (f Fixed) List(context.Context) ([]Info, error) {
	infos := make([]Info, len(f))
	for i, e := range f {
		infos[i] = e.Info
	}
	return infos, nil
}

// FromBackend makes an export of a go-nbd backend, which stays its caller's to
// close. Only ReadAt and Size are used.
func FromBackend(name string, b backend.Backend) (*Export, error) {
	size, err := b.Size()
	if err != nil {
		return nil, fmt.Errorf("size of export %q: %w", name, err)
	}
	return &Export{Info: Info{Name: name}, Size: size, Image: b}, nil
}
