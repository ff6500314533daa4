package cow

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// patterns make the old chunks of tables such as origins of 2^28 chunks give
// (1 TiB of 4 KiB).
var patterns = []struct {
	name string
	olds func(n int) []uint64
}{
	{"sequential", func(n int) []uint64 {
		s := make([]uint64, n)
		for i := range s {
			s[i] = uint64(i)
		}
		return s
	}},
	{"runs", func(n int) []uint64 { // of 1 to 64 chunks, where chance has it
		r := rand.New(rand.NewPCG(1, 2))
		seen := map[uint64]bool{}
		var s []uint64
		for len(s) < n {
			at := r.Uint64N(1<<28 - 64)
			for range 1 + r.IntN(64) {
				if !seen[at] && len(s) < n {
					seen[at] = true
					s = append(s, at)
				}
				at++
			}
		}
		return s
	}},
	{"random", func(n int) []uint64 {
		r := rand.New(rand.NewPCG(3, 4))
		seen := map[uint64]bool{}
		var s []uint64
		for len(s) < n {
			if at := r.Uint64N(1 << 28); !seen[at] {
				seen[at] = true
				s = append(s, at)
			}
		}
		return s
	}},
}

const benchEntries = 1 << 20

// BenchmarkDecode takes tables from memory on one core: all checks, and the
// sorted, merged extents in the end.
func BenchmarkDecode(b *testing.B) {
	for _, p := range patterns {
		for _, order := range []string{"ascending", "shuffled"} {
			l := newLayout(4096, 1<<40)
			es := entriesFor(l, p.olds(benchEntries))
			if order == "shuffled" { // within a window, as completions out of order would
				r := rand.New(rand.NewPCG(5, 6))
				for i := 0; i+64 <= len(es); i += 64 {
					w := es[i : i+64]
					r.Shuffle(64, func(i, j int) { w[i].new, w[j].new = w[j].new, w[i].new })
				}
			}
			table := appendEntries(nil, es)
			b.Run(p.name+"/new="+order, func(b *testing.B) {
				b.SetBytes(int64(len(table)))
				b.ReportAllocs()
				for b.Loop() {
					d := newDecoder(l, 1<<40)
					for off := 0; off < len(table); off += int(l.piece) {
						if _, err := d.decode(table[off:off+int(l.piece)], int64(off)); err != nil {
							b.Fatal(err)
						}
					}
					s := Store{layout: l, olds: d.olds}
					for range s.All() {
					}
				}
				b.ReportMetric(float64(b.N)*benchEntries/b.Elapsed().Seconds(), "entries/s")
			})
		}
	}
}

// BenchmarkRead reads whole stores in memory, goroutines and all.
func BenchmarkRead(b *testing.B) {
	for _, chunk := range []int64{4096, 65536} {
		for _, areas := range []string{"known", "unknown"} {
			l := newLayout(chunk, 1<<62)
			img := &sparse{chunk: chunk}
			writeTable(img, l, entriesFor(l, patterns[1].olds(benchEntries)))
			size := int64(2*benchEntries) * chunk
			opts := Options{OriginSize: 1 << 50}
			if areas == "known" {
				opts.Areas = benchEntries/l.per + 1
			}
			b.Run(fmt.Sprintf("chunk=%d/areas=%s", chunk, areas), func(b *testing.B) {
				b.SetBytes(benchEntries * entrySize)
				b.ReportAllocs()
				for b.Loop() {
					s, err := Read(b.Context(), img, size, opts)
					if err != nil || s.Exceptions != benchEntries {
						b.Fatal(s, err)
					}
				}
				b.ReportMetric(float64(b.N)*benchEntries/b.Elapsed().Seconds(), "entries/s")
			})
		}
	}
}

func BenchmarkExtents(b *testing.B) {
	for _, p := range patterns {
		l := newLayout(4096, 1<<40)
		d := newDecoder(l, 1<<40)
		if _, err := d.decode(appendEntries(nil, entriesFor(l, p.olds(benchEntries))), 0); err != nil {
			b.Fatal(err)
		}
		s := Store{layout: l, olds: d.olds}
		b.Run(p.name, func(b *testing.B) {
			var n int
			for b.Loop() {
				n = 0
				for range s.All() {
					n++
				}
			}
			b.ReportMetric(float64(n), "extents")
		})
	}
}

func BenchmarkHints(b *testing.B) {
	l := newLayout(4096, 1<<40)
	d := newDecoder(l, 1<<40)
	if _, err := d.decode(appendEntries(nil, entriesFor(l, patterns[1].olds(benchEntries))), 0); err != nil {
		b.Fatal(err)
	}
	s := Store{layout: l, olds: d.olds}
	var buf bytes.Buffer
	b.Run("rbd-json", func(b *testing.B) {
		for b.Loop() {
			buf.Reset()
			if err := WriteRBDHints(&buf, s.All()); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(buf.Len()))
	})
	b.Run("bitmap", func(b *testing.B) {
		for b.Loop() {
			buf.Reset()
			if err := WriteBitmapHints(&buf, s.All(), 4096, 1<<40); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(buf.Len()))
	})
}
