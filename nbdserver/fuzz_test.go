package nbdserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// play sends input to a fresh server and returns all that it sent. The server must
// end: by itself when the input ends the session, else soon after a hang-up.
func play(t *testing.T, exports Exports, input []byte, ends bool) []byte {
	t.Helper()
	s, err := New(Options{Exports: exports, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeConn(context.Background(), there) })
	var out bytes.Buffer
	received := make(chan struct{})
	go func() { // until the server closes
		io.Copy(&out, here)
		close(received)
	}()
	here.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := here.Write(input); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the server stopped reading")
	}
	patience := 2 * time.Millisecond
	if ends {
		patience = 10 * time.Second
	}
	select {
	case <-received:
	case <-time.After(patience):
		if ends {
			t.Error("the server does not end the session")
		}
	}
	here.Close()
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the server hangs")
	}
	<-received
	if s.budget.free != s.opt.Memory || s.conns != 0 {
		t.Errorf("left behind: %d bytes, %d connections", s.opt.Memory-s.budget.free, s.conns)
	}
	return out.Bytes()
}

// FuzzHandshake: whatever a client says, the server ends, and what it sends is a
// greeting and well-formed option replies, up to an export that was opened.
func FuzzHandshake(f *testing.F) {
	opt := func(id uint32, data ...any) []byte {
		p := be(data...)
		return be(uint64(protocol.NEGOTIATION_MAGIC_OPTION), id, uint32(len(p)), p)
	}
	meta := be(1, "x", 1, 15, "base:allocation")
	f.Add(be(3, opt(3), opt(8), opt(9, meta), opt(10, meta), opt(6, goData("x", 1, 2, 3)), opt(2)))
	f.Add(be(3, opt(7, goData("x")), reqBytes(0, 0, 1, 0, 512), reqBytes(0, 2, 0, 0, 0)))
	f.Add(be(1, opt(1, "x")))
	f.Add(be(0, opt(99, "hello"), opt(7, -1, "x", uint16(0)), opt(7, goData("no such"))))
	f.Add(be(uint32(1 << 31)))
	data := randomImage(8192)
	f.Fuzz(func(t *testing.T, input []byte) {
		out := play(t, Fixed{export("x", len(data), bytes.NewReader(data)), export("y", 0, nil)}, input, false)
		if len(out) < 18 {
			t.Fatalf("greeting of %d bytes", len(out))
		}
		for out = out[18:]; len(out) >= 20 && binary.BigEndian.Uint64(out) == 0x3e889045565a9; {
			n := binary.BigEndian.Uint32(out[16:])
			if n > 8+2*maxString {
				t.Fatalf("option reply of %d bytes", n)
			}
			out = out[min(20+int(n), len(out)):]
		}
	})
}

// verdict is what must become of one request.
type verdict struct {
	cookie uint64
	errno  uint32
	off, n int // data, when errno is 0
}

// model says what a server answers to input on a read-only export of size bytes,
// simple replies; clean tells whether it gets to answer everything.
func model(input []byte, size int) (all []verdict, clean bool) {
	for len(input) >= 28 {
		var h protocol.TransmissionRequestHeader
		binary.Read(bytes.NewReader(input), binary.BigEndian, &h)
		input = input[28:]
		if h.RequestMagic != protocol.TRANSMISSION_MAGIC_REQUEST {
			return all, true
		}
		v := verdict{cookie: h.Handle, errno: 22}
		switch h.Type {
		case 0:
			if h.CommandFlags == 0 && h.Length > 0 && h.Length <= 32<<20 && h.Offset < uint64(size) && uint64(size)-h.Offset >= uint64(h.Length) {
				v.errno, v.off, v.n = 0, int(h.Offset), int(h.Length)
			}
		case 1:
			v.errno = 1
			if uint64(h.Length) > uint64(len(input)) {
				return all, false
			}
			input = input[h.Length:]
		case 2:
			return all, true
		case 3:
			if h.CommandFlags == 0 && h.Length == 0 && h.Offset == 0 {
				v.errno = 0
			}
		case 4, 6:
			v.errno = 1
		}
		all = append(all, v)
	}
	return all, false
}

// FuzzTransmission compares the server with the model: the same verdict on every
// request, the right data behind every success, nothing else.
func FuzzTransmission(f *testing.F) {
	disc := reqBytes(0, 2, 0, 0, 0)
	f.Add(be(reqBytes(0, 0, 1, 0, 512), reqBytes(0, 0, 2, 100_000, 1), reqBytes(0, 0, 3, 1<<63, 1<<31), disc))
	f.Add(be(reqBytes(1, 1, 4, 0, 5), "12345", reqBytes(0, 3, 5, 0, 0), reqBytes(0, 4, 6, 0, 4096), disc))
	f.Add(be(reqBytes(0, 7, 7, 0, 512), reqBytes(0, 99, 8, 0, 512), reqBytes(4, 0, 9, 0, 512), disc))
	f.Add(be(reqBytes(0, 0, 1, 0, 100_000), reqBytes(0, 0, 1, 0, 100_000), make([]byte, 28)))
	f.Add(be(reqBytes(0, 1, 1, 0, 1<<32-1), "x"))
	data := randomImage(100_000)
	exports := Fixed{export("x", len(data), bytes.NewReader(data))}
	f.Fuzz(func(t *testing.T, input []byte) {
		want, clean := model(input, len(data))
		hello := be(3, uint64(protocol.NEGOTIATION_MAGIC_OPTION), 1, 1, "x")
		out := play(t, exports, append(hello, input...), clean)
		if len(out) < 28 {
			if clean {
				t.Fatal("handshake failed")
			}
			return
		}
		lengths := make(map[uint64][]verdict)
		for _, v := range want {
			lengths[v.cookie] = append(lengths[v.cookie], v)
		}
		got := replay(t, out[28:], lengths, data, clean)
		if clean && got != len(want) {
			t.Fatalf("%d answers to %d requests", got, len(want))
		}
	})
}

// replay matches what a server sent with the verdicts, by cookie. Where several
// requests share a cookie any of them will do, the longest first.
func replay(t *testing.T, out []byte, open map[uint64][]verdict, data []byte, clean bool) (n int) {
	for _, vs := range open {
		sort.Slice(vs, func(i, j int) bool { return vs[i].n > vs[j].n })
	}
	for ; len(out) > 0; n++ {
		if len(out) < 16 {
			if clean {
				t.Fatalf("%d bytes left", len(out))
			}
			return n
		}
		errno, cookie := binary.BigEndian.Uint32(out[4:]), binary.BigEndian.Uint64(out[8:])
		if binary.BigEndian.Uint32(out) != protocol.TRANSMISSION_MAGIC_REPLY {
			t.Fatalf("no reply: %x", out[:16])
		}
		out = out[16:]
		found := false
		for i, v := range open[cookie] {
			if v.errno != errno || len(out) < v.n && clean || !bytes.HasPrefix(data[v.off:v.off+v.n], out[:min(v.n, len(out))]) {
				continue
			}
			out = out[min(v.n, len(out)):]
			open[cookie] = append(open[cookie][:i:i], open[cookie][i+1:]...)
			found = true
			break
		}
		if !found {
			t.Fatalf("answer %d to %d, which deserves %v", errno, cookie, open[cookie])
		}
	}
	return n
}
