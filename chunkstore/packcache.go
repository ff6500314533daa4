package chunkstore

import (
	"context"
	"errors"
	"sync"
)

// openPacks bounds the files that a store keeps open.
const openPacks = 64

// packCache keeps packs open for reading. The zero value is ready.
type packCache struct {
	mu     sync.Mutex
	packs  map[string]*openPack
	clock  uint64
	closed bool
}

type openPack struct {
	Object
	cache *packCache
	users int
	used  uint64 // when it was last opened
	gone  bool   // dropped from the cache: the last user closes it
}

// open returns the pack; done gives it back.
func (c *packCache) open(ctx context.Context, b Backend, name string) (*openPack, error) {
	if p := c.use(name); p != nil {
		return p, nil
	}
	o, err := b.Open(ctx, name) // takes its time, and keeps nobody else waiting
	if err != nil {
		return nil, err
	}
	return c.add(name, o)
}

// use returns the pack if it is open.
func (c *packCache) use(name string) *openPack {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.packs[name]
	if p != nil {
		c.clock++
		p.users, p.used = p.users+1, c.clock
	}
	return p
}

// add takes o, unless someone else was faster to open the same.
func (c *packCache) add(name string, o Object) (*openPack, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.Join(errClosed, o.Close())
	}
	p := c.packs[name]
	if p != nil {
		o.Close()
	} else {
		if c.packs == nil {
			c.packs = make(map[string]*openPack)
		}
		if len(c.packs) >= openPacks {
			c.evict()
		}
		p = &openPack{Object: o, cache: c}
		c.packs[name] = p
	}
	c.clock++
	p.users, p.used = p.users+1, c.clock
	return p, nil
}

// evict drops the pack that was not opened for the longest time.
func (c *packCache) evict() {
	oldest := ""
	for name, p := range c.packs {
		if oldest == "" || p.used < c.packs[oldest].used {
			oldest = name
		}
	}
	p := c.packs[oldest]
	delete(c.packs, oldest)
	p.gone = true
	if p.users == 0 {
		p.Close()
	}
}

func (p *openPack) done() {
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	p.users--
	if p.gone && p.users == 0 {
		p.Close()
	}
}

// close closes what nobody uses, and lets the last user close the rest.
func (c *packCache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for _, p := range c.packs {
		p.gone = true
		if p.users == 0 {
			err = errors.Join(err, p.Close())
		}
	}
	c.packs, c.closed = nil, true
	return err
}
