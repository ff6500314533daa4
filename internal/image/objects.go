package image

import (
	"context"
	"iter"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// Object is an object that an image needs.
type Object struct {
	ID     chunkstore.ID
	Kind   chunkstore.Kind
	Extent blkbak.Extent // of the device, what it is needed for
}

// Objects lists all objects that the image named root needs, a node before what
// is below it. It reads nodes and no chunks.
//
// Before anything else is done with an object, seen is asked about its name;
// where it says true, the object and what is below it are passed over. So with
// a seen that remembers names across images, each node is read once for all of
// them. With a nil seen an object comes as often as it is needed, which for a
// large device full of equal data is very often.
//
// An error comes with the object that it is about, which was listed before and
// of which nothing below can be. The walk goes on beside it if the consumer
// does, except when ctx has ended.
func Objects(ctx context.Context, get Getter, root chunkstore.ID, seen func(chunkstore.ID) bool) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		w := walker{ctx: ctx, get: get, seen: seen, yield: yield}
		w.root(root)
	}
}

// walker visits a tree. Its methods return false when the walk is over.
type walker struct {
	ctx   context.Context
	get   Getter
	seen  func(chunkstore.ID) bool
	yield func(Object, error) bool
	geo   geometry
	buf   [maxLevels][]byte
}

func (w *walker) root(id chunkstore.ID) bool {
	o := Object{ID: id, Kind: chunkstore.KindNode}
	if w.seen != nil && w.seen(id) {
		return true
	}
	raw, geo, err := loadTop(w.ctx, w.get, id)
	o.Extent.Len = geo.size
	if !w.yield(o, nil) {
		return false
	}
	if err != nil {
		return w.yield(o, err)
	}
	w.geo = geo
	return w.below(geo.top(), 0, raw)
}

// below visits what node i of level names.
func (w *walker) below(level uint8, i int64, raw []byte) bool {
	if err := w.ctx.Err(); err != nil {
		w.yield(Object{}, err)
		return false
	}
	e, s := w.geo.node(level, i)
	for slot := range s.count() {
		o := Object{ID: nameAt(raw, slot), Kind: chunkstore.KindData}
		o.Extent = blkbak.Extent{Off: e.Off + int64(slot)<<s.childLog2(), Len: s.childSize(slot)}
		if o.ID.IsZero() || w.seen != nil && w.seen(o.ID) {
			continue
		}
		if level > 0 {
			o.Kind = chunkstore.KindNode
		}
		if !w.yield(o, nil) || level > 0 && !w.node(level-1, i<<fanoutLog2+int64(slot), o) {
			return false
		}
	}
	return true
}

// node visits what is below node i of level, which was listed as o.
func (w *walker) node(level uint8, i int64, o Object) bool {
	_, want := w.geo.node(level, i)
	raw, err := loadInner(w.ctx, w.get, o.ID, o.Extent, want, w.buf[level])
	if err != nil {
		return w.yield(o, err) && w.ctx.Err() == nil
	}
	w.buf[level] = raw
	return w.below(level, i, raw)
}
