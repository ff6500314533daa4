package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/image"
)

// TestIncrementCost counts what an increment does on devices of many sizes: it
// reads the chunks that changed and no others, writes one object for each, and
// the nodes on the way to them.
func TestIncrementCost(t *testing.T) {
	const chunk = 64 << 10
	for _, size := range []int64{1 << 30, 1 << 35, 1 << 40} {
		for _, k := range []int{0, 1, 100, 1000} {
			t.Run(fmt.Sprintf("%dGiB-%d", size>>30, k), func(t *testing.T) {
				w := newWorld(t, t.TempDir(), worldChunk)
				src := &madeUp{size: size, chunk: chunk, version: map[int64]uint64{}}
				r := rand.New(rand.NewPCG(uint64(size), uint64(k)))
				data := src.touch(r, 2000)
				first, _ := incrementCost(t, w, src, data, chunkstore.ID{})
				changed := src.touch(r, k)
				src.reads.Store(0)
				src.bytes.Store(0)
				root, cost := incrementCost(t, w, src, changed, first)

				if src.bytes.Load() != int64(k)*chunk || src.reads.Load() != int64(k) {
					t.Errorf("%d reads of %d bytes for %d chunks", src.reads.Load(), src.bytes.Load(), k)
				}
				paths := nodesOnTheWay(changed, chunk, size)
				if cost.stats.Data.New != int64(k) || cost.stats.Nodes.New != paths {
					t.Errorf("%d objects and %d nodes written, want %d and %d", cost.stats.Data.New, cost.stats.Nodes.New, k, paths)
				}
				// The builder reads each node that it replaces, and the comparison with
				// the parent's chunks reads them once more.
				if most := 2*paths + 2; cost.nodeReads > most {
					t.Errorf("%d objects read, want %d at most", cost.nodeReads, most)
				}
				if k == 0 && root != first {
					t.Errorf("nothing changed, and the root did")
				}
			})
		}
	}
}

// madeUp is a device of any size in which every chunk ever touched has a content
// of its own, and the others are zeros.
type madeUp struct {
	size, chunk  int64
	version      map[int64]uint64
	reads, bytes atomic.Int64
}

// touch changes n chunks, no two of them beside each other.
func (m *madeUp) touch(r *rand.Rand, n int) []blkbak.Extent {
	taken := map[int64]bool{}
	var list []blkbak.Extent
	for len(list) < n {
		i := r.Int64N(m.size / m.chunk)
		if taken[i-1] || taken[i] || taken[i+1] {
			continue
		}
		taken[i] = true
		m.version[i]++
		list = append(list, blkbak.Extent{Off: i * m.chunk, Len: m.chunk})
	}
	return blkbak.MergeExtents(list)
}

func (m *madeUp) ReadAt(p []byte, off int64) (int, error) {
	m.reads.Add(1)
	m.bytes.Add(int64(len(p)))
	for i := int64(0); i < int64(len(p)); i += m.chunk {
		c := p[i:min(i+m.chunk, int64(len(p)))]
		clear(c)
		if v := m.version[(off+i)/m.chunk]; v > 0 {
			binary.LittleEndian.PutUint64(c, uint64(off+i))
			binary.LittleEndian.PutUint64(c[8:], v)
		}
	}
	return len(p), nil
}

func (m *madeUp) Size() int64 { return m.size }

func (m *madeUp) NextData(int64) (int64, int64, error) {
	return 0, 0, errors.New("an increment does not look for data")
}

type cost struct {
	stats     chunkstore.Stats
	nodeReads int64
}

// incrementCost makes a map of src out of the parent's.
func incrementCost(t *testing.T, w *world, src *madeUp, changed []blkbak.Extent, parent chunkstore.ID) (chunkstore.ID, cost) {
	t.Helper()
	b := countingBackend{worldBackend{w}, new(atomic.Int64)}
	store, err := chunkstore.OpenBackend(t.Context(), b, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	session, err := store.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	tr := transfer{session: session, src: src, chunk: src.chunk, extents: changed, progress: func(int64) {}}
	if !parent.IsZero() {
		if tr.parent, err = image.Open(t.Context(), store, parent, nil); err != nil {
			t.Fatal(err)
		}
	}
	out, err := tr.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := cost{session.Stats(), b.reads.Load()}
	if err := session.Commit(t.Context(), []byte("point")); err != nil {
		t.Fatal(err)
	}
	return out.root, c
}

// countingBackend counts reads from packs.
type countingBackend struct {
	worldBackend
	reads *atomic.Int64
}

func (b countingBackend) Open(ctx context.Context, name string) (chunkstore.Object, error) {
	o, err := b.worldBackend.Open(ctx, name)
	if err == nil && strings.HasPrefix(name, "packs/") {
		o = countingObject{o, b.reads}
	}
	return o, err
}

type countingObject struct {
	chunkstore.Object
	reads *atomic.Int64
}

func (o countingObject) ReadAt(p []byte, off int64) (int, error) {
	o.reads.Add(1)
	return o.Object.ReadAt(p, off)
}

// nodesOnTheWay is the number of nodes above the chunks in extents: 64 chunks to
// a node, 64 nodes to one above, up to the one that spans the device.
func nodesOnTheWay(extents []blkbak.Extent, chunk, size int64) int64 {
	var n int64
	for span := chunk * 64; ; span *= 64 {
		seen := map[int64]bool{}
		for _, e := range extents {
			seen[e.Off/span] = true
		}
		n += int64(len(seen))
		if span >= size {
			return n
		}
	}
}

// countingReader counts what is read of an exception store.
type countingReader struct {
	io.ReaderAt
	bytes atomic.Int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	c.bytes.Add(int64(len(p)))
	return c.ReaderAt.ReadAt(p, off)
}

// TestTableCost counts what reading an exception table takes: the header twice,
// for it must be valid afterwards as well, and the areas in use.
func TestTableCost(t *testing.T) {
	for _, size := range []int64{1 << 30, 1 << 40} {
		for _, k := range []int{0, 1, 255, 256, 1000} {
			src := &madeUp{size: size, chunk: 64 << 10, version: map[int64]uint64{}}
			changed := src.touch(rand.New(rand.NewPCG(1, uint64(k))), k)
			for i := range changed {
				changed[i].Len = cow.DefaultChunk
			}
			d := &memoryDevice{data: make([]byte, 8<<20)}
			if _, err := cow.Write(t.Context(), d, src, changed, cow.WriteOptions{OriginSize: size}); err != nil {
				t.Fatal(err)
			}
			areas := int64(k/256 + 1)
			c := &countingReader{ReaderAt: d}
			s, err := cow.Read(t.Context(), c, d.Size(), cow.Options{OriginSize: size, Areas: areas})
			if err != nil || s.Exceptions != int64(k) {
				t.Fatal(s, err)
			}
			if most := (areas + 2) * cow.DefaultChunk; c.bytes.Load() > most {
				t.Errorf("%d bytes read for %d exceptions on %d GiB, want %d at most", c.bytes.Load(), k, size>>30, most)
			}
		}
	}
}
