package nbdserver

import (
	"context"
	"math/bits"
	"slices"
	"sync"
)

// ownShare is what every connection may hold without asking, in bytes. Requests of
// the usual sizes fit, so a connection never waits for another one's client.
const ownShare = 256 << 10

// budget bounds the memory that replies occupy between being read and being sent.
// Each connection has an account with a small share of its own; what is larger
// comes from a common pot and may have to wait, first come first served.
type budget struct {
	mu      sync.Mutex
	free    int64 // what is left in the pot
	waiters []*account
}

// account is one connection's part. Only one goroutine, its reader, takes from it.
type account struct {
	b     *budget
	limit int64 // most that it may have from the pot
	own   int64 // what is left of its share
	taken int64 // what it has from the pot

	need  int64 // while waiting
	got   grant
	ready chan struct{}
}

// grant is memory that an account gave out and wants back.
type grant struct{ own, pot int64 }

func (g *grant) add(h grant) { g.own += h.own; g.pot += h.pot }

// try takes n bytes if that needs no waiting.
func (a *account) try(n int64) (grant, bool) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	return a.take(n, len(a.b.waiters) > 0)
}

// take is try with the lock held. queued means that others have asked before.
func (a *account) take(n int64, queued bool) (grant, bool) {
	switch {
	case n <= a.own:
		a.own -= n
		return grant{own: n}, true
	case !queued && n <= a.b.free && n <= a.limit-a.taken:
		a.b.free -= n
		a.taken += n
		return grant{pot: n}, true
	}
	return grant{}, false
}

// wait takes n bytes as soon as they are there, false when ctx ends before. n
// must not exceed the account's limit.
func (a *account) wait(ctx context.Context, n int64) (grant, bool) {
	b := a.b
	b.mu.Lock()
	if g, ok := a.take(n, len(b.waiters) > 0); ok {
		b.mu.Unlock()
		return g, true
	}
	ready := make(chan struct{})
	a.need, a.ready = n, ready
	b.waiters = append(b.waiters, a)
	b.mu.Unlock()

	select {
	case <-ready:
		return a.got, true
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.waiters, a); i >= 0 {
		b.waiters = slices.Delete(b.waiters, i, i+1)
		b.wake() // those behind may have waited for this one only
		return grant{}, false
	}
	return a.got, true // granted in the same moment
}

// release gives g back and serves whoever waits for it.
func (a *account) release(g grant) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	a.own += g.own
	a.taken -= g.pot
	a.b.free += g.pot
	a.b.wake()
}

// wake serves the queue. A waiter that only its own limit holds up lets the others
// pass; one that finds too little in the pot keeps those behind it from the pot.
func (b *budget) wake() {
	blocked := false
	b.waiters = slices.DeleteFunc(b.waiters, func(a *account) bool {
		g, ok := a.take(a.need, blocked)
		if ok {
			a.got = g
			close(a.ready)
			return true
		}
		blocked = blocked || a.need <= a.limit-a.taken
		return false
	})
}

// wanted tells whether another connection waits for memory that a could give.
func (a *account) wanted() bool {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	return a.taken > 0 && slices.ContainsFunc(a.b.waiters, func(w *account) bool {
		return w != a && w.need <= w.limit-w.taken
	})
}

// buffer is memory for the data of one reply, from a pool of its size.
type buffer struct {
	data  []byte
	class int
}

// Sizes go by powers of two from 4 KiB to the largest request.
const (
	minClassBits = 12
	classes      = 25 - minClassBits + 1 // up to maxRequest = 1<<25
)

var pools [classes]sync.Pool

func classOf(n int) int { return bits.Len(uint(n-1) >> minClassBits) }

// charge is what a reply of n > 0 bytes is counted as: the buffer that it may need.
func charge(n int) int64 { return 1 << (minClassBits + classOf(n)) }

// newBuffer returns memory for n bytes, 0 < n <= maxRequest, with old contents.
func newBuffer(n int) *buffer {
	c := classOf(n)
	if b, ok := pools[c].Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, charge(n)), c}
}

func (b *buffer) free() { pools[b.class].Put(b) }
