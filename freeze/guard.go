package freeze

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"
)

// Exit statuses of the guard.
const (
	exitQuiet  = 0 // it was not needed
	exitFailed = 1
	exitUsage  = 2
	exitThawed = 3 // it thawed
)

// thawTries and thawPause are the guard's patience with a thaw that fails.
const (
	thawTries = 60
	thawPause = time.Second
)

// guard is the guard's side of the protocol.
type guard struct {
	mount          string
	fs             filesystem
	max, stall     time.Duration
	stdout, stderr io.Writer

	words  <-chan string
	frozen bool // FIFREEZE has returned: what FITHAW says is final
	gone   bool // the other end died
}

// run listens until the other side has thawed, or thaws.
func (g *guard) run() int {
	// Nothing runs before there is something to thaw.
	var limit, stall <-chan time.Time
	for {
		select {
		case word, ok := <-g.words:
			if !ok {
				if limit == nil {
					return exitQuiet
				}
				g.gone = true
				return g.thaw("the main process died")
			}
			switch word {
			case wordFreezing:
				limit = time.After(g.max)
			case wordFrozen, wordBeat:
				g.frozen = true
				stall = time.After(g.stall)
			case wordRefused, wordThawed:
				return exitQuiet
			}
		case <-limit:
			return g.thaw(fmt.Sprintf("frozen for %v", g.max))
		case <-stall:
			return g.thaw(fmt.Sprintf("no sign of life for %v", g.stall))
		}
	}
}

// thaw thaws, then says so.
func (g *guard) thaw(why string) int {
	for try := 1; ; {
		err := g.fs.Thaw()
		switch {
		case err == nil:
			// Reports come last: the streams may go to the filesystem.
			g.say(wordThawed, why)
			return exitThawed
		case errors.Is(err, errNotFrozen):
			if g.frozen || g.gone {
				// Whoever froze it has thawed it, this moment or before it died.
				return exitQuiet
			}
			// FIFREEZE is still writing out what is dirty.
			if g.listen(50 * time.Millisecond) {
				return exitQuiet
			}
		case try >= thawTries:
			g.say(wordFailed, fmt.Sprintf("%s IS STILL FROZEN: %v", g.mount, err))
			return exitFailed
		default:
			// On standard error only: the other end waits for the last word.
			fmt.Fprintf(g.stderr, "freeze guard: thaw %s: %v; trying again\n", g.mount, err)
			try++
			time.Sleep(thawPause)
		}
	}
}

// listen takes in one word, and tells whether there is nothing left to thaw.
func (g *guard) listen(d time.Duration) (done bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case word, ok := <-g.words:
		switch {
		case !ok:
			g.gone = true
		case word == wordFrozen, word == wordBeat:
			g.frozen = true
		case word == wordRefused, word == wordThawed:
			return true
		}
	case <-t.C:
	}
	return false
}

func (g *guard) say(word, why string) {
	fmt.Fprintf(g.stdout, "%s: %s\n", word, why)
	fmt.Fprintf(g.stderr, "freeze guard: %s %s: %s\n", word, g.mount, why)
}

// readWords hands over every line of r and closes the channel at its end.
func readWords(r io.Reader) <-chan string {
	c := make(chan string)
	go func() {
		defer close(c)
		s := bufio.NewScanner(r)
		for s.Scan() {
			c <- s.Text()
		}
	}()
	return c
}
