package nbdserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func export(name string, size int, img Image) *Export {
	return &Export{Info: Info{Name: name, Description: "about " + name}, Size: int64(size), Image: img}
}

// startServer serves on a unix socket until the test ends, when nothing that it
// started may be left.
func startServer(t testing.TB, opt Options, spec string) (addr net.Addr, stop func() error) {
	t.Helper()
	before := runtime.NumGoroutine()
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if spec == "" {
		spec = "unix:" + sockPath(t)
	}
	l, err := Listen(spec)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("server does not stop")
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		if s.conns != 0 {
			t.Errorf("%d connections left", s.conns)
		}
		s.mu.Unlock()
		if s.budget.free != s.opt.Memory {
			t.Errorf("memory leaked: %d of %d", s.budget.free, s.opt.Memory)
		}
		for i := 0; runtime.NumGoroutine() > before; i++ {
			if i == 200 {
				buf := make([]byte, 1<<16)
				t.Errorf("goroutines: %d before, now:\n%s", before, buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	return l.Addr(), stop
}

// sockPath is short enough for the 108 bytes of a socket address.
func sockPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir + "/s"
}

// raw is a client that sends what it is told, right or wrong.
type raw struct {
	t testing.TB
	net.Conn
	structured bool
}

func dial(t testing.TB, addr net.Addr) *raw {
	t.Helper()
	nc, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{t: t, Conn: nc}
}

func (r *raw) send(v ...any) {
	r.t.Helper()
	if _, err := r.Write(be(v...)); err != nil {
		r.t.Fatal(err)
	}
}

// be encodes v, big-endian; strings are their bytes, ints are 32 bits.
func be(v ...any) []byte {
	var p []byte
	for _, v := range v {
		switch v := v.(type) {
		case string:
			p = append(p, v...)
		case []byte:
			p = append(p, v...)
		case int:
			p = binary.BigEndian.AppendUint32(p, uint32(v))
		default:
			var err error
			if p, err = binary.Append(p, binary.BigEndian, v); err != nil {
				panic(err)
			}
		}
	}
	return p
}

func (r *raw) recv(n int) []byte {
	r.t.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		r.t.Fatalf("receive %d bytes: %v", n, err)
	}
	return p
}

// gone checks that the server sends nothing more and closes.
func (r *raw) gone() {
	r.t.Helper()
	p, err := io.ReadAll(r)
	if len(p) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		r.t.Fatalf("connection not closed: %d bytes %.40x, %v", len(p), p, err)
	}
}

// hello gets through the fixed beginnings.
func (r *raw) hello(flags uint32) {
	r.t.Helper()
	want := be(uint64(0x4e42444d41474943), uint64(0x49484156454F5054), uint16(3))
	if got := r.recv(18); !bytes.Equal(got, want) {
		r.t.Fatalf("greeting %x, want %x", got, want)
	}
	r.send(flags)
}

func (r *raw) option(id uint32, data ...any) {
	r.t.Helper()
	p := be(data...)
	r.send(uint64(0x49484156454F5054), id, uint32(len(p)), p)
}

type optReply struct {
	typ  uint32
	data []byte
}

// reply receives one option reply to id.
func (r *raw) reply(id uint32) optReply {
	r.t.Helper()
	h := r.recv(20)
	if m, i := binary.BigEndian.Uint64(h), binary.BigEndian.Uint32(h[8:]); m != 0x3e889045565a9 || i != id {
		r.t.Fatalf("reply magic %x option %d, want option %d", m, i, id)
	}
	return optReply{binary.BigEndian.Uint32(h[12:]), r.recv(int(binary.BigEndian.Uint32(h[16:])))}
}

// replies receives replies to id up to the one that ends them.
func (r *raw) replies(id uint32) (all []optReply) {
	r.t.Helper()
	for {
		o := r.reply(id)
		all = append(all, o)
		if o.typ == 1 || o.typ >= 1<<31 {
			return all
		}
	}
}

// expect sends an option and wants a single reply of type typ.
func (r *raw) expect(typ uint32, id uint32, data ...any) {
	r.t.Helper()
	r.option(id, data...)
	if all := r.replies(id); len(all) != 1 || all[0].typ != typ {
		r.t.Fatalf("option %d: %d replies, last of type %#x %q, want %#x", id, len(all), all[len(all)-1].typ, all[len(all)-1].data, typ)
	}
}

func goData(name string, infos ...uint16) []byte {
	return be(len(name), name, uint16(len(infos)), infos)
}

// open opens an export for transmission.
func (r *raw) open(name string, structured bool) {
	r.t.Helper()
	r.hello(3)
	if structured {
		r.expect(1, 8)
		r.structured = true
		r.option(10, len(name), name, 1, len(allocationName), allocationName)
		r.replies(10)
	}
	r.option(7, goData(name))
	if all := r.replies(7); all[len(all)-1].typ != 1 {
		r.t.Fatalf("go: %#x %q", all[len(all)-1].typ, all[len(all)-1].data)
	}
}

func reqBytes(flags, typ uint16, cookie, off uint64, length uint32) []byte {
	return be(uint32(0x25609513), flags, typ, cookie, off, length)
}

func (r *raw) request(flags, typ uint16, cookie, off uint64, length uint32) {
	r.t.Helper()
	r.send(reqBytes(flags, typ, cookie, off, length))
}

// answer is a whole reply, put together from its chunks.
type answer struct {
	cookie  uint64
	errno   uint32
	data    []byte   // of a READ
	status  []uint32 // of a BLOCK_STATUS: pairs
	chunks  []uint16 // types
	message string
}

// next receives a reply; lengths says how long a successful simple one is.
func (r *raw) next(lengths func(cookie uint64) int) (a answer) {
	r.t.Helper()
	a, err := readAnswer(r, lengths)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func readAnswer(r io.Reader, length func(uint64) int) (a answer, err error) {
	recv := func(n int) []byte {
		p := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(r, p)
		}
		return p
	}
	for {
		magic := binary.BigEndian.Uint32(recv(4))
		if err != nil {
			return a, err
		}
		if magic == 0x67446698 {
			h := recv(12)
			a.errno, a.cookie = binary.BigEndian.Uint32(h), binary.BigEndian.Uint64(h[4:])
			if err == nil && a.errno == 0 {
				a.data = recv(length(a.cookie))
			}
			return a, err
		}
		if magic != 0x668e33ef {
			return a, fmt.Errorf("reply with magic %#x", magic)
		}
		h := recv(16)
		flags, typ, cookie := binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint64(h[4:])
		if len(a.chunks) > 0 && cookie != a.cookie {
			return a, fmt.Errorf("chunk for %d among those for %d", cookie, a.cookie)
		}
		a.cookie, a.chunks = cookie, append(a.chunks, typ)
		p := recv(int(binary.BigEndian.Uint32(h[12:])))
		if err != nil {
			return a, err
		}
		switch typ {
		case 1:
			a.data = append(a.data, p[8:]...)
		case 2:
			a.data = append(a.data, make([]byte, binary.BigEndian.Uint32(p[8:]))...)
		case 5:
			for p = p[4:]; len(p) > 0; p = p[4:] {
				a.status = append(a.status, binary.BigEndian.Uint32(p))
			}
		case 1<<15 | 1:
			a.errno, a.message = binary.BigEndian.Uint32(p), string(p[6:])
		default:
			return a, fmt.Errorf("chunk of type %d", typ)
		}
		if flags&1 != 0 {
			return a, nil
		}
	}
}

// do sends one request and receives its answer.
func (r *raw) do(flags, typ uint16, off uint64, length uint32) answer {
	r.t.Helper()
	r.request(flags, typ, 0xfeed, off, length)
	a := r.next(func(uint64) int {
		if typ == 0 {
			return int(length)
		}
		return 0
	})
	if a.cookie != 0xfeed {
		r.t.Fatalf("answer to %x", a.cookie)
	}
	return a
}

// alive checks that the connection still works and is in step.
func (r *raw) alive(image []byte) {
	r.t.Helper()
	n := min(len(image), 4096)
	if a := r.do(0, 0, 0, uint32(n)); a.errno != 0 || !bytes.Equal(a.data, image[:n]) {
		r.t.Fatalf("after that: errno %d, data right: %v", a.errno, bytes.Equal(a.data, image[:n]))
	}
}
