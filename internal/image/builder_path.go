package image

import (
	"fmt"

	"github.com/blkbak/blkbak/chunkstore"
)

// path opens the nodes that lead to chunk i from the top down to level, once all
// chunks before i are set, and closes those that do not lead there. What is
// open below level and leads to i stays open.
func (b *Builder) path(i int64, level uint8) error {
	for b.low < b.geo.top() && b.open[b.low].index != nodeOf(i, b.low) {
		if err := b.close(b.low); err != nil {
			return err
		}
		b.low++
	}
	for b.low > level {
		// Indexes ascend, so this slot still has the parent's name.
		base := nameAt(b.open[b.low].raw, slotOf(i, b.low))
		if err := b.enter(b.low-1, nodeOf(i, b.low-1), base); err != nil {
			return err
		}
		b.low--
	}
	return nil
}

// enter opens node i of a level below the top, which is base in the parent.
func (b *Builder) enter(level uint8, i int64, base chunkstore.ID) error {
	if base.IsZero() {
		b.fresh(level, i)
		return nil
	}
	e, want := b.old.node(level, i)
	old, err := loadInner(b.ctx, b.get, base, e, want, b.open[level].old)
	if err != nil {
		return err
	}
	b.stat.NodesRead++
	b.open[level].index = i
	b.inherit(level, base, old)
	return nil
}

// fresh opens node i of level with nothing in it.
func (b *Builder) fresh(level uint8, i int64) {
	n := &b.open[level]
	e, s := b.geo.node(level, i)
	n.index, n.extent, n.base, n.dirty = i, e, chunkstore.ID{}, true
	n.raw = s.appendNode(n.raw[:0])
}

// inherit opens the same node of level as last with what old, a node of the
// parent named base, has in common with it.
func (b *Builder) inherit(level uint8, base chunkstore.ID, old []byte) {
	n := &b.open[level]
	b.fresh(level, n.index)
	_, was := b.old.node(level, n.index)
	_, is := b.geo.node(level, n.index)
	n.base, n.old, n.dirty = base, old, was != is
	copy(n.raw[headerSize:], old[headerSize:])
}

// close names the open node of a level below the top, and tells the one above.
func (b *Builder) close(level uint8) error {
	id, err := b.name(level)
	if err != nil {
		return err
	}
	// The slot of a node in the one above, from any chunk below the node.
	slot := int(b.open[level].index) & (fanout - 1)
	b.open[level+1].set(slot, id)
	return nil
}

// name returns the name of the open node of level, and stores it if need be.
func (b *Builder) name(level uint8) (chunkstore.ID, error) {
	n := &b.open[level]
	if !n.dirty {
		return n.base, nil
	}
	if level < b.geo.top() && namesNothing(n.raw) {
		return chunkstore.ID{}, nil
	}
	id, err := b.store(n)
	if err != nil {
		return id, fmt.Errorf("put tree node for device bytes %v: %w", n.extent, err)
	}
	b.stat.NodesWritten++
	b.stat.BytesWritten += int64(len(n.raw))
	return id, nil
}

func (b *Builder) store(n *openNode) (chunkstore.ID, error) {
	if r, ok := b.put.(Replacer); ok && !n.base.IsZero() {
		return r.Replace(b.ctx, chunkstore.KindNode, n.raw, n.base, n.old)
	}
	return b.put.Put(b.ctx, chunkstore.KindNode, n.raw)
}
