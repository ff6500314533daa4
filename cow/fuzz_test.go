package cow

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/blkbak/blkbak"
)

// agree reads img with Read and with the plain reference, which must come to the
// same result, or name the same byte.
func agree(t *testing.T, img []byte, opts Options) {
	t.Helper()
	s, err := Read(t.Context(), memory(img), int64(len(img)), opts)
	h, headErr := ReadHeader(memory(img), int64(len(img)))
	if headErr == nil {
		headErr = h.Validate()
	}
	if headErr != nil {
		if err == nil || err.Error() != headErr.Error() {
			t.Fatalf("header: %v; Read: %v", headErr, err)
		}
		return
	}
	want, areas, wantErr := reference(img, opts.OriginSize)
	if wantErr != nil {
		var got, ref *blkbak.FormatError
		if !errors.As(wantErr, &ref) || !errors.As(err, &got) || got.Off != ref.Off {
			t.Fatalf("got %v, want %v", err, wantErr)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.Exceptions != int64(len(want)) || s.Areas != areas {
		t.Fatalf("%d exceptions in %d areas, want %d in %d", s.Exceptions, s.Areas, len(want), areas)
	}
	if !slices.Equal(s.Extents(), extentsOf(want, h.ChunkSize(), opts.OriginSize)) {
		t.Fatal("extents differ")
	}
	if !slices.Equal(tableOf(t, s), want) {
		t.Fatal("table differs")
	}
}

// smallStore has an area of 512-byte chunks and a half, in and out of order.
func smallStore() []byte {
	const size = 52 * 512
	l := newLayout(512, size)
	olds := make([]uint64, 48)
	for i := range olds {
		olds[i] = uint64(i/7*20 + i%7)
	}
	es := entriesFor(l, olds)
	es[10].new, es[12].new = es[12].new, es[10].new
	return image(512, size, es)
}

func TestTruncated(t *testing.T) {
	img := smallStore()
	for n := range len(img) + 1 {
		agree(t, img[:n], Options{OriginSize: 1 << 20, Workers: 2})
	}
	big := unpack(t, "testdata/boundary-257", "cow")
	for n := 0; n <= len(big); n += 8191 {
		agree(t, big[:n], Options{OriginSize: 8 << 20})
	}
}

func TestBitFlips(t *testing.T) {
	img := smallStore()
	l := newLayout(512, int64(len(img)))
	areas := []int64{0, l.metaOffset(0), l.metaOffset(512)}
	for _, at := range areas {
		for bit := range int64(512 * 8) {
			img[at+bit/8] ^= 1 << (bit % 8)
			agree(t, img, Options{OriginSize: 1 << 20})
			img[at+bit/8] ^= 1 << (bit % 8)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(smallStore(), int64(1<<20), uint8(0), uint8(0))
	f.Add(smallStore()[:40*512], int64(0), uint8(2), uint8(3))
	f.Add([]byte(image(512, 35*512, entriesFor(newLayout(512, 35*512), []uint64{1, 2, 1 << 40, 1<<54 - 1}))), int64(0), uint8(9), uint8(1))
	f.Add([]byte(image(4096, 5*4096, nil)), int64(12345), uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, img []byte, originSize int64, areas, workers uint8) {
		if originSize < 0 || originSize > maxOrigin {
			return
		}
		agree(t, img, Options{OriginSize: originSize, Areas: int64(areas), Workers: int(workers)})
	})
}

// FuzzRoundTrip: what Write writes, Read reads: the same extents, and under them
// the same content.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{0, 1, 5, 5, 200, 255}, uint32(100_000), uint8(0))
	f.Add([]byte{0, 255, 255, 255}, uint32(1<<20), uint8(1))
	f.Add(bytes.Repeat([]byte{1}, 200), uint32(77_777), uint8(3))
	f.Fuzz(func(t *testing.T, gaps []byte, originSize uint32, chunkLog uint8) {
		size, chunk := int64(originSize%(1<<17)), int64(512)<<(chunkLog%8)
		if size == 0 {
			return
		}
		var extents []blkbak.Extent
		for i, off := 0, int64(0); i+1 < len(gaps); i += 2 {
			off += int64(gaps[i]) * 97
			e := blkbak.Extent{Off: off, Len: int64(gaps[i+1]) * 331}
			if e.End() > size {
				break
			}
			extents, off = append(extents, e), e.End()
		}
		roundTrip(t, extents, size, chunk)
	})
}

func roundTrip(t *testing.T, extents []blkbak.Extent, size, chunk int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(size), uint64(chunk)))
	snap, origin := make(memory, size), make(memory, size)
	noise := rand.NewChaCha8([32]byte{byte(size), byte(chunk >> 9)})
	dst := make(memory, 2*size+8*chunk)
	noise.Read(snap)
	noise.Read(origin)
	noise.Read(dst) // what was there before must not show
	n, err := Write(t.Context(), dst, snap, extents, WriteOptions{OriginSize: size, ChunkSize: chunk})
	if err != nil {
		t.Fatal(err)
	}
	// A device of just that size will do, and one of a chunk less will not.
	if _, err := Write(t.Context(), make(memory, n), snap, extents, WriteOptions{OriginSize: size, ChunkSize: chunk, Size: n}); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(t.Context(), dst[:0], snap, extents, WriteOptions{OriginSize: size, ChunkSize: chunk, Size: n - 1}); !errors.Is(err, blkbak.ErrNoSpace) {
		t.Fatalf("no error for want of room: %v", err)
	}
	agree(t, dst[:n], Options{OriginSize: size})
	s := mustRead(t, dst, int64(len(dst)), Options{OriginSize: size})
	want := blkbak.AlignExtents(extents, chunk, size)
	if !slices.Equal(s.Extents(), want) {
		t.Fatalf("extents %v, want %v", s.Extents(), want)
	}
	o, err := s.Overlay(t.Context(), origin)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	for off := 0; off < len(got); { // in pieces of any size
		k := min(1+r.IntN(3000), len(got)-off)
		if _, err := o.ReadAt(got[off:off+k], int64(off)); err != nil {
			t.Fatal(err)
		}
		off += k
	}
	for _, e := range want {
		copy(origin[e.Off:e.End()], snap[e.Off:e.End()])
	}
	if !bytes.Equal(got, origin) {
		t.Fatal("content differs")
	}
}
