package freeze

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/blkbak/blkbak"
)

// The words of the guard's protocol, one on a line. What the guard says after
// wordThawed or wordFailed is the reason, for people.
const (
	wordReady    = "ready"
	wordFreezing = "freezing"
	wordRefused  = "refused"
	wordFrozen   = "frozen"
	wordBeat     = "beat"
	wordThawed   = "thawed"
	wordFailed   = "failed"
)

// Frozen is a filesystem that is frozen.
type Frozen struct {
	mount string
	fs    filesystem
	guard *Guard
	said  <-chan string // what the guard says; closed when it has ended
	stall time.Duration
	start time.Time

	stop   chan struct{}
	broken chan struct{}
	wg     sync.WaitGroup
	early  error // why it broke; set before broken is closed

	once sync.Once
	err  error
}

// hold starts the guard, freezes fs and keeps the guard quiet. It takes over fs.
func hold(ctx context.Context, mount string, fs filesystem, args []string, o Options) (_ *Frozen, err error) {
	f := &Frozen{mount: mount, fs: fs, stall: o.Stall, stop: make(chan struct{}), broken: make(chan struct{})}
	defer func() {
		if err != nil {
			fs.Close()
		}
	}()
	// Whatever becomes of ctx, the guard stays until the filesystem is thawed.
	f.guard, err = o.StartGuard(context.WithoutCancel(ctx), args)
	if err != nil {
		return nil, fmt.Errorf("freeze %s: start guard: %w", mount, err)
	}
	f.said = lines(f.guard.Stdout)
	if err := f.ready(ctx); err != nil {
		f.dismiss("")
		return nil, fmt.Errorf("freeze %s: %w", mount, err)
	}
	if err := fs.Sync(); err != nil {
		f.dismiss("")
		return nil, fmt.Errorf("freeze %s: sync: %w", mount, err)
	}
	if err := f.freeze(); err != nil {
		return nil, fmt.Errorf("freeze %s: %w", mount, err)
	}
	f.wg.Go(f.watch)
	return f, nil
}

// ready waits until the guard stands by.
func (f *Frozen) ready(ctx context.Context) error {
	t := time.NewTimer(readyTimeout)
	defer t.Stop()
	select {
	case line, ok := <-f.said:
		if !ok {
			return errors.New("the guard ended at once")
		}
		if line != wordReady {
			return fmt.Errorf("the guard says: %s", line)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return fmt.Errorf("the guard is not ready after %v", readyTimeout)
	}
}

// freeze freezes with the guard told before and after.
func (f *Frozen) freeze() error {
	if err := f.tell(wordFreezing); err != nil {
		f.dismiss("")
		return fmt.Errorf("tell the guard: %w", err)
	}
	f.start = time.Now()
	if err := f.fs.Freeze(); err != nil {
		f.dismiss(wordRefused)
		return err
	}
	if f.tell(wordFrozen) != nil {
		// It has ended already: its clock ran out during FIFREEZE, or it died.
		err := fmt.Errorf("%w: %w", ErrThawedEarly, f.unguarded())
		f.dismiss("")
		return err
	}
	return nil
}

func (f *Frozen) tell(word string) error {
	_, err := io.WriteString(f.guard.Stdin, word+"\n")
	return err
}

// dismiss sends a last word, "" for none, and waits for the guard's end, but not
// for ever: a guard that was itself stopped ends when it is continued. It returns
// what the guard still said.
func (f *Frozen) dismiss(word string) (last string) {
	if word != "" {
		f.tell(word) // a guard that does not hear it has ended
	}
	f.guard.Stdin.Close()
	t := time.NewTimer(guardPatience)
	defer t.Stop()
	for {
		select {
		case line, ok := <-f.said:
			if ok {
				last = line
				continue
			}
			ended := make(chan struct{})
			go func() {
				f.guard.Wait() // its exit status repeats what it said
				close(ended)
			}()
			select {
			case <-ended:
			case <-t.C:
			}
			return last
		case <-t.C:
			go f.guard.Wait()
			return last
		}
	}
}

// watch shows signs of life and listens to the guard until Thaw.
func (f *Frozen) watch() {
	tick := time.NewTicker(f.stall / 4)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			return
		case line, ok := <-f.said:
			if ok {
				f.early = fmt.Errorf("the guard says: %s", line)
			} else {
				f.early = f.unguarded()
			}
			close(f.broken)
			return
		case <-tick.C:
			if err := f.tell(wordBeat); err != nil {
				// It ends up here, too, when Thaw gives a stuck pipe up.
				select {
				case <-f.stop:
					return
				default:
				}
				f.early = f.unguarded()
				close(f.broken)
				return
			}
		}
	}
}

// unguarded thaws since the guard has ended: were this process to follow it,
// nobody would. A guard that thawed and ended in good order has left word.
func (f *Frozen) unguarded() error {
	err := f.fs.Thaw()
	why := errors.New("the guard died")
	select {
	case line, ok := <-f.said:
		if ok {
			why = fmt.Errorf("the guard says: %s", line)
		}
	case <-time.After(time.Second):
	}
	if err != nil && !errors.Is(err, errNotFrozen) {
		return errors.Join(why, f.stuck(err))
	}
	return why
}

// stuck is the loudest error there is.
func (f *Frozen) stuck(err error) error {
	err = fmt.Errorf("FILESYSTEM %s IS %w: %w", f.mount, ErrStillFrozen, err)
	return blkbak.WithHint(err, "run now: fsfreeze --unfreeze %s", f.mount)
}

// Broken is closed when the filesystem was thawed before Thaw: there is no use in
// reading on.
func (f *Frozen) Broken() <-chan struct{} { return f.broken }

// Since is when writers began to wait.
func (f *Frozen) Since() time.Time { return f.start }

// Thaw lets writers go on. Its error matches ErrThawedEarly when they already
// did, and ErrStillFrozen when they still cannot. Calling it again returns the
// same.
func (f *Frozen) Thaw() error {
	f.once.Do(func() { f.err = f.thaw() })
	return f.err
}

func (f *Frozen) thaw() error {
	// Writers first, guard and goroutine later.
	err := f.fs.Thaw()
	close(f.stop)
	if d, ok := f.guard.Stdin.(interface{ SetWriteDeadline(time.Time) error }); ok {
		d.SetWriteDeadline(time.Now().Add(guardPatience)) // the guard may have been stopped
	}
	f.wg.Wait() // from here on, what the guard says is heard here
	switch {
	case err == nil:
		f.dismiss(wordThawed)
	case errors.Is(err, errNotFrozen):
		last := f.dismiss(wordThawed)
		why := f.early
		switch {
		case why == nil && last != "":
			why = fmt.Errorf("the guard says: %s", last)
		case why == nil:
			why = errors.New("somebody else did")
		}
		err = fmt.Errorf("thaw %s: %w: %w", f.mount, ErrThawedEarly, why)
	default:
		// A closed pipe makes the guard try, and it tries for longer.
		if last := f.dismiss(""); strings.HasPrefix(last, wordThawed) {
			err = fmt.Errorf("thaw %s: the guard had to do it: %w", f.mount, err)
		} else {
			err = f.stuck(err)
		}
	}
	return errors.Join(err, f.fs.Close())
}

// lines splits what r gives. The channel holds more than a guard ever says.
func lines(r io.Reader) <-chan string {
	c := make(chan string, 16)
	go func() {
		defer close(c)
		s := bufio.NewScanner(r)
		for s.Scan() {
			select {
			case c <- s.Text():
			default:
				// Not a guard: it does not stop talking.
			}
		}
	}()
	return c
}
