package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// Stats counts what building a map took.
type Stats struct {
	NodesRead    int64 // nodes of the parent's tree that were read
	NodesWritten int64 // nodes that were put
	BytesWritten int64 // of those nodes, plaintext
	ChunksSet    int64 // calls of Set, and chunks given to SetZero
}

// Builder makes a map out of a parent's map and the chunks that changed. It
// holds one node a level, and reads and writes only nodes on the way to what
// changed. Not safe for concurrent use.
type Builder struct {
	ctx  context.Context
	get  Getter
	put  Putter
	geo  geometry
	old  geometry // of the parent
	edge int64    // a chunk whose path changes with the size and is not seen to yet, or -1
	next int64    // the lowest chunk that may still be set
	low  uint8    // levels low..top are open
	open [maxLevels]openNode
	stat Stats
	err  error
}

// openNode is a node under construction.
type openNode struct {
	index  int64
	extent blkbak.Extent
	base   chunkstore.ID // the parent's node in this place, zero if there is none
	old    []byte        // that node
	raw    []byte
	dirty  bool // raw differs from old
}

func (n *openNode) set(slot int, id chunkstore.ID) {
	if nameAt(n.raw, slot) != id {
		setName(n.raw, slot, id)
		n.dirty = true
	}
}

// NewBuilder starts the map of a device of size bytes. With a parent, everything
// is as in the parent's map until it is set; the zero ID is no parent, where
// everything is zeros until it is set. The parent may be of another size: what
// lies beyond its end is zeros. It must have the same chunk size.
//
// The builder uses ctx for all its reads and writes.
func NewBuilder(ctx context.Context, get Getter, put Putter, size, chunkSize int64, parent chunkstore.ID) (*Builder, error) {
	geo, err := newGeometry(size, chunkSize)
	if err != nil {
		return nil, err
	}
	b := &Builder{ctx: ctx, get: get, put: put, geo: geo, edge: -1, low: geo.top()}
	b.fresh(b.low, 0)
	if parent.IsZero() {
		return b, nil
	}
	top, old, err := loadTop(ctx, get, parent)
	if err != nil {
		return nil, err
	}
	b.stat.NodesRead++
	if old.chunkLog2 != geo.chunkLog2 {
		return nil, fmt.Errorf("parent image %v has chunks of %d bytes, not %d: %w", parent, old.chunkSize(), chunkSize, blkbak.ErrUsage)
	}
	b.old = old
	if err := b.adopt(parent, top); err != nil {
		return nil, err
	}
	return b, nil
}

// adopt brings the parent's tree, whose top node is given, to the new height.
func (b *Builder) adopt(root chunkstore.ID, top []byte) error {
	common := min(b.geo.size, b.old.size)
	if common == 0 {
		return nil
	}
	if b.geo.size != b.old.size {
		b.edge = (common - 1) >> b.geo.chunkLog2
	}
	level := b.old.top()
	for ; level > b.geo.top(); level-- { // shrunk: the new top is on the left edge of the old tree
		if root = nameAt(top, 0); root.IsZero() {
			return nil
		}
		e, want := b.old.node(level-1, 0)
		var err error
		if top, err = loadInner(b.ctx, b.get, root, e, want, top); err != nil {
			return err
		}
		b.stat.NodesRead++
	}
	if level == b.geo.top() {
		b.inherit(level, root, top)
		return nil
	}
	for b.low > level+1 { // grown: the old top is on the left edge of the new tree
		b.low--
		b.fresh(b.low, 0)
	}
	if !namesNothing(top) { // a top node of zeros has a name, an inner one has none
		b.open[b.low].set(0, root)
	}
	return nil
}

// Set makes id the name of chunk i, where the zero ID is for a chunk of zeros.
// Indexes must ascend strictly. After an error the builder is of no use.
func (b *Builder) Set(i int64, id chunkstore.ID) error {
	if err := b.advance(i, i+1); err != nil {
		return err
	}
	if err := b.path(i, 0); err != nil {
		return b.fail(err)
	}
	b.open[0].set(slotOf(i, 0), id)
	return nil
}

// SetZero makes n chunks from chunk i on zeros, without looking at the map of
// what was there. It counts as n ascending calls of Set.
func (b *Builder) SetZero(i, n int64) error {
	total := b.geo.chunks()
	if i < 0 || n < 0 || n > total-i {
		return b.fail(fmt.Errorf("set chunks %d+%d of %d: %w", i, n, total, blkbak.ErrUsage))
	}
	for end := i + n; i < end; {
		// The largest subtree that starts at i and ends in the range.
		level, stop := uint8(0), i+1
		for level < b.geo.top() {
			span := int64(1) << (fanoutLog2 * (level + 1))
			if i&(span-1) != 0 || min(i+span, total) > end {
				break
			}
			level, stop = level+1, min(i+span, total)
		}
		if err := b.advance(i, stop); err != nil {
			return err
		}
		if err := b.path(i, level); err != nil {
			return b.fail(err)
		}
		b.low = level // what is open below it is on the way to i, and goes
		b.open[level].set(slotOf(i, level), chunkstore.ID{})
		i = stop
	}
	return nil
}

// Finish writes what is left and returns the name of the map.
func (b *Builder) Finish() (root chunkstore.ID, stats Stats, err error) {
	if b.err != nil {
		return root, b.stat, b.err
	}
	if err := b.seeToEdge(b.geo.chunks()); err != nil {
		return root, b.stat, b.fail(err)
	}
	for ; b.low < b.geo.top(); b.low++ {
		if err := b.close(b.low); err != nil {
			return root, b.stat, b.fail(err)
		}
	}
	if root, err = b.name(b.low); err != nil {
		return root, b.stat, b.fail(err)
	}
	b.err = errors.New("image builder: used after Finish")
	return root, b.stat, nil
}

func (b *Builder) fail(err error) error {
	if b.err == nil {
		b.err = err
	}
	return b.err
}

// advance prepares for chunks [i, end) being set.
func (b *Builder) advance(i, end int64) error {
	switch {
	case b.err != nil:
		return b.err
	case i < 0 || i >= b.geo.chunks():
		return b.fail(fmt.Errorf("set chunk %d of %d: %w", i, b.geo.chunks(), blkbak.ErrUsage))
	case i < b.next:
		return b.fail(fmt.Errorf("set chunk %d after chunk %d: %w", i, b.next-1, blkbak.ErrUsage))
	}
	if err := b.seeToEdge(i); err != nil {
		return b.fail(err)
	}
	if b.edge < end {
		b.edge = -1 // set anew, so it is on a path of its own
	}
	b.next = end
	b.stat.ChunksSet += end - i
	return nil
}

// seeToEdge rewrites the path to the end of the shorter of both devices, once
// all chunks before it are set: the nodes on it change their sizes, and a short
// chunk its length.
func (b *Builder) seeToEdge(before int64) error {
	i := b.edge
	if i < 0 || i >= before {
		return nil
	}
	b.edge = -1
	level := b.geo.top()
	for ; level > 0; level-- {
		_, was := b.old.node(level-1, nodeOf(i, level-1))
		_, is := b.geo.node(level-1, nodeOf(i, level-1))
		if was == is {
			return b.path(i, level)
		}
	}
	if err := b.path(i, 0); err != nil {
		return err
	}
	was, is := b.old.chunk(i), b.geo.chunk(i)
	id := nameAt(b.open[0].raw, slotOf(i, 0))
	if was == is || id.IsZero() {
		return nil
	}
	id, err := b.resizeChunk(id, was, is)
	b.open[0].set(slotOf(i, 0), id)
	return err
}

// resizeChunk cuts a chunk, or adds zeros to it.
func (b *Builder) resizeChunk(id chunkstore.ID, was, is blkbak.Extent) (chunkstore.ID, error) {
	plain, err := b.get.Get(b.ctx, id, make([]byte, 0, max(was.Len, is.Len)))
	if err != nil {
		return id, chunkError(was, id, err)
	}
	if err := checkChunk(was, id, plain); err != nil {
		return id, err
	}
	plain = append(plain, make([]byte, max(0, is.Len-was.Len))...)[:is.Len]
	if allZero(plain) {
		return chunkstore.ID{}, nil
	}
	if id, err = b.put.Put(b.ctx, chunkstore.KindData, plain); err != nil {
		return id, fmt.Errorf("put chunk for device bytes %v: %w", is, err)
	}
	return id, nil
}
