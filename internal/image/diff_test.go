package image

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// flatDiff is what Diff must yield, from the names of all chunks.
func flatDiff(a, b *disk, an, bn []chunkstore.ID) []blkbak.Extent {
	common := min(a.size, b.size)
	var out []blkbak.Extent
	for off := int64(0); off < common; off += testChunk {
		if an[off/testChunk] != bn[off/testChunk] {
			out = blkbak.AppendExtent(out, blkbak.Extent{Off: off, Len: min(testChunk, common-off)})
		}
	}
	return blkbak.AppendExtent(out, blkbak.Extent{Off: common, Len: max(a.size, b.size) - common})
}

func TestDiff(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 1))
	for _, size := range edgeSizes {
		for _, fill := range []int{0, 60} {
			m := newStore()
			a := scattered(r, size, fill)
			an := a.names(t, m)
			ra, _ := build(t, m, a, chunkstore.ID{}, a.all())
			for _, other := range edgeSizes {
				b := a.resized(other)
				b.scribble(r, r.IntN(10))
				bn := b.names(t, m)
				rb, _ := build(t, m, b, chunkstore.ID{}, b.all())
				want := flatDiff(a, b, an, bn)
				if got := collect(t, Diff(t.Context(), m, ra, rb)); !slices.Equal(got, want) {
					t.Fatalf("sizes %d and %d: %v, want %v", size, other, got, want)
				}
				if got := collect(t, Diff(t.Context(), m, rb, ra)); !slices.Equal(got, want) {
					t.Fatalf("sizes %d and %d, reversed: %v, want %v", other, size, got, want)
				}
			}
		}
	}
}

func TestDiffCost(t *testing.T) {
	const size, chunk = 1 << 40, 64 << 10
	m := newStore()
	b := newBuilder(t, m, size, chunk, chunkstore.ID{})
	for i := int64(0); i < size/chunk; i += 1000 {
		set(t, b, i, fakeName(i))
	}
	root, _ := finish(t, b)
	b = newBuilder(t, m, size, chunk, root)
	set(t, b, 5_000_000, fakeName(1))
	set(t, b, 5_000_001, fakeName(2))
	set(t, b, 16_000_000, chunkstore.ID{})
	next, _ := finish(t, b)
	m.reset()
	got := collect(t, Diff(t.Context(), m, root, next))
	want := []blkbak.Extent{{Off: 5_000_000 * chunk, Len: 2 * chunk}, {Off: 16_000_000 * chunk, Len: chunk}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// Two paths of four in each tree, but for the top nodes, and the leaf that became zeros.
	if m.got != 2*(4+3)-1 {
		t.Errorf("%d gets", m.got)
	}
	m.reset()
	if got := collect(t, Diff(t.Context(), m, root, root)); got != nil || m.got != 0 {
		t.Errorf("of equal images: %v, %d gets", got, m.got)
	}
}

func TestDiffRefuses(t *testing.T) {
	m := newStore()
	a, _ := finish(t, newBuilder(t, m, 1<<20, 4096, chunkstore.ID{}))
	b, _ := finish(t, newBuilder(t, m, 1<<20, 8192, chunkstore.ID{}))
	for _, c := range []struct {
		a, b chunkstore.ID
		want error
	}{{a, b, blkbak.ErrUsage}, {a, chunkstore.ID{}, blkbak.ErrUsage}, {a, fakeName(1), blkbak.ErrNotFound}} {
		n := 0
		for _, err := range Diff(t.Context(), m, c.a, c.b) {
			if n++; !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
		}
		if n != 1 {
			t.Errorf("%d yields", n)
		}
	}
}

func TestObjects(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 2))
	for _, size := range edgeSizes {
		m := newStore()
		d := scattered(r, size, 50)
		root, _ := build(t, m, d, chunkstore.ID{}, d.all())
		got := map[chunkstore.ID]bool{}
		for _, o := range collect(t, Objects(t.Context(), m, root, nil)) {
			got[o.ID] = true
			if o.Kind == chunkstore.KindData && chunkstore.Sum(d.data[o.Extent.Off/testChunk]) != o.ID {
				t.Errorf("size %d: %+v is not what the device has there", size, o)
			}
		}
		want := slices.Collect(maps.Keys(m.objects)) // all that the build put
		if len(got) != len(want) || slices.ContainsFunc(want, func(id chunkstore.ID) bool { return !got[id] }) {
			t.Errorf("size %d: %d objects, want %d", size, len(got), len(want))
		}
	}
}

// TestObjectsSeen: many points of one volume cost what they do not share.
func TestObjectsSeen(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 3))
	m := newStore()
	d := scattered(r, 64*65*testChunk, 500)
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	roots := []chunkstore.ID{root}
	for range 20 {
		root, _ = build(t, m, d, root, d.scribble(r, 3))
		roots = append(roots, root)
	}
	m.reset()
	seen := map[chunkstore.ID]bool{}
	for _, root := range roots {
		for o := range Objects(t.Context(), m, root, func(id chunkstore.ID) bool { return seen[id] }) {
			if seen[o.ID] {
				t.Fatalf("%v comes twice", o.ID)
			}
			seen[o.ID] = true
		}
	}
	if len(seen) != len(m.objects) {
		t.Errorf("%d objects, want %d", len(seen), len(m.objects))
	}
	for id, n := range m.gets {
		if n > 1 {
			t.Errorf("node %v read %d times", id, n)
		}
	}
}

// TestDiffPlace: a node that was right in one place is not so in the next.
func TestDiffPlace(t *testing.T) {
	m := newStore()
	leaf := shape{0, 12, 64 * testChunk}.appendNode(nil)
	setName(leaf, 5, fakeName(5))
	id, _ := m.Put(t.Context(), chunkstore.KindNode, leaf)
	top := shape{1, 12, 100 * testChunk}.appendNode(nil)
	setName(top, 0, id)
	setName(top, 1, id)
	root, _ := m.Put(t.Context(), chunkstore.KindNode, top)
	empty, _ := finish(t, newBuilder(t, m, 100*testChunk, testChunk, chunkstore.ID{}))
	var err error
	for _, err = range Diff(t.Context(), m, root, empty) {
	}
	checkObjectError(t, "diff", err, blkbak.ErrCorrupt, Object{id, chunkstore.KindNode, blkbak.Extent{Off: 64 * testChunk, Len: 36 * testChunk}})
}

// TestObjectsEnds: an ended context is one error, whatever the consumer does.
func TestObjectsEnds(t *testing.T) {
	m := newStore()
	d := newDisk(64 * 64 * testChunk)
	for i := range d.chunks() {
		d.chunk(i)[0] = 1 + byte(i/64)
	}
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := 0
	for o, err := range Objects(ctx, m, root, nil) {
		if o.ID != root {
			cancel()
		}
		if err != nil {
			errs++
		}
	}
	if errs != 1 {
		t.Errorf("%d errors", errs)
	}
}

// TestRepetition: the largest device, full of one chunk, is ten objects. What is
// asked of a part of it costs what the part does, and with a seen that remembers
// a walk is over at once; otherwise it can be ended.
func TestRepetition(t *testing.T) {
	m := newStore()
	id := fakeName(1)
	for level := range uint8(maxLevels) {
		s := shape{level, minChunkLog2, MaxSize}
		if level < maxLevels-1 {
			s.size = fanout << s.childLog2()
		}
		node := s.appendNode(nil)
		for slot := range s.count() {
			setName(node, slot, id)
		}
		id, _ = m.Put(t.Context(), chunkstore.KindNode, node)
	}
	im := openImage(t, m, id, nil)
	if got, err := im.ChunkAt(t.Context(), MaxSize/testChunk-1); got != fakeName(1) || err != nil {
		t.Errorf("last chunk %v, %v", got, err)
	}
	want := []Run{{blkbak.Extent{Off: MaxSize - 1<<30, Len: 1 << 30}, false}}
	if got := collect(t, im.Extents(t.Context(), MaxSize-1<<30, 1<<62)); !slices.Equal(got, want) {
		t.Errorf("extents %v, want %v", got, want)
	}
	seen := map[chunkstore.ID]bool{}
	for o := range Objects(t.Context(), m, id, func(id chunkstore.ID) bool { return seen[id] }) {
		seen[o.ID] = true
	}
	if len(seen) != maxLevels+1 {
		t.Errorf("%d objects", len(seen))
	}
	empty, _ := finish(t, newBuilder(t, m, MaxSize, testChunk, chunkstore.ID{}))
	m.reset()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	n := 0
	var err error
	for _, err = range Diff(ctx, m, id, empty) {
		n++
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("diff: %v", err)
	}
	if n != 2 || m.got != maxLevels+1 {
		t.Errorf("%d yields, %d gets", n, m.got)
	}
}
