package cow

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"
	"unsafe"

	"github.com/blkbak/blkbak"
)

// entry is one exception of a table made for a test.
type entry struct{ old, new uint64 }

// entriesFor gives olds new chunks in the order in which the kernel hands them out.
func entriesFor(l layout, olds []uint64) []entry {
	es := make([]entry, len(olds))
	next := uint64(2)
	for i, o := range olds {
		if (next-1)%l.stride == 0 {
			next++
		}
		es[i] = entry{o, next}
		next++
	}
	return es
}

func appendEntries(b []byte, es []entry) []byte {
	for _, e := range es {
		b = binary.LittleEndian.AppendUint64(b, e.old)
		b = binary.LittleEndian.AppendUint64(b, e.new)
	}
	return b
}

func headerBytes(h Header) []byte {
	b, _ := h.AppendBinary(nil)
	return b
}

func validHeader(chunk int64) Header { return Header{Magic, 1, Version, uint32(chunk / sector)} }

// writeTable writes header and areas, not the data.
func writeTable(w io.WriterAt, l layout, es []entry) {
	w.WriteAt(headerBytes(validHeader(l.chunk)), 0)
	for a := int64(0); a <= int64(len(es))/l.per; a++ {
		area := appendEntries(nil, es[a*l.per:min((a+1)*l.per, int64(len(es)))])
		w.WriteAt(append(area, make([]byte, l.chunk-int64(len(area)))...), l.metaOffset(a*l.chunk))
	}
}

// image makes a store in memory. Data chunks are as they were made: zeros.
func image(chunk, size int64, es []entry) []byte {
	m := make(memory, size)
	writeTable(m, newLayout(chunk, size), es)
	return m
}

// memory is a device in memory; writes beyond its end fail.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

// sparse is an endless device that keeps the chunks written to; others are zeros.
type sparse struct {
	chunk  int64
	chunks map[int64][]byte
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	if s.chunks == nil {
		s.chunks = make(map[int64][]byte)
	}
	for done := 0; done < len(p); {
		pos := off + int64(done)
		c := s.chunks[pos/s.chunk]
		if c == nil {
			c = make([]byte, s.chunk)
			s.chunks[pos/s.chunk] = c
		}
		done += copy(c[pos%s.chunk:], p[done:])
	}
	return len(p), nil
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		pos := off + int64(done)
		n := int(min(int64(len(p)-done), s.chunk-pos%s.chunk))
		if c := s.chunks[pos/s.chunk]; c != nil {
			copy(p[done:done+n], c[pos%s.chunk:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	return len(p), nil
}

// direct refuses what a device opened with O_DIRECT would, and counts.
type direct struct {
	io.ReaderAt
	align int64
	mu    sync.Mutex
	reads map[int64]int // by offset
}

func (d *direct) ReadAt(p []byte, off int64) (int, error) {
	if off%d.align != 0 || int64(len(p))%d.align != 0 || uintptr(unsafe.Pointer(&p[0]))%pageSize != 0 {
		return 0, errors.New("invalid argument")
	}
	d.mu.Lock()
	if d.reads == nil {
		d.reads = make(map[int64]int)
	}
	d.reads[off]++
	d.mu.Unlock()
	return d.ReaderAt.ReadAt(p, off)
}

// reference reads a store as plainly as can be: one entry after the other, maps
// for sets. It returns the entries and the areas it looked at.
func reference(img []byte, originSize int64) ([]entry, int64, error) {
	le := binary.LittleEndian
	chunk := uint64(le.Uint32(img[12:])) * sector
	per := chunk / entrySize
	chunks := uint64(len(img)) / chunk
	olds, news := map[uint64]bool{}, map[uint64]bool{}
	var es []entry
	for a := uint64(0); ; a++ {
		at := (1 + a*(per+1)) * chunk
		if at+chunk > uint64(len(img)) {
			return es, 0, blkbak.Corruptf(formatName, int64(at), "no area")
		}
		for i := uint64(0); i < per; i++ {
			b := img[at+i*entrySize:]
			e := entry{le.Uint64(b), le.Uint64(b[8:])}
			if e.new == 0 {
				return es, int64(a) + 1, nil
			}
			end := uint64(originSize+int64(chunk)-1) / chunk
			if originSize == 0 {
				end = (1<<63 - 1) / chunk
			}
			if e.new >= chunks || e.new%(per+1) == 1 || news[e.new] || e.old >= end || olds[e.old] {
				return es, 0, blkbak.Corruptf(formatName, int64(at+i*entrySize), "bad entry")
			}
			olds[e.old], news[e.new] = true, true
			es = append(es, e)
		}
	}
}

// extentsOf is what entries mean in bytes, the plain way.
func extentsOf(es []entry, chunk, originSize int64) []blkbak.Extent {
	out := make([]blkbak.Extent, len(es))
	for i, e := range es {
		out[i] = blkbak.Extent{Off: int64(e.old) * chunk, Len: chunk}
	}
	out = blkbak.MergeExtents(out)
	if n := len(out); n > 0 && originSize > 0 {
		out[n-1].Len = min(out[n-1].Len, originSize-out[n-1].Off)
	}
	return out
}

func mustRead(t testing.TB, r io.ReaderAt, size int64, opts Options) *Store {
	t.Helper()
	s, err := Read(t.Context(), r, size, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tableOf collects the entries that Each yields.
func tableOf(t testing.TB, s *Store) []entry {
	t.Helper()
	var es []entry
	err := s.Each(t.Context(), func(o, n Chunk) error {
		es = append(es, entry{uint64(o), uint64(n)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return es
}
