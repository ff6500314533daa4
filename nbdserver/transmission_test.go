package nbdserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/pojntfx/go-nbd/pkg/backend"
)

// sparseImage has random data with zero grains in between.
func sparseImage(n, grain int) *memImage {
	m := &memImage{data: randomImage(n), grain: int64(grain)}
	rng := rand.New(rand.NewPCG(1, 2))
	for off := 0; off < n; off += grain {
		if rng.IntN(3) == 0 {
			clear(m.data[off:min(off+grain, n)])
		}
	}
	return m
}

func TestRequestErrors(t *testing.T) {
	const perm, inval = 1, 22
	data := randomImage(100_000)
	addr, _ := startServer(t, Options{Exports: Fixed{export("x", len(data), bytes.NewReader(data))}}, "")
	cases := []struct {
		name       string
		flags, typ uint16
		off        uint64
		length     uint32
		payload    int
		want       uint32
	}{
		{"read at the end", 0, 0, 100_000 - 1, 1, 0, 0},
		{"read past the end", 0, 0, 100_000 - 1, 2, 0, inval},
		{"read after the end", 0, 0, 100_000, 1, 0, inval},
		{"read, sum overflows", 0, 0, 1<<64 - 1, 2, 0, inval},
		{"read, offset negative as int64", 0, 0, 1 << 63, 4096, 0, inval},
		{"read, longest length", 0, 0, 0, 1<<32 - 1, 0, inval},
		{"read of nothing", 0, 0, 0, 0, 0, inval},
		{"read with FUA", 1, 0, 0, 512, 0, inval},
		{"read with unknown flag", 1 << 9, 0, 0, 512, 0, inval},
		{"write", 0, 1, 0, 4096, 4096, perm},
		{"write with FUA", 1, 1, 0, 4096, 4096, perm},
		{"write past the end", 0, 1, 1 << 40, 70_000, 70_000, perm},
		{"write of nothing", 0, 1, 0, 0, 0, perm},
		{"trim", 0, 4, 0, 4096, 0, perm},
		{"write zeroes", 0, 6, 0, 4096, 0, perm},
		{"write zeroes, no hole", 1 << 1, 6, 0, 4096, 0, perm},
		{"flush", 0, 3, 0, 0, 0, 0},
		{"flush of a range", 0, 3, 0, 512, 0, inval},
		{"cache", 0, 5, 0, 4096, 0, inval},
		{"block status, nothing negotiated", 0, 7, 0, 4096, 0, inval},
		{"resize", 0, 8, 4096, 0, 0, inval},
		{"unknown command", 0, 99, 0, 4096, 0, inval},
	}
	for _, structured := range []bool{false, true} {
		for _, c := range cases {
			if structured && c.typ == 7 {
				continue // negotiated there
			}
			t.Run(fmt.Sprintf("%s/structured=%v", c.name, structured), func(t *testing.T) {
				r := dial(t, addr)
				r.open("x", structured)
				r.send(reqBytes(c.flags, c.typ, 7, c.off, c.length), make([]byte, c.payload))
				a := r.next(func(uint64) int {
					if c.typ == 0 {
						return int(c.length)
					}
					return 0
				})
				if a.errno != c.want || a.cookie != 7 {
					t.Fatalf("errno %d for %d, want %d", a.errno, a.cookie, c.want)
				}
				if structured && c.want != 0 && a.message == "" {
					t.Error("no message")
				}
				r.alive(data)
			})
		}
	}
	t.Run("DF without structured replies", func(t *testing.T) {
		r := dial(t, addr)
		r.open("x", false)
		if a := r.do(1<<2, 0, 0, 512); a.errno != inval {
			t.Errorf("errno %d", a.errno)
		}
		r.alive(data)
	})
	t.Run("wrong magic", func(t *testing.T) {
		r := dial(t, addr)
		r.open("x", false)
		// What came before is answered, what comes after is not.
		r.send(reqBytes(0, 0, 1, 0, 512), bytes.Repeat([]byte{0x25, 0x60, 0x95, 0x14}, 7))
		if a := r.next(func(uint64) int { return 512 }); a.errno != 0 || !bytes.Equal(a.data, data[:512]) {
			t.Errorf("errno %d", a.errno)
		}
		r.gone()
	})
	t.Run("disconnect with requests before it", func(t *testing.T) {
		r := dial(t, addr)
		r.open("x", false)
		r.send(reqBytes(0, 0, 1, 0, 512), reqBytes(0, 0, 2, 512, 512), reqBytes(0, 2, 3, 0, 0))
		for range 2 {
			if a := r.next(func(uint64) int { return 512 }); a.errno != 0 {
				t.Errorf("errno %d", a.errno)
			}
		}
		r.gone()
	})
}

// TestReads compares random reads with the image, in every way they are answered.
func TestReads(t *testing.T) {
	m := sparseImage(9<<20+123, 4096)
	cold := *m
	cold.cold = true
	b, err := FromBackend("backend", backend.NewMemoryBackend(m.data))
	if err != nil {
		t.Fatal(err)
	}
	exports := Fixed{
		export("pinned", len(m.data), m),
		export("mapped", len(m.data), &cold),
		export("plain", len(m.data), bytes.NewReader(m.data)),
		export("slow", len(m.data), slowImage{bytes.NewReader(m.data), time.Millisecond}),
		b,
	}
	for _, spec := range []string{"", "tcp:0"} {
		addr, _ := startServer(t, Options{Exports: exports}, spec)
		for _, e := range exports {
			for _, structured := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/structured=%v", addr.Network(), e.Name, structured), func(t *testing.T) {
					r := dial(t, addr)
					r.open(e.Name, structured)
					readRandomly(t, r, m.data)
				})
			}
		}
	}
}

// readRandomly sends many reads at once and checks the answers in whatever order.
func readRandomly(t *testing.T, r *raw, data []byte) {
	type rng struct{ off, n int }
	asked := make(map[uint64]rng)
	var reqs []byte
	g := rand.New(rand.NewPCG(3, 4))
	for i := range uint64(300) {
		n := 1 + g.IntN(1<<g.IntN(20))
		if i == 7 {
			n = 8 << 20
		}
		off := g.IntN(len(data) - n + 1)
		flags := uint16(0)
		if r.structured && i%5 == 0 {
			flags = cmdFlagDF
		}
		asked[i] = rng{off, n}
		reqs = append(reqs, reqBytes(flags, 0, i, uint64(off), uint32(n))...)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.Write(reqs) })
	for range 300 {
		a := r.next(func(c uint64) int { return asked[c].n })
		q, ok := asked[a.cookie]
		if !ok {
			t.Fatalf("answer to %d twice or never asked", a.cookie)
		}
		delete(asked, a.cookie)
		if a.errno != 0 || !bytes.Equal(a.data, data[q.off:q.off+q.n]) {
			t.Fatalf("read %+v: errno %d, %d bytes, wrong", q, a.errno, len(a.data))
		}
		if r.structured && a.cookie%5 == 0 && len(a.chunks) != 1 {
			t.Fatalf("DF read in %d chunks", len(a.chunks))
		}
	}
}

func TestStructuredHoles(t *testing.T) {
	m := &memImage{data: make([]byte, 64<<10), grain: 4096}
	copy(m.data[8192:], randomImage(8192))
	addr, _ := startServer(t, Options{Exports: Fixed{export("x", len(m.data), m)}}, "")
	r := dial(t, addr)
	r.open("x", true)
	for _, c := range []struct {
		flags       uint16
		off, length int
		want        []uint16
	}{
		{0, 0, 64 << 10, []uint16{2, 1, 2}},
		{0, 8192, 8192, []uint16{1}},
		{0, 20000, 30000, []uint16{2}},
		{cmdFlagDF, 0, 64 << 10, []uint16{1}},
		{cmdFlagDF, 20000, 30000, []uint16{2}},
	} {
		a := r.do(c.flags, 0, uint64(c.off), uint32(c.length))
		if fmt.Sprint(a.chunks) != fmt.Sprint(c.want) || !bytes.Equal(a.data, m.data[c.off:c.off+c.length]) {
			t.Errorf("%+v: chunks %v", c, a.chunks)
		}
	}
}

func TestBlockStatus(t *testing.T) {
	m := sparseImage(48<<20+77, 4096)
	plain := bytes.NewReader(m.data)
	addr, _ := startServer(t, Options{Exports: Fixed{export("x", len(m.data), m), export("plain", len(m.data), plain)}}, "")
	r := dial(t, addr)
	r.open("x", true)
	for off, rounds := 0, 0; off < len(m.data); rounds++ {
		a := r.do(0, 7, uint64(off), uint32(len(m.data)-off))
		if len(a.status) == 0 || len(a.status)/2 > maxStatus {
			t.Fatalf("%d extents", len(a.status)/2)
		}
		for i := 0; i < len(a.status); i += 2 {
			n, state := int(a.status[i]), a.status[i+1]
			if n == 0 || off+n > len(m.data) {
				t.Fatalf("extent %d+%d", off, n)
			}
			if zero := m.zero(int64(off), int64(n)); zero != (state == 3) || !zero && state != 0 {
				t.Fatalf("extent %d+%d: state %d", off, n, state)
			}
			if i > 0 && a.status[i-1] == state {
				t.Fatalf("extent %d+%d: not joined with the one before", off, n)
			}
			off += n
		}
	}
	a := r.do(cmdFlagReqOne, 7, 0, 1000)
	if len(a.status) != 2 || a.status[0] != 1000 {
		t.Errorf("REQ_ONE: %v", a.status)
	}
	if a := r.do(cmdFlagDF, 7, 0, 1000); a.errno != 22 {
		t.Errorf("DF: errno %d", a.errno)
	}
	r = dial(t, addr)
	r.open("plain", true)
	if a := r.do(0, 7, 5, 1000); len(a.status) != 2 || a.status[0] != 1000 || a.status[1] != 0 {
		t.Errorf("no map: %v", a.status)
	}
}

// TestReadError: exactly the reads that touch the bad range fail.
func TestReadError(t *testing.T) {
	data := randomImage(1 << 20)
	bad := blkbak.Extent{Off: 300_000, Len: 1000}
	addr, _ := startServer(t, Options{Exports: Fixed{
		export("x", len(data), flakyImage{bytes.NewReader(data), bad}),
		export("short", len(data), bytes.NewReader(data[:bad.Off])),
	}}, "")
	for _, structured := range []bool{false, true} {
		r := dial(t, addr)
		r.open("x", structured)
		for off := int64(0); off < int64(len(data)); off += 4096 {
			n := min(4096, int64(len(data))-off)
			a := r.do(0, 0, uint64(off), uint32(n))
			if off < bad.End() && off+n > bad.Off {
				if a.errno != 5 || len(a.data) != 0 {
					t.Errorf("bad read at %d: errno %d", off, a.errno)
				}
			} else if a.errno != 0 || !bytes.Equal(a.data, data[off:off+n]) {
				t.Errorf("read at %d: errno %d", off, a.errno)
			}
		}
		// An image that ends too early is no reason to send other bytes.
		r = dial(t, addr)
		r.open("short", structured)
		if a := r.do(0, 0, uint64(bad.Off)-10, 20); a.errno != 5 {
			t.Errorf("short image: errno %d", a.errno)
		}
		r.alive(data)
	}
}

// lyingImage breaks the contracts of Pinner and Mapper.
type lyingImage struct {
	*memImage
	pieces []Piece
	runs   []Run
}

func (l lyingImage) Pin(dst []Piece, _, _ int64) ([]Piece, bool) {
	return append(dst, l.pieces...), l.pieces != nil
}

func (l lyingImage) AppendRuns(_ context.Context, dst []Run, _, _ int64, _ int) ([]Run, error) {
	return append(dst, l.runs...), nil
}

func TestLyingImage(t *testing.T) {
	m := &memImage{data: randomImage(1 << 20), grain: 4096}
	for name, img := range map[string]lyingImage{
		"pin too little": {m, []Piece{{Data: m.data[:100]}}, nil},
		"pin too much":   {m, []Piece{{Zeros: 1 << 40}}, nil},
		"empty run":      {m, nil, []Run{{0, true}}},
		"negative run":   {m, nil, []Run{{-5, false}}},
	} {
		addr, _ := startServer(t, Options{Exports: Fixed{export("x", len(m.data), img)}}, "")
		r := dial(t, addr)
		r.open("x", true)
		for range 3 {
			if a := r.do(0, 0, 0, 4096); a.errno != 5 {
				t.Errorf("%s: errno %d", name, a.errno)
			}
		}
	}
}

func TestPace(t *testing.T) {
	var p pace
	if !p.quick() {
		t.Error("not hopeful")
	}
	p.note(30*time.Microsecond, 4096)
	p.note(time.Millisecond, 1<<20)
	if !p.quick() {
		t.Error("memory is slow")
	}
	p.note(time.Millisecond, 4096)
	for i := range 8 {
		if p.quick() {
			t.Errorf("quick again after %d", i)
		}
		p.note(time.Microsecond, 4096)
	}
	if !p.quick() {
		t.Error("never quick again")
	}
}

func TestParseRequest(t *testing.T) {
	p := reqBytes(0x0102, 0x0304, 0x05060708090a0b0c, 0x0d0e0f1011121314, 0x15161718)
	r, ok := parseRequest(p)
	if want := (request{0x0102, 0x0304, 0x05060708090a0b0c, 0x0d0e0f1011121314, 0x15161718}); !ok || r != want {
		t.Errorf("%+v, %v", r, ok)
	}
	binary.BigEndian.PutUint32(p, 0x25609514)
	if _, ok := parseRequest(p); ok {
		t.Error("accepted a wrong magic")
	}
}
