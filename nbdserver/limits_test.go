package nbdserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blkbak/blkbak"
)

func TestManyConnections(t *testing.T) {
	m := sparseImage(2<<20, 4096)
	addr, _ := startServer(t, Options{Exports: Fixed{export("x", len(m.data), m)}}, "")
	want := sha256.Sum256(m.data)
	var wg sync.WaitGroup
	clients := make([]*raw, 64)
	for i := range clients {
		clients[i] = dial(t, addr)
	}
	for i, r := range clients {
		wg.Go(func() {
			r.open("x", i%2 == 0)
			h := sha256.New()
			for off := 0; off < len(m.data); off += 64 << 10 {
				h.Write(r.do(0, 0, uint64(off), 64<<10).data)
			}
			if !bytes.Equal(h.Sum(nil), want[:]) {
				t.Errorf("client %d read something else", i)
			}
		})
	}
	wg.Wait()
}

// countingImage counts the bytes that were ever read from it.
type countingImage struct {
	io.ReaderAt
	n atomic.Int64
}

func (c *countingImage) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ReaderAt.ReadAt(p, off)
}

// settle waits until a count stops growing.
func settle(n *atomic.Int64) int64 {
	for last := int64(-1); ; time.Sleep(100 * time.Millisecond) {
		if now := n.Load(); now == last {
			return now
		} else {
			last = now
		}
	}
}

// TestMemoryBound has clients that ask for far more than the server may hold and
// receive none of it. Another client must not notice.
func TestMemoryBound(t *testing.T) {
	const clients, memory, size = 3, 48 << 20, 32 << 20
	for _, length := range []uint32{64 << 10, 1 << 20, 32 << 20} {
		for _, slow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/slow=%v", length, slow), func(t *testing.T) {
				data := make([]byte, size)
				img := &countingImage{ReaderAt: bytes.NewReader(data)}
				hostile := export("hostile", size, img)
				if slow {
					hostile.Image = slowImage{img, time.Millisecond}
				}
				good := randomImage(size)
				addr, _ := startServer(t, Options{
					Exports:      Fixed{hostile, export("good", size, bytes.NewReader(good))},
					Memory:       memory,
					StallTimeout: 500 * time.Millisecond,
				}, "")
				for range clients {
					r := dial(t, addr)
					r.open("hostile", false)
					var reqs []byte
					for range 200 {
						reqs = append(reqs, reqBytes(0, 0, 1, 0, length)...)
					}
					r.send(reqs)
				}
				got := settle(&img.n)
				// A socket takes some of what was read; twice its send buffer is generous.
				if limit := int64(memory + clients*(ownShare+4<<20)); got > limit {
					t.Errorf("%d bytes read for clients that take none, limit %d", got, limit)
				}
				r := dial(t, addr)
				r.open("good", false)
				start := time.Now()
				for range 20 {
					r.alive(good)
				}
				if d := time.Since(start); d > 400*time.Millisecond {
					t.Errorf("small reads took %v beside stalled clients", d)
				}
				// This one needs what the others hold. They have had their time.
				if a := r.do(0, 0, 0, size); a.errno != 0 || !bytes.Equal(a.data, good) {
					t.Errorf("large read: errno %d", a.errno)
				}
			})
		}
	}
}

// TestStalledAlone: a client may pause for as long as it likes when nobody waits.
func TestStalledAlone(t *testing.T) {
	data := randomImage(32 << 20)
	addr, _ := startServer(t, Options{
		Exports: Fixed{export("x", len(data), bytes.NewReader(data))}, StallTimeout: 20 * time.Millisecond,
	}, "")
	r := dial(t, addr)
	r.open("x", false)
	r.send(reqBytes(0, 0, 1, 0, 32<<20), reqBytes(0, 0, 2, 0, 32<<20))
	time.Sleep(300 * time.Millisecond)
	for range 2 {
		if a := r.next(func(uint64) int { return 32 << 20 }); !bytes.Equal(a.data, data) {
			t.Error("wrong data after a pause")
		}
	}
}

// TestVanish: a client goes away in the middle of things. The clean-up of
// startServer finds what it left behind.
func TestVanish(t *testing.T) {
	data := randomImage(8 << 20)
	addr, stop := startServer(t, Options{
		Exports: Fixed{
			export("fast", len(data), bytes.NewReader(data)),
			export("slow", len(data), slowImage{bytes.NewReader(data), time.Hour}),
		},
		DrainTimeout: 5 * time.Second,
	}, "tcp:0")
	for _, name := range []string{"fast", "slow"} {
		for _, cut := range []int{0, 1, 27, 28, 28 * 10, 28*10 + 5} {
			r := dial(t, addr)
			r.open(name, false)
			var reqs []byte
			for range 11 {
				reqs = append(reqs, reqBytes(0, 0, 1, 0, 1<<20)...)
			}
			r.send(reqs[:cut])
			if name == "fast" && cut >= 28 {
				r.recv(100_000) // in the middle of a reply
			}
			r.Close()
		}
	}
	start := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("vanished clients held the server up for %v", d)
	}
}

// gateImage blocks reads until it is opened.
type gateImage struct {
	io.ReaderAt
	entered, open chan struct{}
}

func (g gateImage) ReadAt(p []byte, off int64) (int, error) {
	g.entered <- struct{}{}
	<-g.open
	return g.ReaderAt.ReadAt(p, off)
}

func TestDrain(t *testing.T) {
	data := randomImage(1 << 20)
	gate := gateImage{bytes.NewReader(data), make(chan struct{}, 9), make(chan struct{})}
	exports := Fixed{export("gate", len(data), gate), export("x", len(data), bytes.NewReader(data))}
	addr, stop := startServer(t, Options{Exports: exports}, "")
	busy, idle, shy := dial(t, addr), dial(t, addr), dial(t, addr)
	busy.open("gate", false)
	idle.open("x", false)
	shy.hello(3)
	idle.alive(data)
	busy.request(0, 0, 1, 4096, 4096)
	<-gate.entered

	stopped := make(chan error)
	go func() { stopped <- stop() }()
	// A new request is refused as soon as the server knows.
	for deadline := time.Now().Add(5 * time.Second); ; {
		a := idle.do(0, 0, 0, 512)
		if a.errno == 108 {
			break
		}
		if a.errno != 0 || time.Now().After(deadline) {
			t.Fatalf("errno %d while stopping", a.errno)
		}
	}
	shy.expect(1<<31|7, 7, goData("x"))
	shy.gone()
	idle.gone()
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a request outstanding: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	close(gate.open)
	if a := busy.next(func(uint64) int { return 4096 }); a.errno != 0 || !bytes.Equal(a.data, data[4096:8192]) {
		t.Errorf("outstanding request: errno %d", a.errno)
	}
	busy.gone()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestDrainTimeout: neither a client that takes nothing nor an image that takes
// for ever keeps the server from stopping.
func TestDrainTimeout(t *testing.T) {
	data := randomImage(32 << 20)
	addr, stop := startServer(t, Options{
		Exports: Fixed{
			export("x", len(data), bytes.NewReader(data)),
			export("slow", len(data), slowImage{bytes.NewReader(data), time.Hour}),
		},
		DrainTimeout: 300 * time.Millisecond,
	}, "")
	for _, name := range []string{"x", "slow"} {
		r := dial(t, addr)
		r.open(name, false)
		r.request(0, 0, 1, 0, 32<<20)
		if name == "x" {
			r.recv(16) // its reply is on the way
		}
	}
	start := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
}

// TestDisconnectUnread: a client that says good-bye and takes nothing is let go.
func TestDisconnectUnread(t *testing.T) {
	data := randomImage(32 << 20)
	s, err := New(Options{Exports: Fixed{export("x", len(data), bytes.NewReader(data))}, DrainTimeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen("unix:" + sockPath(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := dial(t, l.Addr())
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.ServeConn(context.Background(), nc) }()
	r.open("x", false)
	r.send(reqBytes(0, 0, 1, 0, 32<<20), reqBytes(0, 2, 0, 0, 0))
	select {
	case <-done:
		t.Error("server let go of a reply that the client might still take")
	case <-time.After(100 * time.Millisecond):
	}
	time.Sleep(200 * time.Millisecond)
	buf := make([]byte, 1<<20)
	for _, err = r.Read(buf); err == nil; _, err = r.Read(buf) {
	}
	<-done
}

// TestOptions: all that is wrong is said at once.
func TestOptions(t *testing.T) {
	_, err := New(Options{MaxConns: -1, MaxInFlight: -1, Memory: 1, StallTimeout: -1})
	if !errors.Is(err, blkbak.ErrUsage) {
		t.Fatal(err)
	}
	for _, want := range []string{"nothing to export", "connections", "in flight", "memory limit", "timeout"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}
