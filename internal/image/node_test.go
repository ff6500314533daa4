package image

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// TestGolden pins the format. The values are in docs/format/image-tree.md too,
// and were confirmed by a program in another language that shares no code.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		size, chunk, set int64 // the chunk with index set is 'x' all over
		root             string
	}{
		{0, 64 << 10, -1, "233fcaf6ea81ed5baf58011ca433ab59b279df8ff3c2131f56107f7efcf9c8f6"},
		{1 << 30, 64 << 10, -1, "2f812647cbde303f12f96ec236ae7f23be73e54603e2c731560f3bf9fd50d3c1"},
		{1 << 30, 64 << 10, 1000, "661da996e796fb9ddf1445572908c9113b847f0ab1d1bb49136d3372e168d5fa"},
		{1<<30 + 512, 64 << 10, 1 << 14, "b198e0ca8e7c9b6b7c476fbda528295ff5384059ef21f7c334eb3dc022cc08e0"},
		{1 << 40, 4 << 20, 77777, "71948ef6708bbab84e1a0817f7a7e174dca91325c870f24a23bd3ac2320ed0f5"},
	} {
		m := newStore()
		b := newBuilder(t, m, c.size, c.chunk, chunkstore.ID{})
		if c.set >= 0 {
			plain := bytes.Repeat([]byte("x"), int(b.geo.chunk(c.set).Len))
			set(t, b, c.set, chunkstore.Sum(plain))
		}
		if root, _ := finish(t, b); root.String() != c.root {
			t.Errorf("size %d, chunk size %d, chunk %d set: root %v, want %s", c.size, c.chunk, c.set, root, c.root)
		}
	}
	node := shape{level: 1, chunkLog2: 16, size: 2<<22 + 5}.appendNode(nil)
	setName(node, 1, fakeName(0x1234))
	want := "626b544e" + "01" + "01" + "10" + "06" + "0500800000000000" +
		fmt.Sprintf("%064x", 0) + "0000000000001234" + fmt.Sprintf("%048x", 1) + fmt.Sprintf("%064x", 0)
	if got := hex.EncodeToString(node); got != want {
		t.Errorf("node\n%s, want\n%s", got, want)
	}
}

func TestGeometry(t *testing.T) {
	for _, chunk := range []int64{MinChunkSize, 64 << 10, MaxChunkSize} {
		for _, size := range []int64{0, 1, chunk, 64 * chunk, 64*chunk + 1, 64 * 64 * chunk, 64*64*chunk + 1, 1 << 40, 1<<61 + 1, MaxSize - 1, MaxSize} {
			g, err := newGeometry(size, chunk)
			if err != nil {
				t.Fatal(err)
			}
			top := g.top()
			if int(top) >= maxLevels {
				t.Fatalf("size %d, chunk size %d: level %d", size, chunk, top)
			}
			e, s := g.node(top, 0)
			if e.Off != 0 || e.Len != size || s.size != size || s.count() > fanout {
				t.Errorf("size %d, chunk size %d: top %v %+v", size, chunk, e, s)
			}
			if got, err := parseTop(s.appendNode(nil)); got != g || err != nil {
				t.Errorf("size %d, chunk size %d: parsed as %+v, %v", size, chunk, got, err)
			}
			if size == 0 {
				continue
			}
			// Down the right edge, what is computed from above and by place agrees.
			last := g.chunks() - 1
			for level := top; level > 0; level-- {
				s = s.child(s.count() - 1)
				if e, byPlace := g.node(level-1, nodeOf(last, level-1)); byPlace != s || e.End() != size {
					t.Errorf("size %d, chunk size %d, level %d: %+v by place, %+v from above", size, chunk, level-1, byPlace, s)
				}
			}
			if s.childSize(s.count()-1) != g.chunk(last).Len {
				t.Errorf("size %d, chunk size %d: last chunk %d, %d", size, chunk, s.childSize(s.count()-1), g.chunk(last).Len)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := shape{level: 1, chunkLog2: 16, size: 3 << 22}.appendNode(nil)
	setName(good, 0, fakeName(1))
	for name, c := range map[string]struct {
		off  int
		to   byte
		want int64 // offset in the error
	}{
		"magic":           {0, 'B', 0},
		"version 0":       {4, 0, 4},
		"version 2":       {4, 2, 4},
		"level too low":   {5, 0, 8},
		"level too high":  {5, 8, 5},
		"level 255":       {5, 255, 5},
		"small chunks":    {6, 11, 6},
		"large chunks":    {6, 25, 6},
		"no chunks":       {6, 0, 6},
		"fanout":          {7, 5, 7},
		"size one less":   {8, 0xff, 16 + 3*32},
		"size huge":       {15, 0x40, 8},
		"size negative":   {15, 0x80, 8},
		"size in between": {14, 1, 8},
	} {
		bad := bytes.Clone(good)
		bad[c.off] = c.to
		_, err := parseNode(bad)
		var f *blkbak.FormatError
		if !errors.As(err, &f) || f.Off != c.want {
			t.Errorf("%s: %v, want an error at byte %d", name, err, c.want)
		}
	}
	for n := range good {
		if _, err := parseNode(good[:n]); !errors.Is(err, blkbak.ErrCorrupt) {
			t.Errorf("truncated to %d bytes: %v", n, err)
		}
	}
	if _, err := parseNode(append(bytes.Clone(good), 0)); !errors.Is(err, blkbak.ErrCorrupt) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, err := parseNode(shape{level: 1, chunkLog2: 16}.appendNode(nil)); !errors.Is(err, blkbak.ErrCorrupt) {
		t.Errorf("empty node above the leaves: %v", err)
	}
	if _, err := parseTop(shape{level: 1, chunkLog2: 16, size: 1 << 22}.appendNode(nil)); !errors.Is(err, blkbak.ErrCorrupt) {
		t.Errorf("top node higher than need be: %v", err)
	}
}

// TestPlace: a node that is fine by itself is refused in another's place.
func TestPlace(t *testing.T) {
	want := shape{1, 13, 8192}
	for _, c := range []struct {
		is  shape
		off int64
	}{{want, -1}, {shape{0, 13, 8192}, offLevel}, {shape{2, 13, 8192}, offLevel}, {shape{1, 12, 8192}, offChunk}, {shape{1, 13, 8191}, offSize}} {
		node := c.is.appendNode(nil)
		setName(node, 0, fakeName(1))
		err := checkInner(node, want)
		var f *blkbak.FormatError
		if (c.off >= 0) != errors.As(err, &f) || f != nil && f.Off != c.off {
			t.Errorf("%+v in the place of %+v: %v", c.is, want, err)
		}
	}
}

// TestBitFlips flips each bit of each node, with a store that does not verify
// what it gives out. Header flips are refused; a flipped name is a name that
// the store does not know.
func TestBitFlips(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(30, 1)), 70*testChunk+9, 3)
	d.chunk(70)[0] = 1 // the right edge of the tree is stored, so a wrong size shows
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	nodes := collect(t, Objects(t.Context(), m, root, nil))
	m.lax = true
	p := make([]byte, d.size)
	for _, o := range nodes {
		if o.Kind != chunkstore.KindNode {
			continue
		}
		raw := m.objects[o.ID]
		for bit := range len(raw) * 8 {
			raw[bit/8] ^= 1 << (bit % 8)
			im, err := Open(t.Context(), m, root, nil)
			if err == nil {
				_, err = im.ReadAt(p, 0)
			}
			want := blkbak.ErrCorrupt
			if bit/8 >= headerSize {
				want = blkbak.ErrNotFound
			}
			if !errors.Is(err, want) {
				t.Fatalf("node %v, bit %d: %v", o.ID, bit, err)
			}
			raw[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// TestDamage takes away, or swaps, each object in turn and looks at who notices,
// and whether the error says what is hit.
func TestDamage(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(30, 2)), 64*65*testChunk, 30)
	data := d.bytes()
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	empty, _ := finish(t, newBuilder(t, m, d.size, testChunk, chunkstore.ID{}))
	all := collect(t, Objects(t.Context(), m, root, nil))
	p := make([]byte, d.size)
	for i, o := range all {
		good := m.objects[o.ID]
		want := blkbak.ErrNotFound
		delete(m.objects, o.ID)
		m.lax = i%2 == 1
		if m.lax { // something whole, in the wrong place
			want = blkbak.ErrCorrupt
			m.objects[o.ID] = m.objects[empty]
		}
		im, err := Open(t.Context(), m, root, nil)
		if o.ID == root {
			if !errors.Is(err, want) {
				t.Errorf("root gone: %v", err)
			}
			m.objects[o.ID] = good
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		n, err := im.ReadAt(p, 0)
		checkObjectError(t, "read", err, want, o)
		if int64(n) != o.Extent.Off || !bytes.Equal(p[:n], data[:n]) {
			t.Errorf("%d bytes read before %v", n, o.Extent)
		}
		if o.Kind == chunkstore.KindNode {
			for _, err = range im.Extents(t.Context(), 0, im.Size()) {
			}
			checkObjectError(t, "extents", err, want, o)
			for _, err = range Diff(t.Context(), m, root, empty) {
			}
			checkObjectError(t, "diff", err, want, o)
			listed := map[chunkstore.ID]bool{}
			errs := 0
			for got, err := range Objects(t.Context(), m, root, nil) {
				listed[got.ID] = true
				if err != nil {
					errs++
					checkObjectError(t, "objects", err, want, got)
				}
			}
			for _, other := range all {
				hit := o.Extent.Off <= other.Extent.Off && other.Extent.End() <= o.Extent.End() && other.Extent != o.Extent
				if !hit && !listed[other.ID] {
					t.Errorf("without %v, %v is not listed", o, other)
				}
			}
			if errs != 1 {
				t.Errorf("%d errors listing without %v", errs, o)
			}
		}
		m.objects[o.ID] = good
	}
}

func checkObjectError(t *testing.T, what string, err, want error, o Object) {
	t.Helper()
	var oe *ObjectError
	if !errors.As(err, &oe) || !errors.Is(err, want) || oe.ID != o.ID || oe.Kind != o.Kind || oe.Extent != o.Extent {
		t.Errorf("%s: %v, want %v about %+v", what, err, want, o)
	}
}

// TestChunkLength: a chunk of another length is no chunk of this place, whether
// all of it is read, a part, or it is made longer in a larger device.
func TestChunkLength(t *testing.T) {
	m := newStore()
	d := newDisk(testChunk + 1000)
	d.chunk(0)[0], d.chunk(1)[0] = 1, 2
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	id := d.put(t, m, 1)
	o := Object{id, chunkstore.KindData, blkbak.Extent{Off: testChunk, Len: 1000}}
	m.lax = true
	for _, n := range []int{0, 1, 999, 1001, testChunk} {
		m.objects[id] = make([]byte, n)
		im := openImage(t, m, root, nil)
		for _, part := range []int64{0, 998} {
			_, err := im.ReadAt(make([]byte, 1000-part), testChunk+part)
			checkObjectError(t, "read", err, blkbak.ErrCorrupt, o)
		}
		_, _, err := newBuilder(t, m, 2*testChunk, testChunk, root).Finish()
		checkObjectError(t, "resize", err, blkbak.ErrCorrupt, o)
	}
}

// TestZeroNodeRefused: a stored node that should be the zero name would give
// equal disks two roots.
func TestZeroNodeRefused(t *testing.T) {
	m := newStore()
	leaf, _ := m.Put(t.Context(), chunkstore.KindNode, shape{0, 12, 64 * testChunk}.appendNode(nil))
	top := shape{1, 12, 100 * testChunk}.appendNode(nil)
	setName(top, 0, leaf)
	root, _ := m.Put(t.Context(), chunkstore.KindNode, top)
	_, err := openImage(t, m, root, nil).ReadAt(make([]byte, 1), 5)
	checkObjectError(t, "read", err, blkbak.ErrCorrupt, Object{leaf, chunkstore.KindNode, blkbak.Extent{Len: 64 * testChunk}})
}

func FuzzNode(f *testing.F) {
	for _, s := range []shape{{0, 12, 0}, {0, 12, 1}, {0, 16, 1 << 22}, {1, 24, 1 << 36}, {8, 12, MaxSize}} {
		f.Add(s.appendNode(nil))
	}
	f.Add([]byte("bkTN"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseNode(b)
		if err != nil {
			if !errors.Is(err, blkbak.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again := s.appendNode(nil)
		for slot := range s.count() {
			setName(again, slot, nameAt(b, slot))
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x encodes as %x", b, again)
		}
		if g, err := parseTop(b); err == nil {
			if e, top := g.node(g.top(), 0); top != s || e.Len != g.size {
				t.Fatalf("top %+v has the shape %+v by its place", s, top)
			}
		}
	})
}

// FuzzOpen lets a store give out fuzzed bytes under names that a tree uses.
func FuzzOpen(f *testing.F) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(30, 3)), 64*65*testChunk+100, 40)
	good, _ := build(f, m, d, chunkstore.ID{}, d.all())
	all := collect(f, Objects(f.Context(), m, good, nil))
	for i, o := range all[:12] {
		f.Add(uint16(i), uint16(len(all)-1-i), m.objects[o.ID], []byte{})
	}
	f.Add(uint16(0), uint16(1), m.objects[all[1].ID], m.objects[all[0].ID])
	f.Add(uint16(0), uint16(1), shape{8, 12, MaxSize}.appendNode(nil), []byte("bkTN"))
	f.Fuzz(func(t *testing.T, i, j uint16, a, b []byte) {
		s := newStore()
		s.lax = true
		for id, plain := range m.objects {
			s.objects[id] = plain
		}
		s.objects[all[int(i)%len(all)].ID] = a
		if len(b) > 0 {
			s.objects[all[int(j)%len(all)].ID] = b
		}
		abuse(t, s, good)
	})
}

// abuse does everything to a tree that may be hostile, in bounds.
func abuse(t *testing.T, s *memStore, root chunkstore.ID) {
	check := func(err error) {
		if err != nil && !errors.Is(err, blkbak.ErrCorrupt) && !errors.Is(err, blkbak.ErrNotFound) && !errors.Is(err, blkbak.ErrUsage) {
			t.Fatalf("neither corrupt nor missing: %v", err)
		}
	}
	im, err := Open(t.Context(), s, root, nil)
	check(err)
	if err == nil {
		p := make([]byte, 20_000)
		for _, off := range []int64{0, 100_000, im.Size() / 2, im.Size() - 10_000} {
			if n, err := im.ReadAt(p, max(off, 0)); err != nil && n == len(p) {
				t.Fatal(err)
			}
			for r, err := range im.Extents(t.Context(), max(off, 0), 10<<20) {
				check(err)
				if err == nil && (r.Off < off || r.Len <= 0 || r.End() > im.Size()) {
					t.Fatalf("run %v of %d bytes", r, im.Size())
				}
			}
		}
		b, err := NewBuilder(t.Context(), s, s, im.Size()/2+1, im.ChunkSize(), root)
		if check(err); err == nil {
			check(b.Set(b.geo.chunks()/2, fakeName(1)))
			_, _, err = b.Finish()
			check(err)
		}
	}
	n := 0
	for _, err := range Objects(t.Context(), s, root, nil) {
		if check(err); n > 10_000 {
			break
		}
		n++
	}
	empty := shape{1, 12, 64 * 64 * testChunk}.appendNode(nil)
	s.objects[fakeName(0)] = empty
	for _, err := range Diff(t.Context(), s, root, fakeName(0)) {
		check(err)
	}
}
