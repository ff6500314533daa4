package cow

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// kernel appends to a store in the order in which dm-snap-persistent.c does, a
// sector at a time, so that a reader can come between any two.
type kernel struct {
	mu  sync.Mutex
	mem memory
	layout
	es        []entry      // all that will ever be appended
	committed atomic.Int64 // on disk, acknowledged
	started   atomic.Int64 // on their way to disk
}

func (k *kernel) ReadAt(p []byte, off int64) (int, error) {
	for at := 0; at < len(p); at += sector {
		k.mu.Lock()
		_, err := k.mem.ReadAt(p[at:min(at+sector, len(p))], off+int64(at))
		k.mu.Unlock()
		if err != nil {
			return at, err
		}
		if at%(3*sector) == 0 {
			runtime.Gosched()
		}
	}
	return len(p), nil
}

// write puts b on the disk, sectors in any order.
func (k *kernel) write(r *rand.Rand, b []byte, off int64) {
	for _, i := range r.Perm(len(b) / sector) {
		k.mu.Lock()
		copy(k.mem[off+int64(i*sector):], b[i*sector:(i+1)*sector])
		k.mu.Unlock()
	}
}

// commit appends the entries up to n: whatever completes an area goes in one step
// of its own, after the next area was zeroed.
func (k *kernel) commit(r *rand.Rand, n int64) {
	for done := k.committed.Load(); done < n; done = k.committed.Load() {
		area := done / k.per
		to := min(n, (area+1)*k.per)
		k.started.Store(to)
		if to == (area+1)*k.per {
			k.write(r, make([]byte, k.chunk), k.metaOffset((area+1)*k.chunk))
		}
		b := appendEntries(nil, k.es[area*k.per:to])
		k.write(r, append(b, make([]byte, k.chunk-int64(len(b)))...), k.metaOffset(area*k.chunk))
		k.committed.Store(to)
	}
}

// areas is what dmsetup status says at this moment.
func (k *kernel) areas() int64 { return k.committed.Load()/k.per + 1 }

// newKernel makes a store of no entries on a device that an older, fuller store
// has left its table on.
func newKernel(r *rand.Rand, chunk int64, entries int) *kernel {
	size := (int64(entries)*2 + 10*chunk/entrySize) * chunk
	k := &kernel{mem: make(memory, size), layout: newLayout(chunk, size)}
	history := func() []entry {
		olds := make([]uint64, entries)
		for i, v := range r.Perm(2 * entries)[:entries] {
			olds[i] = uint64(v)
		}
		return entriesFor(k.layout, olds)
	}
	writeTable(k.mem, k.layout, history())
	k.es = history()
	k.write(r, make([]byte, chunk), k.metaOffset(0))
	return k
}

// TestGrowing reads stores that grow at that time, over the remains of older ones.
// Whatever was committed when reading began must be found, and nothing that was
// not at least on its way when it ended.
func TestGrowing(t *testing.T) {
	for _, chunk := range []int64{512, 2048, 4096} {
		var reads, grown, crossed int
		for round := range uint64(15) {
			r := rand.New(rand.NewPCG(round, uint64(chunk)))
			k := newKernel(r, chunk, 3000)
			k.commit(r, int64(r.IntN(len(k.es)/2)))
			var wg sync.WaitGroup
			wg.Go(func() {
				for n := k.committed.Load(); n < int64(len(k.es)); {
					n = min(n+1+int64(r.IntN(40)), int64(len(k.es)))
					k.commit(r, n)
					runtime.Gosched()
				}
			})
			for i := 0; k.committed.Load() < int64(len(k.es)) || i < 2; i++ {
				opts := Options{OriginSize: 2 * 3000 * chunk, Workers: 1 + i%20}
				if i%2 == 1 {
					opts.Areas = k.areas()
				}
				before := k.committed.Load()
				s := mustRead(t, k, int64(len(k.mem)), opts)
				after := k.started.Load()
				if s.Exceptions < before || s.Exceptions > after {
					t.Fatalf("%d exceptions, between %d and %d when reading", s.Exceptions, before, after)
				}
				if !slices.Equal(s.Extents(), extentsOf(k.es[:s.Exceptions], chunk, opts.OriginSize)) {
					t.Fatalf("%d exceptions: extents are not those of the table's start", s.Exceptions)
				}
				reads++
				if after > before {
					grown++
				}
				if after/k.per > before/k.per {
					crossed++
				}
			}
			wg.Wait()
		}
		if grown < reads/10 || crossed < 8 {
			t.Errorf("chunk %d: of %d reads only %d met growth, %d into another area", chunk, reads, grown, crossed)
		}
		t.Logf("chunk %d: %d reads, %d met growth, %d into another area", chunk, reads, grown, crossed)
	}
}

// TestStaleAhead: an area read ahead, before the kernel zeroed it, must not count.
// The device makes the table's only unfilled area full just when it is read, and
// zeroes the next one first, as the kernel does: but that was read already.
func TestStaleAhead(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	k := newKernel(r, 512, 1000)
	full := 12 * k.per
	k.commit(r, full-1)
	last := k.metaOffset(11 * k.chunk)
	next := k.metaOffset(12 * k.chunk)
	var once sync.Once
	nextRead := make(chan struct{})
	dev := readerFunc(func(p []byte, off int64) (int, error) {
		if off == last {
			once.Do(func() {
				<-nextRead // the stale area is read first
				k.commit(r, full+2)
			})
		}
		n, err := k.ReadAt(p, off)
		if off == next {
			select {
			case <-nextRead:
			default:
				close(nextRead)
			}
		}
		return n, err
	})
	s := mustRead(t, dev, int64(len(k.mem)), Options{OriginSize: 2 * 1000 * 512})
	if s.Exceptions != full+2 {
		t.Errorf("%d exceptions, want %d", s.Exceptions, full+2)
	}
	if !slices.Equal(tableOf(t, s), k.es[:full+2]) {
		t.Error("table differs")
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }
