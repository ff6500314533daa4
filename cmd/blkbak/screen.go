package main

import (
	"io"
	"os"
	"slices"
	"sync"
)

// screen is standard error with at most one progress line below everything else
// that is written there. It is safe for concurrent use.
type screen struct {
	mu     sync.Mutex
	w      io.Writer
	active []*progress // those that have a bar; the last one is shown
	shown  bool        // a bar is on the last line
	broken bool        // that line began with somebody's unfinished line

	// width is the number of columns, and whether w is a terminal at all. It is
	// asked at every drawing, so that a bar follows the window.
	width func() (columns int, ok bool)
}

func newScreen(w io.Writer) *screen {
	s := &screen{w: w, width: func() (int, bool) { return 0, false }}
	if f, ok := w.(*os.File); ok {
		s.width = func() (int, bool) { return terminalWidth(f) }
	}
	return s
}

// clearLine goes to the first column and erases to the end of the line.
const clearLine = "\r\x1b[K"

// Write writes p where the bar is, and leaves its place empty until the next
// drawing.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	s.erase()
	s.broken = p[len(p)-1] != '\n'
	return s.w.Write(p)
}

// draw shows line in one write, which keeps it from flickering. It does nothing
// unless p is the one to show, or after an unfinished line.
func (s *screen) draw(p *progress, line func(columns int) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.active) == 0 || s.active[len(s.active)-1] != p || s.broken {
		return
	}
	columns, ok := s.width()
	if !ok || columns <= 0 {
		columns = 80
	}
	// The last column stays free: some terminals wrap as soon as it is written.
	io.WriteString(s.w, "\r"+line(columns-1)+"\x1b[K")
	s.shown = true
}

func (s *screen) erase() {
	if s.shown {
		io.WriteString(s.w, clearLine)
		s.shown = false
	}
}

func (s *screen) push(p *progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = append(s.active, p)
}

func (s *screen) remove(p *progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = slices.DeleteFunc(s.active, func(q *progress) bool { return q == p })
	s.erase()
}

// newline says that somebody else, such as a terminal that echoes an answer, has
// ended the line.
func (s *screen) newline() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = false
}
