package image

import (
	"container/list"
	"context"
	"errors"
	"sync"

	"github.com/blkbak/blkbak/chunkstore"
)

// What a Cache holds unless told otherwise.
const (
	DefaultNodeBytes  = 8 << 20
	DefaultChunkBytes = 64 << 20
)

// CacheOptions bounds a Cache. Zero is the default, below zero is nothing.
type CacheOptions struct {
	NodeBytes  int64 // of tree nodes
	ChunkBytes int64 // of chunks of which only a part was asked for
}

// Cache keeps nodes and chunks that were read lately. Images share one freely,
// since an object's name says all of what is in it. Beside its bounds a cache
// holds what readers are waiting for at the moment.
type Cache struct {
	nodes, chunks recent
}

// NewCache returns an empty cache.
func NewCache(o CacheOptions) *Cache {
	bound := func(n, fallback int64) recent {
		if n == 0 {
			n = fallback
		}
		return recent{limit: max(n, 0), entries: make(map[chunkstore.ID]*entry)}
	}
	return &Cache{bound(o.NodeBytes, DefaultNodeBytes), bound(o.ChunkBytes, DefaultChunkBytes)}
}

// recent maps names to plaintexts that nobody modifies, the least recently used
// one going first. What is missing is read once, however many wait for it.
type recent struct {
	limit int64

	mu      sync.Mutex
	used    int64
	entries map[chunkstore.ID]*entry
	order   list.List // of *entry, all of them complete, the latest in front
}

type entry struct {
	id    chunkstore.ID
	place *list.Element // nil until the entry is complete
	ready chan struct{} // closed when plain and err are set
	plain []byte
	err   error
}

// overhead is about what an entry costs beside its plaintext.
const overhead = 256

func (e *entry) cost() int64 { return int64(cap(e.plain)) + overhead }

// peek returns the plaintext of id if it is at hand.
func (r *recent) peek(id chunkstore.ID) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[id]
	if e == nil || e.place == nil {
		return nil, false
	}
	r.order.MoveToFront(e.place)
	return e.plain, true
}

// get returns the plaintext of id, of which size bytes are expected.
func (r *recent) get(ctx context.Context, get Getter, id chunkstore.ID, size int64) ([]byte, error) {
	for {
		r.mu.Lock()
		e := r.entries[id]
		switch {
		case e == nil:
			e = &entry{id: id, ready: make(chan struct{})}
			r.entries[id] = e
			r.mu.Unlock()
			r.fill(ctx, get, e, size)
			return e.plain, e.err
		case e.place != nil:
			r.order.MoveToFront(e.place)
			r.mu.Unlock()
			return e.plain, nil
		}
		r.mu.Unlock()
		select {
		case <-e.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// The one who read may have been told to stop, which is nothing to us.
		if !errors.Is(e.err, context.Canceled) && !errors.Is(e.err, context.DeadlineExceeded) {
			return e.plain, e.err
		}
	}
}

// fill reads e. Failures are not kept.
func (r *recent) fill(ctx context.Context, get Getter, e *entry, size int64) {
	e.err = errors.New("the reader that others waited for panicked")
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if e.err != nil || e.cost() > r.limit {
			delete(r.entries, e.id)
		} else {
			e.place = r.order.PushFront(e)
			r.used += e.cost()
		}
		for r.used > r.limit {
			last := r.order.Remove(r.order.Back()).(*entry)
			r.used -= last.cost()
			delete(r.entries, last.id)
		}
		close(e.ready)
	}()
	e.plain, e.err = get.Get(ctx, e.id, make([]byte, 0, size))
}
