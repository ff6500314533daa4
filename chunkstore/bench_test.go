package chunkstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// chunks cuts b into chunks of the default size, without those that are zeros.
func chunks(b []byte) (list [][]byte) {
	zero := make([]byte, DefaultChunkSize)
	for ; len(b) > 0; b = b[min(len(b), DefaultChunkSize):] {
		if c := b[:min(len(b), DefaultChunkSize)]; !bytes.Equal(c, zero[:len(c)]) {
			list = append(list, c)
		}
	}
	return list
}

// noise is what is compressed or encrypted already.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// words is text of a kind: words drawn from a small vocabulary.
func words(n int) []byte {
	r := rand.New(rand.NewPCG(2, 2))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = fmt.Appendf(b, "%x ", r.ExpFloat64()*3)
		b = append(b, "the of a snapshot volume restore point, chunk"[r.IntN(30):][:r.IntN(14)]...)
	}
	return b[:n]
}

// table is records as a database has them: counters, small numbers, padding.
func table(n int) []byte {
	r := rand.New(rand.NewPCG(3, 3))
	b := make([]byte, 0, n+64)
	for i := 0; len(b) < n; i++ {
		b = append(b, byte(i), byte(i>>8), byte(i>>16), 0, 0, 0, 0, 0)
		for range 6 {
			b = append(b, byte(r.NormFloat64()*9), 0, 0, 0)
		}
		b = append(b, make([]byte, 16)...)
	}
	return b[:n]
}

// data is what encoding is measured on. The environment may name an image: make
// one of a filesystem with mke2fs -d.
func data(b *testing.B) iter.Seq2[string, [][]byte] {
	const size = 8 << 20
	return func(yield func(string, [][]byte) bool) {
		half := bytes.Join([][]byte{noise(size / 2), words(size / 2)}, nil)
		_ = yield("noise", chunks(noise(size))) && yield("words", chunks(words(size))) &&
			yield("table", chunks(table(size))) && yield("half noise", chunks(half))
		path := os.Getenv("BLKBAK_BENCH_IMAGE")
		if path == "" {
			return
		}
		image, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		yield("image", chunks(image))
	}
}

func total(list [][]byte) (n int) {
	for _, c := range list {
		n += len(c)
	}
	return n
}

// onCPU runs the loop of a benchmark over n bytes, and reports bytes a second of
// processor time as well, which a busy machine changes less.
func onCPU(b *testing.B, n int, work func()) {
	b.SetBytes(int64(n))
	start := cpuTime()
	for b.Loop() {
		work()
	}
	if used := cpuTime() - start; used > 0 {
		b.ReportMetric(float64(n)*float64(b.N)/1e6/used.Seconds(), "MB/cpu-s")
	}
}

func BenchmarkEncode(b *testing.B) {
	for name, list := range data(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			stored, raw := 0, 0
			onCPU(b, total(list), func() {
				stored, raw = 0, 0
				for _, c := range list {
					out, codec := encode(buf[:0], c)
					stored += len(out)
					if codec == codecRaw {
						raw++
					}
					buf = out
				}
			})
			b.ReportMetric(float64(total(list))/float64(stored), "ratio")
			b.ReportMetric(100*float64(raw)/float64(len(list)), "%raw")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, list := range data(b) {
		type frame struct {
			payload []byte
			codec   uint8
			plain   int
		}
		var frames []frame
		for _, c := range list {
			out, codec := encode(nil, c)
			frames = append(frames, frame{out, codec, len(c)})
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, DefaultChunkSize)
			onCPU(b, total(list), func() {
				for _, f := range frames {
					if _, err := decode(buf, f.codec, f.payload, f.plain); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkLevels compares the levels of the coder, each with what is stored raw
// taken into account, on the data that the decision about it rests on.
func BenchmarkLevels(b *testing.B) {
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression} {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20))
		if err != nil {
			b.Fatal(err)
		}
		for name, list := range data(b) {
			b.Run(fmt.Sprintf("%v/%s", level, name), func(b *testing.B) {
				buf := e.EncodeAll(list[0], nil) // makes the coder's tables
				stored := 0
				onCPU(b, total(list), func() {
					stored = 0
					for _, c := range list {
						buf = e.EncodeAll(c, buf[:0])
						stored += min(len(buf), len(c))
					}
				})
				b.ReportMetric(float64(total(list))/float64(stored), "ratio")
			})
		}
	}
}

// largeSegment is a segment of n objects in packs of 512.
func largeSegment(tb testing.TB, n int) (*segment, []ID) {
	tb.Helper()
	random := rand.NewChaCha8([32]byte{4})
	packs := make([]packRef, n/512+1)
	for i := range packs {
		packs[i].n = uint32(i)
	}
	ids := make([]ID, n)
	entries := make([]indexEntry, n)
	for i := range ids {
		random.Read(ids[i][:])
		entries[i] = newIndexEntry(ids[i], uint32(i/512), int64(i%512*60000), 60000)
	}
	s, err := parseSegment("large", buildSegment(packs, entries))
	if err != nil {
		tb.Fatal(err)
	}
	return s, ids
}

func TestIndexSize(t *testing.T) {
	for _, n := range []int{1, 16, 512, 1 << 20} {
		s, _ := largeSegment(t, n)
		per := float64(len(s.whole)) / float64(n)
		t.Logf("%d objects: %.2f bytes each", n, per)
		if n > 16 && per > 48 {
			t.Errorf("%d objects take %.2f bytes each", n, per)
		}
		if err := s.verify(); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	s, ids := largeSegment(b, 1<<20)
	miss := make([]ID, 1<<16)
	random := rand.NewChaCha8([32]byte{5})
	for i := range miss {
		random.Read(miss[i][:])
	}
	for _, c := range []struct {
		name string
		ids  []ID
		want bool
	}{{"hit", ids, true}, {"miss", miss, false}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i = (i + 7919) % len(c.ids) // not in the order of anything
				if s.has(c.ids[i]) != c.want {
					b.Fatal("wrong")
				}
			}
		})
	}
}

// Merging goes through segments entry by entry: what it takes in memory does not
// grow with them.
func TestMergeIsStreamed(t *testing.T) {
	v := &view{names: []string{"idx/a", "idx/b", "idx/c", "idx/d"}}
	total := 0
	for i := range v.names {
		s, ids := largeSegment(t, (i+1)<<16)
		v.segments = append(v.segments, s)
		total += len(ids)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := v.writeMerged(io.Discard); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d objects merged, %d KiB allocated", total, allocated>>10)
	if allocated > 4<<20 {
		t.Errorf("%d bytes allocated for %d objects", allocated, total)
	}
}

// BenchmarkStore writes chunks as a run does, and tells what it holds in memory.
func BenchmarkStore(b *testing.B) {
	dir := b.TempDir() + "/repo"
	if _, err := Init(b.Context(), dir, 0); err != nil {
		b.Fatal(err)
	}
	s, err := Open(b.Context(), dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	w, err := s.Begin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	source := noise(1 << 20)
	b.SetBytes(DefaultChunkSize)
	var room []byte
	var n uint64
	var peak uint64
	for b.Loop() {
		c := source[n%256*16:][:DefaultChunkSize]
		n++
		c[0], c[1], c[2], c[3], c[4] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24), byte(n>>32)
		p := w.Prepare(KindData, Sum(c), c, room)
		if err := w.Append(context.Background(), p); err != nil {
			b.Fatal(err)
		}
		room = p.Buffer()
		if n%256 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.Sys-m.HeapReleased)
		}
	}
	b.ReportMetric(float64(peak)/(1<<20), "MiB-peak")
	if err := w.Commit(context.Background(), nil); err != nil {
		b.Fatal(err)
	}
}
