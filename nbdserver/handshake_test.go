package nbdserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func twoExports() (Fixed, []byte) {
	data := randomImage(1 << 20)
	return Fixed{
		export("one", len(data), bytes.NewReader(data)),
		export("two", 1000, bytes.NewReader(data)),
	}, data
}

// Every case ends with a GO that must work, which proves that the stream is in
// step, unless it says that the connection is gone.
func TestHandshake(t *testing.T) {
	const unsup, invalid, unknown, tooBig = 1<<31 | 1, 1<<31 | 3, 1<<31 | 6, 1<<31 | 9
	exports, data := twoExports()
	addr, _ := startServer(t, Options{Exports: exports}, "")
	cases := []struct {
		name  string
		flags uint32
		do    func(r *raw)
		gone  bool
	}{
		{"plain", 3, func(r *raw) {}, false},
		{"no client flags", 0, func(r *raw) {}, false},
		{"unknown client flag", 1 << 5, func(r *raw) {}, true},
		{"unknown option", 3, func(r *raw) { r.expect(unsup, 99) }, false},
		{"unknown option with data", 3, func(r *raw) { r.expect(unsup, 99, make([]byte, 65536)) }, false},
		{"option 0", 3, func(r *raw) { r.expect(unsup, 0, "x") }, false},
		{"peek export", 3, func(r *raw) { r.expect(unsup, 4, "x") }, false},
		{"starttls", 3, func(r *raw) { r.expect(unsup, 5) }, false},
		{"extended headers", 3, func(r *raw) { r.expect(unsup, 11) }, false},
		{"too much data", 3, func(r *raw) { r.expect(tooBig, 7, make([]byte, 65537)) }, false},
		{"wrong option magic", 3, func(r *raw) { r.send(uint64(1), 7, 0) }, true},
		{"abort", 3, func(r *raw) { r.expect(1, 2) }, true},
		{"abort with data", 3, func(r *raw) { r.expect(1, 2, "bye") }, true},
		{"list with data", 3, func(r *raw) { r.expect(invalid, 3, "x") }, false},
		{"structured with data", 3, func(r *raw) { r.expect(invalid, 8, "x") }, false},
		{"go without data", 3, func(r *raw) { r.expect(invalid, 7) }, false},
		{"go, name longer than option", 3, func(r *raw) { r.expect(invalid, 7, 5, "one", uint16(0)) }, false},
		{"go, name of 4 GiB", 3, func(r *raw) { r.expect(invalid, 7, -1, "one", uint16(0)) }, false},
		{"go, no count", 3, func(r *raw) { r.expect(invalid, 7, 3, "one") }, false},
		{"go, half a count", 3, func(r *raw) { r.expect(invalid, 7, 3, "one\x00") }, false},
		{"go, fewer infos than counted", 3, func(r *raw) { r.expect(invalid, 7, 3, "one", uint16(2), uint16(0)) }, false},
		{"go, more infos than counted", 3, func(r *raw) { r.expect(invalid, 7, 3, "one", uint16(0), uint16(0)) }, false},
		{"go, unknown name", 3, func(r *raw) { r.expect(unknown, 7, goData("three")) }, false},
		{"go, empty name, no default", 3, func(r *raw) { r.expect(unknown, 7, goData("")) }, false},
		{"go, long name", 3, func(r *raw) { r.expect(tooBig, 7, goData(strings.Repeat("x", 4097))) }, false},
		{"go, longest name", 3, func(r *raw) { r.expect(unknown, 7, goData(strings.Repeat("x", 4096))) }, false},
		{"go, name with NUL", 3, func(r *raw) { r.expect(invalid, 7, goData("on\x00")) }, false},
		{"go, name not UTF-8", 3, func(r *raw) { r.expect(invalid, 7, goData("on\xff")) }, false},
		{"go, unknown info kinds", 3, func(r *raw) {
			r.option(6, goData("two", 77, 78))
			if all := r.replies(6); all[len(all)-1].typ != 1 {
				r.t.Fatalf("%#x", all[len(all)-1].typ)
			}
		}, false},
		// An earlier INFO must not leak into a later GO.
		{"info two, go unknown", 3, func(r *raw) {
			r.option(6, goData("two"))
			r.replies(6)
			r.expect(unknown, 7, goData("three"))
		}, false},
		{"export name unknown", 3, func(r *raw) { r.option(1, "three") }, true},
		{"export name too long", 3, func(r *raw) { r.option(1, make([]byte, 70000)) }, true},
		{"meta before structured", 3, func(r *raw) { r.expect(invalid, 10, 3, "one", 0) }, false},
		{"meta, lengths", 3, func(r *raw) {
			r.expect(1, 8)
			r.expect(invalid, 10, 3, "one", 1)
			r.expect(invalid, 10, 3, "one", 1, 9, "base")
			r.expect(invalid, 10, 3, "one", 0, "x")
			r.expect(invalid, 9, 3, "one", -1)
			r.expect(unknown, 10, 5, "three", 0)
			r.structured = true
		}, false},
		{"too many options", 3, func(r *raw) {
			for range 64 {
				r.expect(unsup, 99)
			}
		}, true},
		{"many options after list", 3, func(r *raw) {
			r.option(3)
			r.replies(3)
			for range 63 {
				r.expect(unsup, 99)
			}
		}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := dial(t, addr)
			r.hello(c.flags)
			c.do(r)
			if c.gone {
				r.gone()
				return
			}
			r.option(7, goData("one"))
			all := r.replies(7)
			if all[len(all)-1].typ != 1 {
				t.Fatalf("go: %#x", all[len(all)-1].typ)
			}
			r.alive(data)
			r.request(0, 2, 0, 0, 0)
			r.gone()
		})
	}
}

func TestExportName(t *testing.T) {
	exports, data := twoExports()
	addr, _ := startServer(t, Options{Exports: exports}, "")
	for flags, zeros := range map[uint32]int{1: 124, 3: 0, 0: 124} {
		r := dial(t, addr)
		r.hello(flags)
		r.option(1, "one")
		want := be(uint64(len(data)), uint16(0x107), make([]byte, zeros))
		if got := r.recv(len(want)); !bytes.Equal(got, want) {
			t.Errorf("flags %d: %x, want %x", flags, got, want)
		}
		r.alive(data)
	}
}

func TestList(t *testing.T) {
	exports, _ := twoExports()
	exports = append(exports, export(strings.Repeat("n", 4097), 1, nil)) // cannot be listed
	addr, _ := startServer(t, Options{Exports: exports}, "")
	r := dial(t, addr)
	r.hello(3)
	r.option(3)
	all := r.replies(3)
	if len(all) != 3 {
		t.Fatalf("%d replies", len(all))
	}
	for i, name := range []string{"one", "two"} {
		want := be(len(name), name, "about "+name)
		if all[i].typ != 2 || !bytes.Equal(all[i].data, want) {
			t.Errorf("reply %d: type %d, %q, want %q", i, all[i].typ, all[i].data, want)
		}
	}
	if len(all[2].data) != 0 {
		t.Errorf("ack with data %q", all[2].data)
	}
}

func TestInfo(t *testing.T) {
	exports, data := twoExports()
	for _, structured := range []bool{false, true} {
		addr, _ := startServer(t, Options{Exports: exports}, "")
		r := dial(t, addr)
		r.hello(3)
		flags := uint16(1<<0 | 1<<1 | 1<<2 | 1<<8)
		if structured {
			r.expect(1, 8)
			flags |= 1 << 7
		}
		r.option(6, goData("one", 1, 2, 3))
		first := r.replies(6)
		r.option(7, goData("one", 3, 2, 1))
		second := r.replies(7)
		if fmt.Sprint(first) != fmt.Sprint(second) {
			t.Errorf("INFO and GO differ:\n%v\n%v", first, second)
		}
		want := map[uint16][]byte{
			0: be(uint16(0), uint64(len(data)), flags),
			1: be(uint16(1), "one"),
			2: be(uint16(2), "about one"),
			3: be(uint16(3), 1, 4096, 32<<20),
		}
		if len(first) != 5 {
			t.Errorf("%d replies", len(first))
		}
		for _, o := range first[:len(first)-1] {
			kind := binary.BigEndian.Uint16(o.data)
			if o.typ != 3 || !bytes.Equal(o.data, want[kind]) {
				t.Errorf("info %d: %x, want %x", kind, o.data, want[kind])
			}
		}
		r.structured = structured
		r.alive(data)
	}
}

func TestMetaContexts(t *testing.T) {
	exports, _ := twoExports()
	addr, _ := startServer(t, Options{Exports: exports}, "")
	q := func(queries ...string) []byte {
		p := be(3, "one", len(queries))
		for _, s := range queries {
			p = be(p, len(s), s)
		}
		return p
	}
	base := be("base:allocation")
	cases := []struct {
		name  string
		opt   uint32
		data  []byte
		found bool
		id    uint32
	}{
		{"list all", 9, q(), true, 0},
		{"list namespace", 9, q("base:"), true, 0},
		{"list one", 9, q("base:allocation"), true, 0},
		{"list unknown", 9, q("qemu:", "x-foo:bar", "base:other"), false, 0},
		{"set nothing", 10, q(), false, 0},
		{"set namespace", 10, q("base:"), false, 0},
		{"set one twice", 10, q("base:allocation", "base:allocation"), true, 1},
		{"set with unknown", 10, q("qemu:dirty-bitmap:x", "base:allocation"), true, 1},
	}
	for _, c := range cases {
		r := dial(t, addr)
		r.hello(3)
		r.expect(1, 8)
		r.option(c.opt, c.data)
		all := r.replies(c.opt)
		if all[len(all)-1].typ != 1 {
			t.Errorf("%s: %#x", c.name, all[len(all)-1].typ)
		}
		switch {
		case !c.found && len(all) != 1, c.found && len(all) != 2:
			t.Errorf("%s: %d replies", c.name, len(all))
		case c.found && (all[0].typ != 4 || !bytes.Equal(all[0].data, be(c.id, base))):
			t.Errorf("%s: type %d %x", c.name, all[0].typ, all[0].data)
		}
	}

	// A set holds for its export, and until the next one, even a failed one.
	for name, prepare := range map[string]func(r *raw){
		"other export": func(r *raw) { r.option(10, be(3, "two", 1, 15, base)); r.replies(10) },
		"replaced":     func(r *raw) { r.option(10, q("base:allocation")); r.replies(10); r.expect(1, 10, q()) },
		"failed":       func(r *raw) { r.option(10, q("base:allocation")); r.replies(10); r.expect(1<<31|3, 10, "x") },
		"never":        func(r *raw) {},
	} {
		r := dial(t, addr)
		r.hello(3)
		r.expect(1, 8)
		prepare(r)
		r.option(7, goData("one"))
		r.replies(7)
		if a := r.do(0, 7, 0, 4096); a.errno != 22 {
			t.Errorf("%s: BLOCK_STATUS errno %d", name, a.errno)
		}
	}
}

func TestHandshakeTimeout(t *testing.T) {
	exports, data := twoExports()
	addr, _ := startServer(t, Options{Exports: exports, HandshakeTimeout: 100 * time.Millisecond}, "")
	slow := dial(t, addr)
	slow.hello(3)
	slow.send(uint64(0x49484156454F5054)) // and no more
	idle := dial(t, addr)
	idle.open("one", false)
	slow.gone()
	time.Sleep(150 * time.Millisecond) // idling is fine once an export is open
	idle.alive(data)
}

// failingExports refuses for reasons of its own and counts handles.
type failingExports struct {
	Fixed
	open atomic.Int32
}

func (f *failingExports) Open(ctx context.Context, name string) (*Export, error) {
	if name == "broken" {
		return nil, errors.New("disk on fire")
	}
	if name == "negative" {
		return &Export{Size: -1}, nil
	}
	e, err := f.Fixed.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	f.open.Add(1)
	own := *e
	own.Release = func() { f.open.Add(-1) }
	return &own, nil
}

func TestExportsReleased(t *testing.T) {
	fixed, data := twoExports()
	exports := &failingExports{Fixed: fixed}
	addr, stop := startServer(t, Options{Exports: exports}, "")
	r := dial(t, addr)
	r.hello(3)
	r.expect(1<<31|6, 7, goData("broken"))
	r.expect(1<<31|6, 7, goData("negative"))
	r.option(6, goData("one"))
	r.replies(6)
	if n := exports.open.Load(); n != 0 {
		t.Errorf("%d exports open after INFO", n)
	}
	r.option(7, goData("one"))
	r.replies(7)
	r.alive(data)
	if n := exports.open.Load(); n != 1 {
		t.Errorf("%d exports open after GO", n)
	}
	r.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := exports.open.Load(); n != 0 {
		t.Errorf("%d exports open at the end", n)
	}
}

func TestMaxConns(t *testing.T) {
	exports, data := twoExports()
	addr, _ := startServer(t, Options{Exports: exports, MaxConns: 1}, "")
	first := dial(t, addr)
	first.open("one", false)
	dial(t, addr).gone()
	first.alive(data)
}
