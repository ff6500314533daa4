package nbdserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/blkbak/blkbak"
)

// randomImage returns n bytes that no two ranges of share by accident.
func randomImage(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(p)
	return p
}

// memImage is an image in memory that can do everything. Grains that are all zero
// are holes.
type memImage struct {
	data  []byte
	grain int64
	cold  bool // nothing is pinned
}

func (m *memImage) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, off)
}

func (m *memImage) zero(off, n int64) bool {
	return len(bytes.Trim(m.data[off:off+n], "\x00")) == 0
}

func (m *memImage) Pin(dst []Piece, off, n int64) ([]Piece, bool) {
	for !m.cold && n > 0 {
		k := min(n, m.grain-off%m.grain)
		if m.zero(off, k) {
			dst = append(dst, Piece{Zeros: k})
		} else {
			dst = append(dst, Piece{Data: m.data[off : off+k]})
		}
		off, n = off+k, n-k
	}
	return dst, !m.cold
}

func (m *memImage) AppendRuns(_ context.Context, dst []Run, off, n int64, limit int) ([]Run, error) {
	for ; n > 0 && limit > 0; limit-- {
		k := min(n, m.grain-off%m.grain)
		dst = append(dst, Run{k, m.zero(off, k)})
		off, n = off+k, n-k
	}
	return dst, nil
}

// flakyImage fails reads that touch bad, each with its own error.
type flakyImage struct {
	io.ReaderAt
	bad blkbak.Extent
}

func (f flakyImage) ReadAt(p []byte, off int64) (int, error) {
	if off < f.bad.End() && off+int64(len(p)) > f.bad.Off {
		return 0, errors.New("bad sector")
	}
	return f.ReaderAt.ReadAt(p, off)
}

// slowImage takes its time, unless the context ends.
type slowImage struct {
	io.ReaderAt
	d time.Duration
}

func (s slowImage) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	select {
	case <-time.After(s.d):
		return s.ReadAt(p, off)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
