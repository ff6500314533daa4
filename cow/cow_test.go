package cow

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
)

func TestHeader(t *testing.T) {
	good := validHeader(4096)
	for _, c := range []struct {
		name string
		edit func(*Header)
		want error // nil: accepted
		off  int64 // of a FormatError
	}{
		{"good", func(h *Header) {}, nil, 0},
		{"smallest chunk", func(h *Header) { h.ChunkSectors = 1 }, nil, 0},
		{"largest chunk", func(h *Header) { h.ChunkSectors = 1 << 21 }, nil, 0},
		{"any valid but 0", func(h *Header) { h.Valid = 2 }, nil, 0},
		{"invalid", func(h *Header) { h.Valid = 0 }, blkbak.ErrNeedsFull, 0},
		{"fresh", func(h *Header) { *h = Header{} }, blkbak.ErrNeedsFull, 0},
		{"magic", func(h *Header) { h.Magic++ }, blkbak.ErrCorrupt, 0},
		{"version 0", func(h *Header) { h.Version = 0 }, blkbak.ErrCorrupt, 8},
		{"version 2", func(h *Header) { h.Version = 2 }, blkbak.ErrCorrupt, 8},
		{"chunk 0", func(h *Header) { h.ChunkSectors = 0 }, blkbak.ErrCorrupt, 12},
		{"chunk 3", func(h *Header) { h.ChunkSectors = 3 }, blkbak.ErrCorrupt, 12},
		{"chunk too large", func(h *Header) { h.ChunkSectors = 1 << 22 }, blkbak.ErrCorrupt, 12},
		{"corrupt before invalid", func(h *Header) { h.Valid, h.Version = 0, 7 }, blkbak.ErrCorrupt, 8},
	} {
		h := good
		c.edit(&h)
		got, err := ReadHeader(memory(append(headerBytes(h), make([]byte, 4096)...)), 4096)
		if err != nil || got != h {
			t.Errorf("%s: read %+v, %v", c.name, got, err)
		}
		err = h.Validate()
		var f *blkbak.FormatError
		switch {
		case c.want == nil && err != nil, c.want != nil && !errors.Is(err, c.want):
			t.Errorf("%s: %v", c.name, err)
		case errors.As(err, &f) != (c.want == blkbak.ErrCorrupt), f != nil && f.Off != c.off:
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestReadHeaderShort(t *testing.T) {
	img := memory(headerBytes(validHeader(4096)))
	for n := int64(-1); n < 16; n++ {
		if _, err := ReadHeader(img, n); !errors.Is(err, blkbak.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := ReadHeader(img, 16); err != nil {
		t.Error(err)
	}
	if _, err := ReadHeader(img, 512); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, blkbak.ErrCorrupt) {
		t.Errorf("a device shorter than its size: %v", err)
	}
}

// TestRefuse breaks one entry in each way there is, and wants it named.
func TestRefuse(t *testing.T) {
	const chunk, size, origin = 512, 200 * 512, 99*512 + 1 // the last origin chunk, 99, is short
	olds := make([]uint64, 70)                             // of areas of 32
	for i := range olds {
		olds[i] = uint64(i)
	}
	good := entriesFor(newLayout(chunk, size), olds)
	for _, c := range []struct {
		name string
		at   int
		edit func(e *entry)
		msg  string
	}{
		{"last origin chunk", 5, func(e *entry) { e.old = 99 }, ""},
		{"old beyond origin", 5, func(e *entry) { e.old = 100 }, "beyond the origin"},
		{"old huge", 5, func(e *entry) { e.old = math.MaxUint64 }, "beyond the origin"},
		{"old twice", 69, func(e *entry) { e.old = 1 }, "old chunk 1 is listed twice"},
		{"last device chunk", 69, func(e *entry) { e.new = 198 }, ""},
		{"last device chunk is metadata", 69, func(e *entry) { e.new = 199 }, "place of metadata"},
		{"new beyond device", 69, func(e *entry) { e.new = 200 }, "beyond the device"},
		{"new huge", 69, func(e *entry) { e.new = 1 << 63 }, "beyond the device"},
		{"new on area 0", 40, func(e *entry) { e.new = 1 }, "place of metadata"},
		{"new on area 1", 40, func(e *entry) { e.new = 34 }, "place of metadata"},
		{"new on a later area", 40, func(e *entry) { e.new = 166 }, "place of metadata"},
		{"new twice, below", 69, func(e *entry) { e.new = 5 }, "new chunk 5 is listed twice"},
		{"new twice, out of order", 68, func(e *entry) { e.new = good[69].new }, "is listed twice"},
	} {
		es := slices.Clone(good)
		c.edit(&es[c.at])
		img := image(chunk, size, es)
		if c.name == "new twice, out of order" {
			c.at = 69
		}
		_, err := Read(t.Context(), memory(img), size, Options{OriginSize: origin})
		if c.msg == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		off := newLayout(chunk, size).metaOffset(int64(c.at) * entrySize)
		var f *blkbak.FormatError
		if !errors.As(err, &f) || f.Off != off || !strings.Contains(err.Error(), c.msg) {
			t.Errorf("%s: %v, want offset %d", c.name, err, off)
		}
		if errors.Is(err, blkbak.ErrNeedsFull) {
			t.Errorf("%s: corruption taken for a lack", c.name)
		}
	}
}

// TestFullAreaAtEnd: after a full area there is always another one.
func TestFullAreaAtEnd(t *testing.T) {
	const chunk = 512
	olds := make([]uint64, 32)
	for i := range olds {
		olds[i] = uint64(i)
	}
	es := entriesFor(newLayout(chunk, 1<<20), olds)
	img := image(chunk, 35*chunk, es)
	if s := mustRead(t, memory(img), 35*chunk, Options{}); s.Exceptions != 32 || s.Areas != 2 {
		t.Errorf("%d exceptions, %d areas", s.Exceptions, s.Areas)
	}
	_, err := Read(t.Context(), memory(img), 34*chunk, Options{})
	var f *blkbak.FormatError
	if !errors.As(err, &f) || f.Off != 34*chunk {
		t.Errorf("no room for the next area: %v", err)
	}
	for _, size := range []int64{chunk, 2*chunk - 1} {
		if _, err := Read(t.Context(), memory(img), size, Options{}); !errors.As(err, &f) || f.Off != chunk {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestOptions(t *testing.T) {
	img := image(512, 4096, nil)
	for _, o := range []Options{{OriginSize: -1}, {OriginSize: math.MaxInt64}, {Areas: -1}, {Workers: -1}, {Workers: MaxWorkers + 1}} {
		if _, err := Read(t.Context(), memory(img), 4096, o); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := Read(ctx, memory(img), 4096, Options{}); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
}

// hooked calls before with each read's number.
type hooked struct {
	memory
	n      int
	before func(n int, m memory) error
}

func (h *hooked) ReadAt(p []byte, off int64) (int, error) {
	h.n++
	if err := h.before(h.n, h.memory); err != nil {
		return 0, err
	}
	return h.memory.ReadAt(p, off)
}

// TestHeaderChanges: a store that changes its header while it is read is no base.
func TestHeaderChanges(t *testing.T) {
	good := image(512, 1<<15, entriesFor(newLayout(512, 1<<15), []uint64{3, 9}))
	for _, c := range []struct {
		name string
		edit func(*Header)
	}{
		{"dropped", func(h *Header) { h.Valid = 0 }},
		{"wiped", func(h *Header) { *h = Header{} }},
		{"another store", func(h *Header) { h.ChunkSectors = 8 }},
	} {
		r := &hooked{memory: bytes.Clone(good), before: func(n int, m memory) error {
			if n == 2 { // the header is 1, the table 2
				h := validHeader(512)
				c.edit(&h)
				copy(m, headerBytes(h))
				m[1*512+8] = 77 // and nonsense in the table must not hide it
			}
			return nil
		}}
		if _, err := Read(t.Context(), r, 1<<15, Options{}); !errors.Is(err, blkbak.ErrNeedsFull) {
			t.Errorf("%s: %v", c.name, err)
		}
		r.memory, r.n = bytes.Clone(good), 0
		s, err := Read(t.Context(), r, 1<<15, Options{Inspect: true})
		if c.name == "dropped" && (!errors.Is(err, blkbak.ErrCorrupt) || s != nil) {
			t.Errorf("inspect: %v", err)
		}
	}
}

// TestReadErrors fails the k-th read for each k: the error must come through, but
// not from reads ahead of the table's end.
func TestReadErrors(t *testing.T) {
	olds := make([]uint64, 100)
	for i := range olds {
		olds[i] = uint64(2 * i)
	}
	good := image(512, 1<<20, entriesFor(newLayout(512, 1<<20), olds))
	eio := errors.New("input/output error")
	for k := 1; ; k++ {
		r := &hooked{memory: good, before: func(n int, _ memory) error {
			if n == k {
				return eio
			}
			return nil
		}}
		_, err := Read(t.Context(), r, 1<<20, Options{Workers: 1})
		if r.n < k {
			if k < 6 {
				t.Errorf("only %d reads", r.n)
			}
			break
		}
		if !errors.Is(err, eio) || errors.Is(err, blkbak.ErrCorrupt) || !strings.Contains(err.Error(), "at byte ") {
			t.Errorf("read %d: %v", k, err)
		}
	}
	// A bad block behind the table is not the table's business.
	l := newLayout(512, 1<<20)
	bad := badBlock{memory(good), l.metaOffset(4 * 512)}
	if s, err := Read(t.Context(), bad, 1<<20, Options{Areas: 9}); err != nil || s.Exceptions != 100 {
		t.Error(err)
	}
}

type badBlock struct {
	memory
	off int64
}

func (b badBlock) ReadAt(p []byte, off int64) (int, error) {
	if off <= b.off && b.off < off+int64(len(p)) {
		return 0, errors.New("input/output error")
	}
	return b.memory.ReadAt(p, off)
}

// TestReadsOnce: with the number of areas known, nothing is read twice and nothing
// but metadata; without, no more than twice.
func TestReadsOnce(t *testing.T) {
	olds := make([]uint64, 256*40+7)
	for i := range olds {
		olds[i] = uint64(i)
	}
	const size = 64 << 20
	img := image(4096, size, entriesFor(newLayout(4096, size), olds))
	for _, areas := range []int64{41, 0} {
		r := &direct{ReaderAt: memory(img), align: 4096}
		s := mustRead(t, r, size, Options{Areas: areas})
		total := 0
		for off, n := range r.reads {
			total += n
			if !s.layout.isMetadata(uint64(off / 4096)) {
				t.Errorf("read of data at %d", off)
			}
		}
		if limit := map[int64]int{41: 41 + 2, 0: 2*41 + DefaultWorkers + 2}[areas]; total > limit {
			t.Errorf("areas %d: %d reads, want at most %d", areas, total, limit)
		}
	}
}
