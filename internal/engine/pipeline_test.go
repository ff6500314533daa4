package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOrdered sees that pieces come out in the order in which they went in,
// however long each takes, and that no more are under way than there are.
func TestOrdered(t *testing.T) {
	for _, workers := range []int{1, 2, 7} {
		synctest.Test(t, func(t *testing.T) {
			var under, most, next int64
			err := ordered(t.Context(), workers,
				func(emit func(func(*int64)) error) error {
					for i := range int64(200) {
						if err := emit(func(p *int64) { *p = i }); err != nil {
							return err
						}
						n := atomic.AddInt64(&under, 1)
						most = max(most, n)
					}
					return nil
				},
				func(context.Context, *int64) error {
					time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
					return nil
				},
				func(_ context.Context, p *int64) error {
					atomic.AddInt64(&under, -1)
					if *p != next {
						return fmt.Errorf("piece %d, want %d", *p, next)
					}
					next++
					return nil
				})
			if err != nil || next != 200 {
				t.Errorf("%d workers: %d pieces, %v", workers, next, err)
			}
			if most > int64(2*workers+2) {
				t.Errorf("%d workers: %d pieces under way", workers, most)
			}
		})
	}
}

// TestOrderedErrors breaks each part at each piece: the first error in order is
// what comes out, nothing after it is collected, and every goroutine has ended
// (synctest fails the test otherwise).
func TestOrderedErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, part := range []string{"produce", "work", "collect"} {
		for at := range 12 {
			synctest.Test(t, func(t *testing.T) {
				collected := 0
				err := ordered(t.Context(), 3,
					func(emit func(func(*int)) error) error {
						for i := range 12 {
							if part == "produce" && i == at {
								return broken
							}
							if err := emit(func(p *int) { *p = i }); err != nil {
								return err
							}
						}
						return nil
					},
					func(ctx context.Context, p *int) error {
						time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
						if part == "work" && *p >= at {
							return fmt.Errorf("%w at %d", broken, *p)
						}
						return nil
					},
					func(_ context.Context, p *int) error {
						if part == "collect" && *p == at {
							return broken
						}
						collected++
						return nil
					})
				if !errors.Is(err, broken) || collected != at {
					t.Errorf("%s broken at %d: %d collected, %v", part, at, collected, err)
				}
				if want := fmt.Sprintf("broken at %d", at); part == "work" && err.Error() != want {
					t.Errorf("error %q, want that of the first piece, %q", err, want)
				}
			})
		}
	}
}

// TestOrderedCancel ends the context in each part while the others wait.
func TestOrderedCancel(t *testing.T) {
	for _, part := range []string{"produce", "work", "collect", "before"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			if part == "before" {
				cancel()
			}
			hang := func(ctx context.Context, here string, i int) error {
				if part == here && i == 5 {
					cancel()
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			err := ordered(ctx, 2,
				func(emit func(func(*int)) error) error {
					for i := range 1000 {
						if err := hang(ctx, "produce", i); err != nil {
							return err
						}
						if err := emit(func(p *int) { *p = i }); err != nil {
							return err
						}
					}
					return nil
				},
				func(ctx context.Context, p *int) error { return hang(ctx, "work", *p) },
				func(ctx context.Context, p *int) error { return hang(ctx, "collect", *p) })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("canceled in %s: %v", part, err)
			}
		})
	}
}

// TestOrderedRace is for the race detector: pieces are used again, with the memory
// that they hold.
func TestOrderedRace(t *testing.T) {
	type piece struct {
		n   int
		buf []byte
	}
	sum := 0
	err := ordered(t.Context(), 4,
		func(emit func(func(*piece)) error) error {
			for i := range 5000 {
				if err := emit(func(p *piece) { p.n = i }); err != nil {
					return err
				}
			}
			return nil
		},
		func(_ context.Context, p *piece) error {
			if p.buf == nil {
				p.buf = make([]byte, 8)
			}
			p.buf[p.n%8] = byte(p.n)
			return nil
		},
		func(_ context.Context, p *piece) error {
			sum += int(p.buf[p.n%8])
			clear(p.buf)
			return nil
		})
	want := 0
	for i := range 5000 {
		want += i & 255
	}
	if err != nil || sum != want {
		t.Errorf("sum %d, %v, want %d", sum, err, want)
	}
}

func TestWorkersFor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(256))
	for _, piece := range []int64{1, 4 << 10, 1 << 20, 2 << 20, 16 << 20, 1 << 30} {
		n := workersFor(piece)
		if n < 1 || n > 512 || n > 1 && int64(2*n+2)*piece > inFlight {
			t.Errorf("pieces of %d: %d workers hold %d bytes", piece, n, int64(2*n+2)*piece)
		}
	}
}
