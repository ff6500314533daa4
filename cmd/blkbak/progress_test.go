package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a terminal of one line of interest: it does what the control
// sequences say and counts the writes.
type recorder struct {
	t       *testing.T
	columns int
	mu      sync.Mutex
	done    []string // lines that a newline has ended
	line    []rune
	at      int
	writes  int
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := string(p); s != ""; {
		if rest, ok := strings.CutPrefix(s, "\x1b[K"); ok {
			r.line = r.line[:r.at]
			s = rest
			continue
		}
		c := []rune(s)[0]
		s = s[len(string(c)):]
		switch c {
		case '\r':
			r.at = 0
		case '\n':
			r.done = append(r.done, string(r.line))
			r.line, r.at = nil, 0
		default:
			if c < ' ' {
				r.t.Errorf("control character %q was written", c)
			}
			if r.at == len(r.line) {
				r.line = append(r.line, c)
			}
			r.line[r.at] = c
			r.at++
		}
	}
	if len(r.line) >= r.columns {
		r.t.Errorf("%d columns are written to of %d: %q", len(r.line), r.columns, string(r.line))
	}
	r.writes++
	return len(p), nil
}

// shown is what is on the line now, and ended the lines above it.
func (r *recorder) shown() string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.line)
}

func (r *recorder) ended() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.done, "|")
}

func (r *recorder) drawings() int {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes
}

func barApp(t *testing.T, columns int) (*app, *recorder) {
	r := &recorder{t: t, columns: columns}
	a := newApp(nil, new(bytes.Buffer), r)
	a.global.progress = "auto"
	a.stderr.width = func() (int, bool) { return columns, true }
	return a, r
}

func TestProgressBar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, r := barApp(t, 100)
		p := a.Progress("store", 1000<<20)
		for range 40 { // 4 s at 100 MiB/s
			time.Sleep(100 * time.Millisecond)
			p.Add(10 << 20)
		}
		time.Sleep(50 * time.Millisecond)
		// Of the bytes of the last tick it may or may not know yet.
		got := r.shown()
		if !strings.HasPrefix(got, "store   39%  [===============>                        ]  390 MiB of 1000 MiB  98 MiB/s  6s left") &&
			!strings.HasPrefix(got, "store   40%  [================>                       ]  400 MiB of 1000 MiB  100 MiB/s  6s left") {
			t.Errorf("the bar is %q", got)
		}
		if n := r.drawings(); n != 40 {
			t.Errorf("%d drawings in 4 s", n)
		}
		p.Done()
		p.Done()
		if r.shown() != "" || r.at != 0 || r.ended() != "" {
			t.Errorf("the line is left as %q, cursor at %d, after %q", r.shown(), r.at, r.ended())
		}
		n := r.drawings()
		time.Sleep(time.Second)
		if r.drawings() != n {
			t.Error("something is drawn after Done")
		}
	})
}

func TestProgressBesideOtherOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, r := barApp(t, 60)
		wait := func() { time.Sleep(150 * time.Millisecond) }
		p := a.Progress("read", 100)
		wait()
		fmt.Fprintln(a.stderr, "a warning")
		if r.ended() != "a warning" || r.shown() != "" {
			t.Errorf("lines %q, then %q", r.ended(), r.shown())
		}
		wait()
		if !strings.HasPrefix(r.shown(), "read ") {
			t.Errorf("the bar has not come back: %q", r.shown())
		}
		// A question stays until the line is ended.
		fmt.Fprint(a.stderr, "sure? ")
		wait()
		if r.shown() != "sure? " {
			t.Errorf("the question became %q", r.shown())
		}
		fmt.Fprintln(a.stderr)
		// The newest of several is shown, and then the other again.
		q := a.Progress("write", 100)
		wait()
		if !strings.HasPrefix(r.shown(), "write ") {
			t.Errorf("shown is %q", r.shown())
		}
		q.Done()
		wait()
		if !strings.HasPrefix(r.shown(), "read ") {
			t.Errorf("shown is %q", r.shown())
		}
		p.Done()
		if want := "a warning|sure? "; r.ended() != want || r.shown() != "" {
			t.Errorf("lines %q, then %q, want %q", r.ended(), r.shown(), want)
		}
	})
}

func TestProgressJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		a := newApp(nil, new(bytes.Buffer), &out)
		a.global.progress = "json"
		p := a.Progress("store", 0)
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			p.Add(100)
		}
		time.Sleep(50 * time.Millisecond)
		p.SetTotal(6000)
		time.Sleep(time.Second)
		p.Done()
		var got []status
		for line := range strings.Lines(out.String()) {
			var doc struct{ Progress status }
			if err := json.Unmarshal([]byte(line), &doc); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			got = append(got, doc.Progress)
		}
		if len(got) != 5 {
			t.Fatalf("%d lines in 4 s and the last:\n%s", len(got), out.String())
		}
		if got[0].ETA != nil || got[0].Total != 0 || got[0].Finished || got[1].Rate < 900 || got[1].Rate > 1000 {
			t.Errorf("early lines: %+v", got[:2])
		}
		last := got[4]
		if last.Done != 3000 || last.Total != 6000 || !last.Finished || last.Seconds != 4.05 || last.ETA == nil || *last.ETA != 4 {
			t.Errorf("last line: %+v", last)
		}
	})
}

func TestProgressMode(t *testing.T) {
	tests := []struct {
		mode        string
		terminal    bool
		json, quiet bool
		want        string
	}{
		{mode: "auto", terminal: true, want: "bar"},
		{mode: "auto", want: "none"},
		{mode: "auto", terminal: true, json: true, want: "none"},
		{mode: "auto", terminal: true, quiet: true, want: "none"},
		{mode: "none", terminal: true, want: "none"},
		{mode: "bar", json: true, quiet: true, want: "bar"},
		{mode: "json", want: "json"},
	}
	for _, tt := range tests {
		a := newApp(nil, nil, new(bytes.Buffer))
		a.global = globals{progress: tt.mode, json: tt.json, quiet: tt.quiet}
		a.stderr.width = func() (int, bool) { return 80, tt.terminal }
		if got := a.progressMode(); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
	// What is not shown must cost nothing and not hang.
	a := newApp(nil, nil, new(bytes.Buffer))
	p := a.Progress("x", 1)
	p.Add(1)
	p.Done()
	if a.stderr.w.(*bytes.Buffer).Len() != 0 {
		t.Error("something was written")
	}
}

func TestBarWidths(t *testing.T) {
	eta := int64(7500)
	s := status{Task: "store", Done: 420 << 30, Total: 1000 << 30, Rate: 210 << 20, ETA: &eta}
	for columns, want := range map[int]string{
		120: "store   42%  [================>                       ]  420 GiB of 1000 GiB  210 MiB/s  2h05m left",
		79:  "store   42%  [========>           ]  420 GiB of 1000 GiB  210 MiB/s  2h05m left",
		60:  "store   42%  420 GiB of 1000 GiB  210 MiB/s  2h05m left",
		45:  "store   42%  420 GiB of 1000 GiB  2h05m left",
		30:  "store   42%  2h05m left",
		14:  "store   42%",
		8:   " 42%",
		2:   " 4",
		0:   "",
	} {
		if got := s.bar(columns); got != want {
			t.Errorf("%d columns:\n%q, want\n%q", columns, got, want)
		}
	}
	for columns := range 200 {
		for _, s := range []status{s, {}, {Task: strings.Repeat("é", 90), Done: 5, Total: 3}, {Task: "x", Done: 1 << 62, Rate: 1 << 62}} {
			if got := s.bar(columns); width(got) > columns {
				t.Errorf("%d columns for %d: %q", width(got), columns, got)
			}
		}
	}
	full := status{Task: "x", Done: 999, Total: 1000}
	if got := full.bar(80); !strings.Contains(got, " 99%") {
		t.Errorf("nearly done is %q", got)
	}
	full.Done = 1000
	if got := full.bar(80); !strings.Contains(got, "100%  [========================================]") {
		t.Errorf("done is %q", got)
	}
}

func TestMeter(t *testing.T) {
	var m meter
	at := time.Unix(0, 0)
	if got := m.observe(at, 0); got != 0 {
		t.Errorf("at first the rate is %v", got)
	}
	rate := 0.0
	for i := range 600 { // a minute at 1000 B/s
		at = at.Add(100 * time.Millisecond)
		rate = m.observe(at, int64(i+1)*100)
	}
	if rate < 999 || rate > 1001 {
		t.Errorf("steady rate %v, want 1000", rate)
	}
	if n := len(m.samples); n > 102 {
		t.Errorf("%d samples are kept", n)
	}
	for range 110 { // it stalls
		at = at.Add(100 * time.Millisecond)
		rate = m.observe(at, 60000)
	}
	if rate != 0 {
		t.Errorf("stalled rate %v", rate)
	}
}

func TestHumanSeconds(t *testing.T) {
	for n, want := range map[int64]string{0: "0s", 59: "59s", 60: "1m00s", 3599: "59m59s", 3600: "1h00m", 86399: "23h59m", 86400: "1d00h", 100 * 365 * 86400: "36500d00h"} {
		if got := humanSeconds(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
