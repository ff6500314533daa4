package engine

import (
	"context"
	"runtime"
	"sync"
)

// inFlight bounds the memory of the pieces of one job, in bytes.
const inFlight = 64 << 20

// workersFor is how many workers to start where a piece takes so much memory:
// two a core, since they wait for the device as well, and fewer on a machine
// with very many cores. There are 2*workers+2 pieces.
func workersFor(pieceBytes int64) int {
	return max(1, min(2*runtime.GOMAXPROCS(0), int(inFlight/pieceBytes-2)/2))
}

// ordered runs a job on pieces in three steps: produce names the pieces one
// after the other, work is done on several at once, collect takes them in the
// order in which they were produced. Pieces are used again, with what they hold,
// so that their buffers are allocated once; emit is given a function that sets a
// piece up. The first error ends the job and is returned, after everything that
// was started has ended.
func ordered[T any](ctx context.Context, workers int,
	produce func(emit func(setUp func(*T)) error) error,
	work, collect func(ctx context.Context, piece *T) error) error {

	type slot struct {
		piece T
		err   error
		done  chan struct{}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	// On the way out, first nobody waits any more, then everybody is waited for.
	defer wg.Wait()
	defer cancel()

	todo, order := make(chan *slot), make(chan *slot, workers)
	free := make(chan *slot, 2*workers+2)
	for range cap(free) {
		free <- new(slot)
	}
	for range workers {
		wg.Go(func() {
			for s := range todo {
				s.err = work(ctx, &s.piece)
				close(s.done)
			}
		})
	}
	var produceErr error
	wg.Go(func() {
		defer close(order)
		defer close(todo)
		produceErr = produce(func(setUp func(*T)) error {
			select {
			case s := <-free:
				s.err, s.done = nil, make(chan struct{})
				setUp(&s.piece)
				for _, to := range []chan<- *slot{todo, order} {
					select {
					case to <- s:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for s := range order {
		select {
		case <-s.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if s.err != nil {
			return s.err
		}
		if err := collect(ctx, &s.piece); err != nil {
			return err
		}
		free <- s
	}
	return produceErr // order is closed: the producer has ended
}
