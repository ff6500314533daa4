package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// memStore keeps objects in memory and counts what is asked of it.
type memStore struct {
	mu      sync.Mutex
	objects map[chunkstore.ID][]byte
	lax     bool // give out what does not match its name, as no real store does
	gets    map[chunkstore.ID]int
	got     int // sum of gets
	puts    int
	newPuts int
}

func newStore() *memStore {
	return &memStore{objects: map[chunkstore.ID][]byte{}, gets: map[chunkstore.ID]int{}}
}

func (m *memStore) Get(ctx context.Context, id chunkstore.ID, dst []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(dst) != 0 {
		return nil, fmt.Errorf("dst has length %d", len(dst))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets[id]++
	m.got++
	plain, ok := m.objects[id]
	if !ok {
		return nil, fmt.Errorf("object %v: %w", id, blkbak.ErrNotFound)
	}
	if !m.lax && chunkstore.Sum(plain) != id {
		return nil, fmt.Errorf("object %v: %w", id, blkbak.ErrCorrupt)
	}
	return append(dst, plain...), nil
}

func (m *memStore) Put(ctx context.Context, kind chunkstore.Kind, plain []byte) (chunkstore.ID, error) {
	if err := ctx.Err(); err != nil {
		return chunkstore.ID{}, err
	}
	if kind == chunkstore.KindData && allZero(plain) {
		return chunkstore.ID{}, fmt.Errorf("zeros are put")
	}
	id := chunkstore.Sum(plain)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts++
	if m.objects[id] == nil {
		m.newPuts++
		m.objects[id] = bytes.Clone(plain)
	}
	return id, nil
}

func (m *memStore) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got, m.puts, m.newPuts = 0, 0, 0
	clear(m.gets)
}

// flatRoot computes the root from the names of all chunks, level by level from
// below, with nothing of the code under test but the documented layout.
func flatRoot(size, chunkSize int64, names []chunkstore.ID) chunkstore.ID {
	log2 := byte(0)
	for int64(1)<<log2 < chunkSize {
		log2++
	}
	sizes := make([]int64, len(names))
	for i := range sizes {
		sizes[i] = min(chunkSize, size-int64(i)*chunkSize)
	}
	for level := byte(0); ; level++ {
		top := len(names) <= 64
		var upNames []chunkstore.ID
		var upSizes []int64
		for first := 0; first < len(names) || first == 0; first += 64 {
			part := names[first:min(first+64, len(names))]
			var total int64
			zero := true
			node := []byte{'b', 'k', 'T', 'N', 1, level, log2, 6, 0, 0, 0, 0, 0, 0, 0, 0}
			for i, id := range part {
				total += sizes[first+i]
				zero = zero && id == chunkstore.ID{}
				node = append(node, id[:]...)
			}
			binary.LittleEndian.PutUint64(node[8:], uint64(total))
			if top {
				return chunkstore.Sum(node)
			}
			id := chunkstore.Sum(node)
			if zero {
				id = chunkstore.ID{}
			}
			upNames, upSizes = append(upNames, id), append(upSizes, total)
		}
		names, sizes = upNames, upSizes
	}
}

// disk is the model that images are compared with: the chunks that were written
// to, all others being zeros.
type disk struct {
	size, chunkSize int64
	data            map[int64][]byte
}

func newDisk(size int64) *disk { return &disk{size, testChunk, map[int64][]byte{}} }

func (d *disk) chunks() int64 { return (d.size + d.chunkSize - 1) / d.chunkSize }

func (d *disk) chunkLen(i int64) int64 { return min(d.chunkSize, d.size-i*d.chunkSize) }

// chunk is chunk i, to write to.
func (d *disk) chunk(i int64) []byte {
	if d.data[i] == nil {
		d.data[i] = make([]byte, d.chunkLen(i))
	}
	return d.data[i]
}

// bytes are all of the disk.
func (d *disk) bytes() []byte {
	b := make([]byte, d.size)
	for i, c := range d.data {
		copy(b[i*d.chunkSize:], c)
	}
	return b
}

// put stores chunk i and returns its name.
func (d *disk) put(t testing.TB, m *memStore, i int64) chunkstore.ID {
	t.Helper()
	c := d.data[i]
	if allZero(c) {
		return chunkstore.ID{}
	}
	id, err := m.Put(t.Context(), chunkstore.KindData, c)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (d *disk) names(t testing.TB, m *memStore) []chunkstore.ID {
	t.Helper()
	names := make([]chunkstore.ID, d.chunks())
	for i := range d.data {
		names[i] = d.put(t, m, i)
	}
	return names
}

// resized is a copy of d with another size.
func (d *disk) resized(size int64) *disk {
	n := &disk{size, d.chunkSize, map[int64][]byte{}}
	for i, c := range d.data {
		if i < n.chunks() {
			copy(n.chunk(i), c)
		}
	}
	return n
}

// scribble changes one byte in a random choice of n chunks, or clears them, and
// returns the chunks in ascending order.
func (d *disk) scribble(r *rand.Rand, n int) []int64 {
	if d.size == 0 {
		return nil
	}
	var changed []int64
	for range n {
		changed = append(changed, r.Int64N(d.chunks()))
	}
	slices.Sort(changed)
	changed = slices.Compact(changed)
	for _, i := range changed {
		if c := d.chunk(i); r.IntN(3) == 0 {
			clear(c)
		} else {
			c[r.IntN(len(c))] = byte(r.IntN(256))
		}
	}
	return changed
}

// scattered is a disk with n runs of data.
func scattered(r *rand.Rand, size int64, n int) *disk {
	d := newDisk(size)
	for i := 0; i < n && size > 0; i++ {
		off := r.Int64N(size)
		for end := min(size, off+1+r.Int64N(5*testChunk)); off < end; off++ {
			d.chunk(off / testChunk)[off%testChunk] = byte(r.Uint32())
		}
	}
	return d
}

func newBuilder(t testing.TB, m *memStore, size, chunkSize int64, parent chunkstore.ID) *Builder {
	t.Helper()
	b, err := NewBuilder(t.Context(), m, m, size, chunkSize, parent)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func set(t testing.TB, b *Builder, i int64, id chunkstore.ID) {
	t.Helper()
	if err := b.Set(i, id); err != nil {
		t.Fatal(err)
	}
}

func finish(t testing.TB, b *Builder) (chunkstore.ID, Stats) {
	t.Helper()
	root, stats, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return root, stats
}

// build makes a map of d in which all chunks listed are set.
func build(t testing.TB, m *memStore, d *disk, parent chunkstore.ID, changed []int64) (chunkstore.ID, Stats) {
	t.Helper()
	b := newBuilder(t, m, d.size, d.chunkSize, parent)
	for _, i := range changed {
		set(t, b, i, d.put(t, m, i))
	}
	return finish(t, b)
}

// all lists the chunks of d.
func (d *disk) all() []int64 {
	s := make([]int64, d.chunks())
	for i := range s {
		s[i] = int64(i)
	}
	return s
}

// fakeName is a name for a chunk that is never read.
func fakeName(i int64) chunkstore.ID {
	id := chunkstore.ID{31: 1}
	binary.BigEndian.PutUint64(id[:], uint64(i))
	return id
}

const testChunk = MinChunkSize

// edgeSizes are device sizes around every boundary of a tree of three levels.
var edgeSizes = []int64{
	0, 1, testChunk - 1, testChunk, testChunk + 1, 2*testChunk + 512, 63 * testChunk,
	64*testChunk - 1, 64 * testChunk, 64*testChunk + 1, 65 * testChunk, 128*testChunk + 7, 1000 * testChunk,
	64*64*testChunk - 1, 64 * 64 * testChunk, 64*64*testChunk + 1, 64*64*testChunk + 65*testChunk,
}
