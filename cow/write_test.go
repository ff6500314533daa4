package cow

import (
	"context"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/blkbak/blkbak"
)

func TestRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name        string
		extents     []blkbak.Extent
		size, chunk int64
	}{
		{"nothing", nil, 1 << 16, 4096},
		{"empty extent", []blkbak.Extent{{Off: 5, Len: 0}}, 1 << 16, 4096},
		{"all", []blkbak.Extent{{Off: 0, Len: 1 << 20}}, 1 << 20, 512},
		{"one area full", []blkbak.Extent{{Off: 0, Len: 32 * 512}}, 1 << 20, 512},
		{"one area less one", []blkbak.Extent{{Off: 512, Len: 31 * 512}}, 1 << 20, 512},
		{"one area and one", []blkbak.Extent{{Off: 0, Len: 32 * 512}, {Off: 90 * 512, Len: 1}}, 1 << 20, 512},
		{"short last chunk", []blkbak.Extent{{Off: 99_999, Len: 1}}, 100_000, 4096},
		{"origin below a chunk", []blkbak.Extent{{Off: 1, Len: 1}}, 700, 1 << 16},
		{"shared chunk", []blkbak.Extent{{Off: 1, Len: 1}, {Off: 4000, Len: 200}, {Off: 9000, Len: 1}}, 1 << 16, 4096},
		{"chunk above a buffer", []blkbak.Extent{{Off: 3 << 20, Len: 5 << 20}}, 9<<20 + 1, 2 << 20},
	} {
		t.Run(c.name, func(t *testing.T) { roundTrip(t, c.extents, c.size, c.chunk) })
	}
}

func TestWriteUsage(t *testing.T) {
	ok := WriteOptions{OriginSize: 1 << 16}
	for _, c := range []struct {
		name    string
		extents []blkbak.Extent
		opts    WriteOptions
	}{
		{"no origin size", nil, WriteOptions{}},
		{"origin too large", nil, WriteOptions{OriginSize: math.MaxInt64}},
		{"chunk 1000", nil, WriteOptions{OriginSize: 1, ChunkSize: 1000}},
		{"chunk 256", nil, WriteOptions{OriginSize: 1, ChunkSize: 256}},
		{"unsorted", []blkbak.Extent{{Off: 4096, Len: 1}, {Off: 0, Len: 1}}, ok},
		{"overlap", []blkbak.Extent{{Off: 0, Len: 9}, {Off: 8, Len: 1}}, ok},
		{"beyond", []blkbak.Extent{{Off: 1 << 15, Len: 1<<15 + 1}}, ok},
		{"overflow", []blkbak.Extent{{Off: 1, Len: math.MaxInt64}}, ok},
		{"negative", []blkbak.Extent{{Off: -1, Len: 1}}, ok},
		{"negative length", []blkbak.Extent{{Off: 1, Len: -1}}, ok},
	} {
		if _, err := Write(t.Context(), make(memory, 1<<18), make(memory, 1<<16), c.extents, c.opts); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestWriteStops: a write that fails at any step leaves no store behind.
func TestWriteStops(t *testing.T) {
	extents := []blkbak.Extent{{Off: 0, Len: 40 * 512}}
	old := image(512, 1<<17, entriesFor(newLayout(512, 1<<17), []uint64{1, 2, 3}))
	full := errors.New("input/output error")
	for k := 1; ; k++ {
		dst := append(memory(nil), old...)
		w := &failing{memory: dst, left: k, err: full}
		_, err := Write(t.Context(), w, make(memory, 1<<16), extents, WriteOptions{OriginSize: 1 << 16, ChunkSize: 512})
		if err == nil {
			if k < 5 {
				t.Errorf("done in %d writes", k)
			}
			return
		}
		if !errors.Is(err, full) {
			t.Fatal(err)
		}
		if _, err := Read(t.Context(), dst, 1<<17, Options{}); k > 1 && !errors.Is(err, blkbak.ErrNeedsFull) {
			t.Errorf("stopped at write %d: %v", k, err)
		}
	}
}

// failing fails the write after left-1 others.
type failing struct {
	memory
	left int
	err  error
}

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if f.left--; f.left == 0 {
		return 0, f.err
	}
	return f.memory.WriteAt(p, off)
}

func TestWriteShortSource(t *testing.T) {
	extents := []blkbak.Extent{{Off: 0, Len: 8192}}
	_, err := Write(t.Context(), make(memory, 1<<16), make(memory, 8191), extents, WriteOptions{OriginSize: 8192})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, make(memory, 1<<16), make(memory, 8192), extents, WriteOptions{OriginSize: 8192}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestEachNotices: a table that changed since Read is not taken for the same.
func TestEachNotices(t *testing.T) {
	l := newLayout(512, 1<<16)
	for _, e := range []entry{{6, 3}, {5, 0}, {5, 34}, {5, 128}} {
		img := memory(image(512, 1<<16, entriesFor(l, []uint64{4, 5})))
		s := mustRead(t, img, 1<<16, Options{OriginSize: 1 << 16})
		writeTable(img, l, []entry{{4, 2}, e})
		err := s.Each(t.Context(), func(_, _ Chunk) error { return nil })
		var f *blkbak.FormatError
		if !errors.As(err, &f) || f.Off != 512+16 {
			t.Errorf("%v: %v", e, err)
		}
		if _, err := s.Overlay(t.Context(), img); !errors.Is(err, blkbak.ErrCorrupt) {
			t.Errorf("%v: overlay: %v", e, err)
		}
	}
	img := memory(image(512, 1<<16, nil))
	if _, err := mustRead(t, img, 1<<16, Options{}).Overlay(t.Context(), img); !errors.Is(err, blkbak.ErrUsage) {
		t.Errorf("overlay of unknown size: %v", err)
	}
}
