package nbdserver

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"
)

// BenchmarkRead measures reads of an image in memory over a unix socket, with a
// client that sends depth requests at once and then takes depth replies.
func BenchmarkRead(b *testing.B) {
	m := &memImage{data: randomImage(16 << 20), grain: 64 << 10}
	pinned := export("pinned", len(m.data), pinnedImage{m})
	plain := export("plain", len(m.data), bytes.NewReader(m.data))
	for _, e := range []*Export{pinned, plain} {
		for _, size := range []int{4 << 10, 64 << 10} {
			for _, depth := range []int{1, 32} {
				b.Run(fmt.Sprintf("%s/%dk/depth=%d", e.Name, size>>10, depth), func(b *testing.B) {
					addr, _ := startServer(b, Options{Exports: Fixed{pinned, plain}, Logger: slog.New(slog.DiscardHandler)}, "")
					r := dial(b, addr)
					r.open(e.Name, false)
					benchReads(b, r.Conn, size, depth, len(m.data))
				})
			}
		}
	}
}

func benchReads(b *testing.B, nc net.Conn, size, depth, total int) {
	var reqs []byte
	for i := range depth {
		reqs = append(reqs, reqBytes(0, 0, uint64(i), uint64(i*size%total), uint32(size))...)
	}
	replies := make([]byte, depth*(16+size))
	b.SetBytes(int64(size))
	b.ReportAllocs()
	nc.SetDeadline(time.Time{})
	// One iteration is one request, to have allocations counted for each.
	for n := 0; b.Loop(); n++ {
		if n%depth != 0 {
			continue
		}
		if _, err := nc.Write(reqs); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(nc, replies); err != nil {
			b.Fatal(err)
		}
	}
}

// pinnedImage pins without looking for zeros, as a cache would.
type pinnedImage struct{ *memImage }

func (p pinnedImage) Pin(dst []Piece, off, n int64) ([]Piece, bool) {
	return append(dst, Piece{Data: p.data[off : off+n]}), true
}

// TestReadAllocs: the way of a request that is answered from memory allocates
// nothing, on either side of the socket. For images that are read, the benchmark
// has to do: they may go to goroutines, and pools forget on purpose under -race.
func TestReadAllocs(t *testing.T) {
	m := &memImage{data: randomImage(1 << 20), grain: 64 << 10}
	addr, _ := startServer(t, Options{Exports: Fixed{export("x", len(m.data), pinnedImage{m})}}, "")
	for structured, header := range map[bool]int{false: 16, true: 28} {
		r := dial(t, addr)
		r.open("x", structured)
		req, reply := bytes.Repeat(reqBytes(0, 0, 1, 4096, 4096), 32), make([]byte, 32*(header+4096))
		if n := testing.AllocsPerRun(200, func() {
			r.Write(req)
			io.ReadFull(r, reply)
		}); n > 1 { // less than one for 32 requests: the runtime has some of its own
			t.Errorf("structured %v: %v allocations for 32 requests", structured, n)
		}
	}
}
