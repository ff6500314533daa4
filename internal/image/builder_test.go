package image

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

func TestFreshIsCanonical(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, size := range edgeSizes {
		for _, n := range []int{0, 1, 20} {
			m := newStore()
			d := newDisk(size)
			changed := d.scribble(r, n)
			want := flatRoot(size, testChunk, d.names(t, m))
			if root, _ := build(t, m, d, chunkstore.ID{}, changed); root != want {
				t.Errorf("size %d, %d changes: root %v, want %v", size, n, root, want)
			}
			if root, _ := build(t, m, d, chunkstore.ID{}, d.all()); root != want {
				t.Errorf("size %d, %d changes, all set: root %v, want %v", size, n, root, want)
			}
			if m.objects[want] == nil {
				t.Errorf("size %d: top node not stored", size)
			}
		}
	}
}

func TestIncrementIsCanonical(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, size := range edgeSizes {
		m := newStore()
		d := newDisk(size)
		d.scribble(r, 100)
		root, _ := build(t, m, d, chunkstore.ID{}, d.all())
		for range 10 {
			changed := d.scribble(r, 1+r.IntN(20))
			root, _ = build(t, m, d, root, changed)
			if want := flatRoot(size, testChunk, d.names(t, m)); root != want {
				t.Fatalf("size %d: root %v, want %v", size, root, want)
			}
		}
	}
}

// TestSetZeroIsCanonical mixes Set and SetZero on top of parents of all sizes.
func TestSetZeroIsCanonical(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, from := range edgeSizes {
		m := newStore()
		old := newDisk(from)
		old.scribble(r, 400)
		parent, _ := build(t, m, old, chunkstore.ID{}, old.all())
		for _, to := range edgeSizes {
			for range 4 {
				d := old.resized(to)
				b := newBuilder(t, m, to, testChunk, parent)
				for i := int64(0); i < d.chunks(); {
					n := 1 + r.Int64N(d.chunks()-i)
					switch r.IntN(4) {
					case 0:
						maps.DeleteFunc(d.data, func(c int64, _ []byte) bool { return c >= i && c < i+n })
						if err := b.SetZero(i, n); err != nil {
							t.Fatal(err)
						}
					case 1:
						n = min(n, 64*r.Int64N(65))
					default:
						n = 1
						d.chunk(i)[0] = byte(r.IntN(256))
						set(t, b, i, d.put(t, m, i))
					}
					i += n
				}
				root, _ := finish(t, b)
				if want := flatRoot(to, testChunk, d.names(t, m)); root != want {
					t.Fatalf("%d to %d: root %v, want %v", from, to, root, want)
				}
			}
		}
	}
}

// TestSetZeroDropsSubtrees: the map of what goes is not read.
func TestSetZeroDropsSubtrees(t *testing.T) {
	const size, chunk = 1 << 40, 64 << 10
	m := newStore()
	b := newBuilder(t, m, size, chunk, chunkstore.ID{})
	for i := int64(0); i < size/chunk; i += 5000 {
		set(t, b, i, fakeName(i))
	}
	parent, _ := finish(t, b)
	m.reset()
	b = newBuilder(t, m, size, chunk, parent)
	if err := b.SetZero(1, size/chunk-2); err != nil {
		t.Fatal(err)
	}
	root, stats := finish(t, b)
	// Read are the top and both edges, the leaf at the right one being zeros; of
	// the left edge the lower two nodes stay as they are.
	if stats.NodesRead != 6 || stats.NodesWritten != 2 || stats.ChunksSet != size/chunk-2 || m.got != int(stats.NodesRead) {
		t.Errorf("%+v, %d gets", stats, m.got)
	}
	b = newBuilder(t, m, size, chunk, chunkstore.ID{})
	set(t, b, 0, fakeName(0))
	if want, _ := finish(t, b); root != want {
		t.Errorf("root %v, want %v", root, want)
	}
}

// TestSetZeroAll makes all, or nearly all, zeros of a parent of another height.
func TestSetZeroAll(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	for _, from := range edgeSizes {
		m := newStore()
		old := newDisk(from)
		old.scribble(r, 400)
		parent, _ := build(t, m, old, chunkstore.ID{}, old.all())
		for _, to := range edgeSizes {
			for _, keep := range []int64{0, 1, 65} {
				d := old.resized(to)
				n := max(0, d.chunks()-keep)
				maps.DeleteFunc(d.data, func(i int64, _ []byte) bool { return i < n })
				m.reset()
				b := newBuilder(t, m, to, testChunk, parent)
				if err := b.SetZero(0, n); err != nil {
					t.Fatal(err)
				}
				root, stats := finish(t, b)
				if want := flatRoot(to, testChunk, d.names(t, m)); root != want {
					t.Fatalf("%d to %d, %d kept: root %v, want %v", from, to, keep, root, want)
				}
				if keep == 0 && from == to && stats.NodesRead != 1 {
					t.Errorf("size %d: %d nodes read to clear all", to, stats.NodesRead)
				}
			}
		}
	}
}

// TestIncrementCost pins the cost of an increment: one change in 1 TiB.
func TestIncrementCost(t *testing.T) {
	const size, chunk = 1 << 40, 64 << 10
	m := newStore()
	b := newBuilder(t, m, size, chunk, chunkstore.ID{})
	for i := int64(0); i < size/chunk; i += 1000 {
		set(t, b, i, fakeName(i))
	}
	parent, _ := finish(t, b)

	step := func(name string, wantRead, wantWritten int64, sets ...int64) chunkstore.ID {
		t.Helper()
		m.reset()
		b := newBuilder(t, m, size, chunk, parent)
		for i, c := range sets {
			if i%2 == 0 {
				set(t, b, c, fakeName(sets[i+1]))
			}
		}
		root, stats := finish(t, b)
		if stats.NodesRead != wantRead || stats.NodesWritten != wantWritten || m.got != int(wantRead) || m.puts != int(wantWritten) {
			t.Errorf("%s: %+v, %d gets, %d puts", name, stats, m.got, m.puts)
		}
		if stats.BytesWritten != wantWritten*(16+64*32) {
			t.Errorf("%s: %d bytes", name, stats.BytesWritten)
		}
		return root
	}
	step("one change", 4, 4, 5_000_000, 7)
	step("two in one leaf", 4, 4, 5_000_000, 7, 5_000_001, 8)
	step("two far apart", 7, 7, 5_000_000, 7, 15_000_000, 8)
	if root := step("no change", 1, 0); root != parent {
		t.Errorf("root %v, want the parent's, %v", root, parent)
	}
	if root := step("set as before", 4, 0, 5_000_000, 5_000_000); root != parent {
		t.Errorf("root %v, want the parent's, %v", root, parent)
	}
}

func TestBuilderRefuses(t *testing.T) {
	m := newStore()
	d := newDisk(100 * testChunk)
	d.scribble(rand.New(rand.NewPCG(5, 5)), 30)
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())

	for _, c := range []struct{ size, chunk int64 }{
		{-1, testChunk}, {MaxSize + 1, testChunk}, {1, 0}, {1, -testChunk}, {1, testChunk / 2}, {1, 2 * MaxChunkSize}, {1, testChunk + 512},
	} {
		if _, err := NewBuilder(t.Context(), m, m, c.size, c.chunk, chunkstore.ID{}); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("size %d, chunk size %d: %v", c.size, c.chunk, err)
		}
	}
	if _, err := NewBuilder(t.Context(), m, m, 1<<20, 2*testChunk, root); !errors.Is(err, blkbak.ErrUsage) {
		t.Errorf("other chunk size than the parent: %v", err)
	}
	if _, err := NewBuilder(t.Context(), m, m, 1<<20, testChunk, fakeName(1)); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("parent missing: %v", err)
	}
	for name, misuse := range map[string]func(b *Builder) error{
		"same again":         func(b *Builder) error { return b.Set(7, fakeName(1)) },
		"descending":         func(b *Builder) error { return b.Set(6, fakeName(1)) },
		"negative":           func(b *Builder) error { return b.Set(-1, fakeName(1)) },
		"past the end":       func(b *Builder) error { return b.Set(100, fakeName(1)) },
		"zero descending":    func(b *Builder) error { return b.SetZero(5, 1) },
		"zero overlapping":   func(b *Builder) error { return b.SetZero(7, 3) },
		"zero past the end":  func(b *Builder) error { return b.SetZero(90, 11) },
		"zero of negative n": func(b *Builder) error { return b.SetZero(90, -1) },
	} {
		b := newBuilder(t, m, 100*testChunk, testChunk, root)
		set(t, b, 7, fakeName(7))
		err := misuse(b)
		if !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
		if again := b.Set(50, fakeName(50)); again != err {
			t.Errorf("%s: builder goes on with %v", name, again)
		}
		if _, _, again := b.Finish(); again != err {
			t.Errorf("%s: builder finishes with %v", name, again)
		}
	}
	b := newBuilder(t, m, 100*testChunk, testChunk, root)
	finish(t, b)
	if _, _, err := b.Finish(); err == nil {
		t.Error("finished twice")
	}
}

// TestBuilderStoreFails lets each read and write of an increment fail in turn.
func TestBuilderStoreFails(t *testing.T) {
	m := newStore()
	r := rand.New(rand.NewPCG(6, 6))
	d := newDisk(64*64*testChunk + 100)
	for i := range d.chunks() {
		d.chunk(i)[r.IntN(100)] = 1
	}
	parent, _ := build(t, m, d, chunkstore.ID{}, d.all())
	failed := 0
	for k := 1; ; k++ {
		f := &failing{memStore: m, after: k}
		err := func() error {
			b, err := NewBuilder(t.Context(), f, f, d.size+100, testChunk, parent)
			if err != nil {
				return err
			}
			for _, i := range []int64{0, 2000, 3000} {
				if err := b.Set(i, fakeName(i)); err != nil {
					return err
				}
			}
			_, _, err = b.Finish()
			return err
		}()
		if err == nil {
			break
		}
		if failed++; !errors.Is(err, errFault) {
			t.Fatalf("step %d: %v", k, err)
		}
	}
	if failed != 16 { // the top, 2 nodes and 4 leaves are read and written, and a chunk is
		t.Errorf("%d steps", failed)
	}
}

var errFault = errors.New("injected fault")

// failing fails call number after and all later ones.
type failing struct {
	*memStore
	after, calls int
}

func (f *failing) fault() error {
	if f.calls++; f.calls >= f.after {
		return errFault
	}
	return nil
}

func (f *failing) Get(ctx context.Context, id chunkstore.ID, dst []byte) ([]byte, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	return f.memStore.Get(ctx, id, dst)
}

func (f *failing) Put(ctx context.Context, kind chunkstore.Kind, plain []byte) (chunkstore.ID, error) {
	if err := f.fault(); err != nil {
		return chunkstore.ID{}, err
	}
	return f.memStore.Put(ctx, kind, plain)
}

// replacing checks what a builder says is replaced.
type replacing struct {
	*memStore
	t        *testing.T
	replaced int
}

func (s *replacing) Replace(ctx context.Context, kind chunkstore.Kind, plain []byte, old chunkstore.ID, oldPlain []byte) (chunkstore.ID, error) {
	s.replaced++
	if chunkstore.Sum(oldPlain) != old || chunkstore.Sum(plain) == old {
		s.t.Errorf("%v replaced with plaintext of %v", old, chunkstore.Sum(oldPlain))
	}
	return s.Put(ctx, kind, plain)
}

func TestReplacer(t *testing.T) {
	m := newStore()
	d := newDisk(64 * 65 * testChunk)
	d.scribble(rand.New(rand.NewPCG(7, 7)), 1000)
	parent, _ := build(t, m, d, chunkstore.ID{}, d.all())
	s := &replacing{memStore: m, t: t}
	b, err := NewBuilder(t.Context(), m, s, d.size, testChunk, parent)
	if err != nil {
		t.Fatal(err)
	}
	set(t, b, 5, fakeName(5))
	set(t, b, 3000, fakeName(3000))
	if _, stats := finish(t, b); s.replaced != 4 || stats.NodesWritten != 4 {
		t.Errorf("%d replaced, %+v", s.replaced, stats)
	}
}
