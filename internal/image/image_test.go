package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// collect runs an iterator to its end.
func collect[T any](t testing.TB, seq func(func(T, error) bool)) []T {
	t.Helper()
	var out []T
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func openImage(t testing.TB, m *memStore, root chunkstore.ID, c *Cache) *Image {
	t.Helper()
	im, err := Open(t.Context(), m, root, c)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func TestRead(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 1))
	for _, size := range edgeSizes {
		m := newStore()
		d := scattered(r, size, 40)
		data := d.bytes()
		root, _ := build(t, m, d, chunkstore.ID{}, d.all())
		for _, cache := range []*Cache{nil, NewCache(CacheOptions{NodeBytes: 5000, ChunkBytes: 9000}), NewCache(CacheOptions{NodeBytes: -1, ChunkBytes: -1})} {
			im := openImage(t, m, root, cache)
			if im.Size() != size || im.ChunkSize() != testChunk || im.Root() != root {
				t.Fatalf("size %d, chunk size %d, root %v", im.Size(), im.ChunkSize(), im.Root())
			}
			for range 60 {
				p := make([]byte, r.IntN(4*testChunk))
				off := r.Int64N(size + testChunk)
				for i := range p {
					p[i] = 0xa5
				}
				checkReadAt(t, im, data, p, off)
			}
		}
	}
}

// checkReadAt compares with a bytes.Reader, errors and counts included.
func checkReadAt(t testing.TB, im *Image, data, p []byte, off int64) {
	t.Helper()
	want := bytes.Clone(p)
	n, err := im.ReadAt(p, off)
	wantN, wantErr := bytes.NewReader(data).ReadAt(want, off)
	if n != wantN || err != wantErr || !bytes.Equal(p, want) {
		t.Fatalf("size %d: read %d at %d: %d, %v, want %d, %v; bytes equal: %v", im.Size(), len(p), off, n, err, wantN, wantErr, bytes.Equal(p, want))
	}
}

func TestReadAsReader(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(10, 2)), 70*testChunk+99, 20)
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	im := openImage(t, m, root, nil)
	if err := iotest.TestReader(io.NewSectionReader(im, 0, im.Size()), d.bytes()); err != nil {
		t.Error(err)
	}
	if _, err := im.ReadAt(make([]byte, 1), -1); !errors.Is(err, blkbak.ErrUsage) {
		t.Errorf("negative offset: %v", err)
	}
}

// TestReadCost: small reads in order cost one get a chunk, whole chunks go by
// the cache, and nodes are read once.
func TestReadCost(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(10, 3)), 100*testChunk, 0)
	for i := range d.chunks() {
		d.chunk(i)[0] = byte(i + 1)
	}
	data := d.bytes()
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	m.reset()
	im := openImage(t, m, root, nil)
	p := make([]byte, testChunk)
	for off := int64(0); off < im.Size(); off += 512 {
		checkReadAt(t, im, data, p[:512], off)
	}
	if m.got != 100+3 {
		t.Errorf("%d gets, want 100 chunks and 3 nodes", m.got)
	}
	for off := int64(0); off < im.Size(); off += testChunk {
		checkReadAt(t, im, data, p, off)
	}
	if m.got != 100+3 {
		t.Errorf("%d gets after whole chunks that are cached", m.got)
	}
	m.reset()
	im = openImage(t, m, root, nil)
	for range 2 {
		for off := int64(0); off < im.Size(); off += testChunk {
			checkReadAt(t, im, data, p, off)
		}
	}
	if m.got != 200+3 || im.cache.chunks.used != 0 {
		t.Errorf("%d gets, %d bytes cached by whole chunks", m.got, im.cache.chunks.used)
	}
	if n := testing.AllocsPerRun(100, func() { im.ReadAt(p, 5*testChunk) }); n > 0 {
		t.Errorf("%v allocations in a read of a whole chunk", n)
	}
}

func TestConcurrentReaders(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(10, 5)), 64*64*testChunk+3, 300)
	data := d.bytes()
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	im := openImage(t, m, root, NewCache(CacheOptions{NodeBytes: 20_000, ChunkBytes: 100_000}))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(10, uint64(g)))
			for range 500 {
				p := make([]byte, 1+r.IntN(3*testChunk))
				off := r.Int64N(im.Size())
				n, err := im.ReadAt(p, off)
				if err != nil && err != io.EOF || !bytes.Equal(p[:n], data[off:off+int64(n)]) {
					t.Errorf("read %d at %d: %d, %v", len(p), off, n, err)
				}
				if i := r.IntN(20); i == 0 {
					for _, err := range im.Extents(t.Context(), off, 1<<20) {
						if err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestChunkAt(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(10, 7)), 64*66*testChunk, 100)
	names := d.names(t, m)
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	im := openImage(t, m, root, nil)
	for i, want := range names {
		if id, err := im.ChunkAt(t.Context(), int64(i)); id != want || err != nil {
			t.Fatalf("chunk %d: %v, %v, want %v", i, id, err, want)
		}
	}
	for _, i := range []int64{-1, int64(len(names))} {
		if _, err := im.ChunkAt(t.Context(), i); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
}

func TestExtentsAndChunks(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 8))
	for _, size := range edgeSizes {
		for _, n := range []int{0, 3, 100} {
			m := newStore()
			d := scattered(r, size, n)
			names := d.names(t, m)
			root, _ := build(t, m, d, chunkstore.ID{}, d.all())
			for _, id := range names {
				delete(m.objects, id) // neither may read chunks
			}
			im := openImage(t, m, root, nil)
			for range 20 {
				off := r.Int64N(size + 2)
				length := r.Int64N(size + 2)
				if n := r.IntN(5); n == 0 {
					off, length = 0, 1<<62
				}
				end := off + min(length, size-off)
				if got, want := collect(t, im.Extents(t.Context(), off, length)), d.runs(names, off, end); !slices.Equal(got, want) {
					t.Fatalf("size %d: extents of %d+%d: %v, want %v", size, off, length, got, want)
				}
				var flat []chunkstore.ID
				at := off / testChunk * testChunk
				for _, c := range collect(t, im.Chunks(t.Context(), off, length)) {
					if c.Off != at || !c.ID.IsZero() && c.Len != d.chunkLen(c.Off/testChunk) {
						t.Fatalf("size %d: chunk %v after %d", size, c, at)
					}
					for ; at < c.End(); at += testChunk {
						flat = append(flat, c.ID)
					}
					at = c.End()
				}
				var want []chunkstore.ID
				if end > off {
					want = names[off/testChunk : (end+testChunk-1)/testChunk]
				}
				if !slices.Equal(flat, want) {
					t.Fatalf("size %d: chunks of %d+%d differ", size, off, length)
				}
			}
		}
	}
}

// runs is what Extents must yield, chunk by chunk.
func (d *disk) runs(names []chunkstore.ID, off, end int64) []Run {
	var out []Run
	for ; off < end; off = (off/testChunk + 1) * testChunk {
		i := off / testChunk
		run := Run{blkbak.Extent{Off: off, Len: min(end, (i+1)*testChunk) - off}, names[i].IsZero()}
		if n := len(out); n > 0 && out[n-1].Zero == run.Zero {
			out[n-1].Len += run.Len
		} else {
			out = append(out, run)
		}
	}
	return out
}

func TestIteratorsStopEarly(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(10, 9)), 300*testChunk, 30)
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	empty, _ := build(t, m, newDisk(200*testChunk), chunkstore.ID{}, nil)
	im := openImage(t, m, root, nil)
	total := len(collect(t, im.Extents(t.Context(), 0, im.Size())))
	for stop := range total {
		n := 0
		for range im.Extents(t.Context(), 0, im.Size()) {
			if n++; n > stop {
				break // a loop body called once more would panic
			}
		}
		for range im.Chunks(t.Context(), 0, im.Size()) {
			break
		}
		n = 0
		for range Diff(t.Context(), m, root, empty) {
			if n++; n > stop {
				break
			}
		}
		n = 0
		for range Objects(t.Context(), m, root, nil) {
			if n++; n > stop {
				break
			}
		}
	}
	for _, bad := range [][2]int64{{-1, 5}, {0, -1}} {
		for _, err := range im.Extents(t.Context(), bad[0], bad[1]) {
			if !errors.Is(err, blkbak.ErrUsage) {
				t.Errorf("extents of %v: %v", bad, err)
			}
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, seq := range map[string]func(func(string, error) bool){
		"extents": errs(im.Extents(ended, 0, im.Size())),
		"diff":    errs(Diff(ended, m, root, empty)),
		"objects": errs(Objects(ended, m, root, nil)),
	} {
		var last error
		for _, last = range seq {
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("%s with an ended context: %v", name, last)
		}
	}
}

func errs[T any](seq func(func(T, error) bool)) func(func(string, error) bool) {
	return func(yield func(string, error) bool) {
		for v, err := range seq {
			if !yield(fmt.Sprint(v), err) {
				return
			}
		}
	}
}
