package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/blkbak/blkbak/chunkstore"
)

func TestCacheIsBoundedAndShared(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(10, 4)), 2000*testChunk, 1000)
	data := d.bytes()
	root, _ := build(t, m, d, chunkstore.ID{}, d.all())
	cache := NewCache(CacheOptions{NodeBytes: 10_000, ChunkBytes: 50_000})
	for range 2 {
		im := openImage(t, m, root, cache)
		for off := int64(0); off+100 < im.Size(); off += 1000 {
			checkReadAt(t, im, data, make([]byte, 100), off)
			for _, r := range []*recent{&cache.nodes, &cache.chunks} {
				var sum int64
				for e := r.order.Front(); e != nil; e = e.Next() {
					sum += e.Value.(*entry).cost()
				}
				if sum != r.used || sum > r.limit || len(r.entries) != r.order.Len() {
					t.Fatalf("%d bytes, %d counted, bound %d, %d of %d entries listed", sum, r.used, r.limit, r.order.Len(), len(r.entries))
				}
			}
		}
	}
	if len(cache.nodes.entries) < 2 || len(cache.chunks.entries) < 5 {
		t.Errorf("%d nodes and %d chunks held", len(cache.nodes.entries), len(cache.chunks.entries))
	}

	m.reset()
	cache = NewCache(CacheOptions{})
	for range 3 {
		im := openImage(t, m, root, cache)
		if _, err := io.Copy(io.Discard, io.NewSectionReader(im, 7, im.Size()-14)); err != nil {
			t.Fatal(err)
		}
	}
	for id, n := range m.gets {
		if id != root && n > 1 && len(m.objects[id]) != testChunk {
			t.Errorf("node %v read %d times by images that share a cache", id, n)
		}
	}
}

// TestCacheOrder: what was not used for longest goes first.
func TestCacheOrder(t *testing.T) {
	m := newStore()
	var id [3]chunkstore.ID
	for i := range id {
		id[i], _ = m.Put(t.Context(), chunkstore.KindData, []byte{byte(i + 1)})
	}
	for name, touch := range map[string]func(r *recent){
		"get":  func(r *recent) { r.get(t.Context(), m, id[0], 1) },
		"peek": func(r *recent) { r.peek(id[0]) },
	} {
		r := &NewCache(CacheOptions{ChunkBytes: 2*overhead + 20}).chunks
		r.get(t.Context(), m, id[0], 1)
		r.get(t.Context(), m, id[1], 1)
		touch(r)
		r.get(t.Context(), m, id[2], 1)
		for i, want := range []bool{true, false, true} {
			if _, ok := r.peek(id[i]); ok != want {
				t.Errorf("%s: object %d held: %v", name, i, ok)
			}
		}
	}
}

// slowStore answers when it is told to.
type slowStore struct {
	*memStore
	release chan struct{}
}

func (s *slowStore) Get(ctx context.Context, id chunkstore.ID, dst []byte) ([]byte, error) {
	select {
	case <-s.release:
		return s.memStore.Get(ctx, id, dst)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestSingleFlight: readers of one chunk wait for one get; one that gives up
// takes nobody with it.
func TestSingleFlight(t *testing.T) {
	m := newStore()
	d := scattered(rand.New(rand.NewPCG(10, 6)), testChunk, 5)
	id := d.put(t, m, 0)
	synctest.Test(t, func(t *testing.T) {
		m.reset()
		s := &slowStore{m, make(chan struct{})}
		r := &NewCache(CacheOptions{}).chunks
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.get(first, s, id, testChunk); !errors.Is(err, context.Canceled) {
				t.Errorf("the one who gave up: %v", err)
			}
		})
		synctest.Wait()
		for range 10 {
			wg.Go(func() {
				plain, err := r.get(t.Context(), s, id, testChunk)
				if err != nil || !bytes.Equal(plain, d.bytes()) {
					t.Errorf("one who waited: %v", err)
				}
			})
		}
		impatient, stop := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := r.get(impatient, s, id, testChunk); !errors.Is(err, context.Canceled) {
				t.Errorf("the impatient one: %v", err)
			}
		})
		synctest.Wait()
		stop()
		cancel()
		synctest.Wait()
		close(s.release)
		wg.Wait()
		if m.got != 1 {
			t.Errorf("%d gets", m.got)
		}
	})
}
