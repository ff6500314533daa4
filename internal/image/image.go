package image

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// Image reads a device through its map. Safe for concurrent use, and there is
// nothing to close.
type Image struct {
	get   Getter
	cache *Cache
	root  chunkstore.ID
	geo   geometry
	top   []byte
	last  atomic.Pointer[leaf] // the leaf that was needed last
}

var _ io.ReaderAt = (*Image)(nil)

// leaf is a node of level 0.
type leaf struct {
	index int64
	raw   []byte // nil if all of it is zeros
}

// Open opens the image that root names, and reads the top node of its map. With
// a nil cache the image has a default one of its own.
func Open(ctx context.Context, get Getter, root chunkstore.ID, cache *Cache) (*Image, error) {
	top, geo, err := loadTop(ctx, get, root)
	if err != nil {
		return nil, err
	}
	if cache == nil {
		cache = NewCache(CacheOptions{})
	}
	return &Image{get: get, cache: cache, root: root, geo: geo, top: top}, nil
}

// Size is the size of the device in bytes.
func (im *Image) Size() int64 { return im.geo.size }

// ChunkSize is the size of a chunk in bytes.
func (im *Image) ChunkSize() int64 { return im.geo.chunkSize() }

// Root is the name of the map.
func (im *Image) Root() chunkstore.ID { return im.root }

// ReadAt implements io.ReaderAt.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	return im.ReadContext(context.Background(), p, off)
}

// ReadContext is ReadAt with a context. A chunk that p takes whole is decoded
// right into it; a chunk of which p takes a part goes through the cache. An
// error comes with the number of bytes before the chunk that it is about, and
// p is undefined after them.
func (im *Image) ReadContext(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d: %w", off, blkbak.ErrUsage)
	}
	if off >= im.geo.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > im.geo.size-off
	if short {
		p = p[:im.geo.size-off]
	}
	n := 0
	for n < len(p) {
		m, err := im.readChunk(ctx, p[n:], off+int64(n))
		if err != nil {
			return n, err
		}
		n += m
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// readChunk reads into p from off up to the end of p or of the chunk.
func (im *Image) readChunk(ctx context.Context, p []byte, off int64) (int, error) {
	i := off >> im.geo.chunkLog2
	e := im.geo.chunk(i)
	p = p[:min(int64(len(p)), e.End()-off)]
	id, err := im.chunkName(ctx, i)
	if err != nil {
		return 0, err
	}
	if id.IsZero() {
		clear(p)
		return len(p), nil
	}
	if int64(len(p)) == e.Len {
		return im.readWhole(ctx, p, id, e)
	}
	plain, err := im.cache.chunks.get(ctx, im.get, id, e.Len)
	if err != nil {
		return 0, chunkError(e, id, err)
	}
	if err := checkChunk(e, id, plain); err != nil {
		return 0, err
	}
	return copy(p, plain[off-e.Off:]), nil
}

func (im *Image) readWhole(ctx context.Context, p []byte, id chunkstore.ID, e blkbak.Extent) (int, error) {
	plain, cached := im.cache.chunks.peek(id)
	if !cached {
		var err error
		if plain, err = im.get.Get(ctx, id, p[:0:len(p)]); err != nil {
			return 0, chunkError(e, id, err)
		}
	}
	if err := checkChunk(e, id, plain); err != nil {
		return 0, err
	}
	if &plain[0] != &p[0] {
		copy(p, plain)
	}
	return len(p), nil
}

// ChunkAt returns the name of chunk i, the zero ID if it is all zeros.
func (im *Image) ChunkAt(ctx context.Context, i int64) (chunkstore.ID, error) {
	if i < 0 || i >= im.geo.chunks() {
		return chunkstore.ID{}, fmt.Errorf("chunk %d of an image with %d: %w", i, im.geo.chunks(), blkbak.ErrUsage)
	}
	return im.chunkName(ctx, i)
}

func (im *Image) chunkName(ctx context.Context, i int64) (chunkstore.ID, error) {
	l := im.last.Load()
	if l == nil || l.index != nodeOf(i, 0) {
		raw, err := im.findLeaf(ctx, i)
		if err != nil {
			return chunkstore.ID{}, err
		}
		l = &leaf{nodeOf(i, 0), raw}
		im.last.Store(l)
	}
	if l.raw == nil {
		return chunkstore.ID{}, nil
	}
	return nameAt(l.raw, slotOf(i, 0)), nil
}

// findLeaf returns the node of level 0 that names chunk i, nil for zeros.
func (im *Image) findLeaf(ctx context.Context, i int64) ([]byte, error) {
	raw := im.top
	for level := im.geo.top(); level > 0; level-- {
		id := nameAt(raw, slotOf(i, level))
		if id.IsZero() {
			return nil, nil
		}
		e, want := im.geo.node(level-1, nodeOf(i, level-1))
		var err error
		if raw, err = im.node(ctx, id, e, want); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// node returns the node named id, which is below the top and spans e.
func (im *Image) node(ctx context.Context, id chunkstore.ID, e blkbak.Extent, want shape) ([]byte, error) {
	raw, err := im.cache.nodes.get(ctx, im.get, id, int64(want.encodedLen()))
	if err == nil {
		err = checkInner(raw, want)
	}
	if err != nil {
		return nil, nodeError(e, id, err)
	}
	return raw, nil
}
