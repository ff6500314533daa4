package freeze

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/blkbak/blkbak"
)

// kernel plays one filesystem, shared by both sides as a real one is.
type kernel struct {
	mu        sync.Mutex
	frozen    bool
	froze     time.Time
	held      time.Duration // between the freeze and the thaw
	thaws     int
	slow      time.Duration // FIFREEZE takes as long
	freezeErr error
	thawErr   func(n int) error // n counts from 1
	asked     int
}

func (k *kernel) Sync() error  { return nil }
func (k *kernel) Close() error { return nil }

func (k *kernel) Freeze() error {
	if k.freezeErr != nil {
		return k.freezeErr
	}
	time.Sleep(k.slow)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.frozen, k.froze = true, time.Now()
	return nil
}

func (k *kernel) Thaw() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if k.thawErr != nil {
		if err := k.thawErr(k.asked); err != nil {
			return err
		}
	}
	if !k.frozen {
		return errNotFrozen
	}
	k.frozen, k.held = false, time.Since(k.froze)
	k.thaws++
	return nil
}

func (k *kernel) state() (frozen bool, held time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.frozen, k.held
}

// fakeProcess runs the real guard as a goroutine.
type fakeProcess struct {
	stdin  *io.PipeWriter
	stdout *io.PipeWriter
	stderr bytes.Buffer
	exit   atomic.Int32
	done   chan struct{}
	mute   bool // never says that it is ready
}

func (p *fakeProcess) start(k *kernel, o Options) *Guard {
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	p.stdin, p.stdout, p.done = stdin, out, make(chan struct{})
	go func() {
		words := readWords(in)
		g := &guard{mount: "/m", fs: k, max: o.MaxFrozen, stall: o.Stall, stdout: out, stderr: &p.stderr, words: words}
		if !p.mute {
			fmt.Fprintln(out, wordReady)
		}
		p.exit.Store(int32(g.run()))
		in.CloseWithError(os.ErrClosed)
		out.Close()
		for range words { // a process would just be gone
		}
		close(p.done)
	}()
	return &Guard{Stdin: stdin, Stdout: stdout, Wait: func() error { <-p.done; return nil }}
}

// kill ends the process's pipes as its death would.
func (p *fakeProcess) kill() {
	p.stdout.Close()
	p.stdin.CloseWithError(os.ErrClosed)
}

func holdFake(t *testing.T, k *kernel, p *fakeProcess, o Options) (*Frozen, error) {
	t.Helper()
	o.StartGuard = func(context.Context, []string) (*Guard, error) { return p.start(k, o), nil }
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return hold(t.Context(), "/m", k, nil, o)
}

func TestThawInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, p := &kernel{}, &fakeProcess{}
		f, err := holdFake(t, k, p, Options{MaxFrozen: time.Hour, Stall: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute) // far beyond a stall: it shows signs of life
		if frozen, _ := k.state(); !frozen {
			t.Error("not frozen")
		}
		for range 2 {
			if err := f.Thaw(); err != nil {
				t.Error(err)
			}
		}
		if frozen, held := k.state(); frozen || held != 30*time.Minute || k.thaws != 1 {
			t.Errorf("frozen %v, held %v, %d thaws", frozen, held, k.thaws)
		}
		if p.exit.Load() != exitQuiet || p.stderr.Len() > 0 {
			t.Errorf("guard: %d, %s", p.exit.Load(), &p.stderr)
		}
		select {
		case <-f.Broken():
			t.Error("broken")
		default:
		}
	})
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, p := &kernel{}, &fakeProcess{}
		f, err := holdFake(t, k, p, Options{MaxFrozen: 5 * time.Second, Stall: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		<-f.Broken()
		if frozen, held := k.state(); frozen || held != 5*time.Second {
			t.Errorf("frozen %v, held %v", frozen, held)
		}
		err = f.Thaw()
		if !errors.Is(err, ErrThawedEarly) || !strings.Contains(err.Error(), "frozen for 5s") {
			t.Errorf("%v", err)
		}
		if p.exit.Load() != exitThawed || !strings.Contains(p.stderr.String(), "thawed /m: frozen for 5s") {
			t.Errorf("guard: %d, %s", p.exit.Load(), &p.stderr)
		}
	})
}

// TestLimitDuringFreeze: writers wait while FIFREEZE still writes out old data,
// until the guard's clock runs out. Whether Freeze hears of it or Thaw is chance.
func TestLimitDuringFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, p := &kernel{slow: time.Minute}, &fakeProcess{}
		f, err := holdFake(t, k, p, Options{MaxFrozen: 5 * time.Second, Stall: time.Second})
		if err == nil {
			<-f.Broken()
			err = f.Thaw()
		}
		if !errors.Is(err, ErrThawedEarly) || !strings.Contains(err.Error(), "frozen for 5s") {
			t.Errorf("%v", err)
		}
		if frozen, held := k.state(); frozen || held > 100*time.Millisecond || p.exit.Load() != exitThawed {
			t.Errorf("frozen %v, held %v, guard's exit %d", frozen, held, p.exit.Load())
		}
	})
}

// TestGuardAlone drives the guard's side with what a main process may do.
func TestGuardAlone(t *testing.T) {
	for _, c := range []struct {
		name string
		say  []string // then the pipe closes, unless the last is "" (a stall)
		froz bool
		exit int
		held time.Duration
	}{
		{"dies before", nil, false, exitQuiet, 0},
		{"dies while freezing", []string{wordFreezing}, true, exitThawed, 0},
		{"dies while freezing, not frozen", []string{wordFreezing}, false, exitQuiet, 0},
		{"dies frozen", []string{wordFreezing, wordFrozen, wordBeat}, true, exitThawed, 0},
		{"thawed", []string{wordFreezing, wordFrozen, wordThawed}, false, exitQuiet, 0},
		{"refused", []string{wordFreezing, wordRefused}, true, exitQuiet, 0}, // frozen by somebody else
		{"stalls", []string{wordFreezing, wordFrozen, ""}, true, exitThawed, 2 * time.Second},
		{"stalls after a beat", []string{wordFreezing, wordFrozen, "wait", wordBeat, ""}, true, exitThawed, 3 * time.Second},
		{"stalls before frozen", []string{wordFreezing, ""}, true, exitThawed, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &kernel{frozen: c.froz, froze: time.Now()}
				words := make(chan string)
				g := &guard{mount: "/m", fs: k, max: 10 * time.Second, stall: 2 * time.Second, stdout: io.Discard, stderr: io.Discard, words: words}
				exit := make(chan int, 1)
				go func() { exit <- g.run() }()
				open := false
				for _, w := range c.say {
					switch w {
					case "wait":
						time.Sleep(time.Second)
					case "":
						open = true
					default:
						words <- w
					}
				}
				if !open {
					close(words)
				}
				if got := <-exit; got != c.exit {
					t.Errorf("exit %d, want %d", got, c.exit)
				}
				if want := c.froz && c.exit == exitQuiet; k.frozen != want || k.held != c.held {
					t.Errorf("frozen %v, held %v", k.frozen, k.held)
				}
			})
		})
	}
}

func TestGuardDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, p := &kernel{}, &fakeProcess{}
		f, err := holdFake(t, k, p, Options{MaxFrozen: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		p.kill()
		<-f.Broken()
		if frozen, held := k.state(); frozen || held > time.Minute+DefaultStall {
			t.Errorf("unguarded and frozen %v, held %v", frozen, held)
		}
		if err := f.Thaw(); !errors.Is(err, ErrThawedEarly) || !strings.Contains(err.Error(), "the guard died") {
			t.Errorf("%v", err)
		}
	})
}

// TestThawFails: the worst. The guard tries as well, for longer, and what it
// could not do is said in capitals.
func TestThawFails(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name  string
		after int // thaws work from this try on; 0 is never
		loud  bool
	}{{"never", 0, true}, {"for the guard, later", 5, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, p := &kernel{}, &fakeProcess{}
				k.thawErr = func(n int) error {
					if c.after == 0 || n < c.after {
						return boom
					}
					return nil
				}
				f, err := holdFake(t, k, p, Options{})
				if err != nil {
					t.Fatal(err)
				}
				err = f.Thaw()
				if !errors.Is(err, boom) || errors.Is(err, ErrStillFrozen) != c.loud || errors.Is(err, ErrThawedEarly) {
					t.Errorf("%v", err)
				}
				if c.loud != strings.Contains(fmt.Sprint(err), "FILESYSTEM /m IS STILL FROZEN") || c.loud != (blkbak.Hint(err) == "run now: fsfreeze --unfreeze /m") {
					t.Errorf("%v, hint %q", err, blkbak.Hint(err))
				}
				if c.loud {
					<-p.done // it goes on trying
				}
				if frozen, _ := k.state(); frozen != c.loud {
					t.Errorf("frozen %v", frozen)
				}
				if want := map[bool]int32{true: exitFailed, false: exitThawed}[c.loud]; p.exit.Load() != want {
					t.Errorf("guard's exit %d", p.exit.Load())
				}
			})
		})
	}
}

func TestSomebodyElseThaws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, p := &kernel{}, &fakeProcess{}
		f, err := holdFake(t, k, p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Thaw(); err != nil {
			t.Fatal(err)
		}
		if err := f.Thaw(); !errors.Is(err, ErrThawedEarly) || p.exit.Load() != exitQuiet {
			t.Errorf("%v, guard's exit %d", err, p.exit.Load())
		}
	})
}

func TestNoFreezeWithoutGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{}
		if _, err := holdFake(t, k, &fakeProcess{mute: true}, Options{}); err == nil || !strings.Contains(err.Error(), "not ready") {
			t.Errorf("mute guard: %v", err)
		}
		no := errors.New("no")
		_, err := hold(t.Context(), "/m", k, nil, Options{StartGuard: func(context.Context, []string) (*Guard, error) { return nil, no }})
		if !errors.Is(err, no) {
			t.Errorf("no guard: %v", err)
		}
		k.freezeErr = blkbak.ErrBusy
		p := &fakeProcess{}
		if _, err := holdFake(t, k, p, Options{}); !errors.Is(err, blkbak.ErrBusy) || p.exit.Load() != exitQuiet {
			t.Errorf("refused: %v, guard's exit %d", err, p.exit.Load())
		}
		if k.frozen || k.asked > 0 {
			t.Errorf("frozen %v, %d thaws", k.frozen, k.asked)
		}
	})
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {MaxFrozen: -1}, {Stall: time.Microsecond}} {
		if _, err := o.withDefaults(); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
