package image

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/blkbak/blkbak/chunkstore"
)

const benchChunk = 64 << 10

// benchParent is an image of size bytes, every chunk of which is set. Names
// repeat every 16 GiB, which keeps the largest parent out of the way.
func benchParent(b *testing.B, m *memStore, size int64) chunkstore.ID {
	bl := newBuilder(b, m, size, benchChunk, chunkstore.ID{})
	for i := range size / benchChunk {
		set(b, bl, i, fakeName(i&(1<<18-1)))
	}
	root, _ := finish(b, bl)
	return root
}

// picks are k chunks of n in ascending order, spread evenly with some jitter.
func picks(k, n int64) []int64 {
	r := rand.New(rand.NewPCG(40, 1))
	s := make([]int64, k)
	for i := range s {
		s[i] = int64(i)*(n/k) + r.Int64N(n/k)
	}
	return s
}

func buildPicks(b *testing.B, m *memStore, size int64, parent chunkstore.ID, changed []int64) (chunkstore.ID, Stats) {
	bl := newBuilder(b, m, size, benchChunk, parent)
	for _, i := range changed {
		if err := bl.Set(i, fakeName(-i)); err != nil {
			b.Fatal(err)
		}
	}
	return finish(b, bl)
}

func BenchmarkBuildSparse(b *testing.B) {
	const size = 1 << 40
	changed := picks(1000, size/benchChunk)
	m := newStore()
	b.ReportAllocs()
	var stats Stats
	for b.Loop() {
		_, stats = buildPicks(b, m, size, chunkstore.ID{}, changed)
	}
	b.ReportMetric(float64(stats.NodesWritten), "nodes/op")
}

func BenchmarkBuildFull(b *testing.B) {
	const size = 16 << 30
	m := newStore()
	b.ReportAllocs()
	for b.Loop() {
		benchParent(b, m, size)
	}
	b.ReportMetric(float64(size/benchChunk)*float64(b.N)/b.Elapsed().Seconds(), "chunks/s")
}

func BenchmarkIncrement(b *testing.B) {
	for _, size := range []int64{1 << 30, 1 << 34, 1 << 40} {
		m := newStore()
		parent := benchParent(b, m, size)
		for _, k := range []int64{1, 100, 10_000} {
			b.Run(fmt.Sprintf("GiB=%d/changed=%d", size>>30, k), func(b *testing.B) {
				changed := picks(k, size/benchChunk)
				b.ReportAllocs()
				var stats Stats
				for b.Loop() {
					_, stats = buildPicks(b, m, size, parent, changed)
				}
				b.ReportMetric(float64(stats.NodesWritten), "nodes/op")
			})
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	const size = 1 << 40
	m := newStore()
	parent := benchParent(b, m, size)
	for _, k := range []int64{1, 100, 10_000} {
		b.Run(fmt.Sprintf("GiB=%d/changed=%d", size>>30, k), func(b *testing.B) {
			root, _ := buildPicks(b, m, size, parent, picks(k, size/benchChunk))
			b.ReportAllocs()
			for b.Loop() {
				n := int64(0)
				for e, err := range Diff(b.Context(), m, parent, root) {
					if err != nil {
						b.Fatal(err)
					}
					n += e.Len / benchChunk
				}
				if n != k {
					b.Fatalf("%d chunks differ", n)
				}
			}
		})
	}
}

func BenchmarkExtents(b *testing.B) {
	const size = 16 << 30
	m := newStore()
	im := openImage(b, m, benchParent(b, m, size), NewCache(CacheOptions{NodeBytes: 64 << 20}))
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range im.Extents(b.Context(), 0, size) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkRead reads 256 MiB of data, of which the store's part is a hash to
// verify and a copy.
func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	m := newStore()
	d := &disk{size, benchChunk, map[int64][]byte{}}
	r := rand.New(rand.NewPCG(40, 2))
	for i := range d.chunks() {
		c := d.chunk(i)
		for j := 0; j < len(c); j += 8 {
			c[j] = byte(r.Uint32())
		}
	}
	root, _ := build(b, m, d, chunkstore.ID{}, d.all())
	read := func(b *testing.B, n int, at func(i int64) int64) {
		m.lax = true // measure the image, not the hash
		im := openImage(b, m, root, nil)
		p := make([]byte, n)
		b.SetBytes(int64(n))
		b.ReportAllocs()
		i := int64(0)
		for b.Loop() {
			if _, err := im.ReadAt(p, at(i)); err != nil {
				b.Fatal(err)
			}
			i++
		}
	}
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("sequential/KiB=%d", n>>10), func(b *testing.B) {
			read(b, n, func(i int64) int64 { return i * int64(n) % size })
		})
	}
	b.Run("random/KiB=4/cached", func(b *testing.B) {
		read(b, 4<<10, func(int64) int64 { return r.Int64N(32<<20) &^ 4095 })
	})
	b.Run("random/KiB=4/cold", func(b *testing.B) {
		read(b, 4<<10, func(int64) int64 { return r.Int64N(size-4096) &^ 4095 })
	})
}
