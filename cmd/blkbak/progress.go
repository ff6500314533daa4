package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
)

// How often progress is told: a bar fast enough to look alive, lines of JSON
// slow enough to be kept.
const (
	barInterval  = 100 * time.Millisecond
	jsonInterval = time.Second
)

// progress tells how far a task is. Its methods are safe for concurrent use, and
// Add is cheap enough to be called for every chunk.
type progress struct {
	name        string
	done, total atomic.Int64 // bytes; a total of 0 is unknown
	begin       time.Time
	meter       meter // of the ticking goroutine alone

	tell  func(final bool) // nil when nothing is shown
	close sync.Once
	stop  chan struct{}
	ended chan struct{}
}

// Progress begins to tell about the task called name, of total bytes, or 0 when
// nobody knows. The caller ends it with Done. Of several at once, the newest is
// the one on the bar.
func (a *app) Progress(name string, total int64) *progress {
	p := &progress{name: name, begin: a.now(), stop: make(chan struct{}), ended: make(chan struct{})}
	p.total.Store(total)
	p.meter.observe(p.begin, 0)
	interval := barInterval
	switch a.progressMode() {
	case "bar":
		a.stderr.push(p)
		p.tell = func(final bool) {
			if final {
				a.stderr.remove(p)
				return
			}
			now := a.observe(p)
			a.stderr.draw(p, now.bar)
		}
	case "json":
		interval = jsonInterval
		p.tell = func(final bool) {
			now := a.observe(p)
			now.Finished = final
			line, _ := json.Marshal(struct { // plain numbers and text always marshal
				Progress status `json:"progress"`
			}{now})
			a.stderr.Write(append(line, '\n'))
		}
	default:
		close(p.ended)
		return p
	}
	go p.loop(interval)
	return p
}

// progressMode is what --progress comes down to.
func (a *app) progressMode() string {
	mode := a.global.progress
	if mode != "auto" {
		return mode
	}
	if _, terminal := a.stderr.width(); !terminal || a.global.json || a.global.quiet {
		return "none"
	}
	return "bar"
}

func (p *progress) loop(interval time.Duration) {
	defer close(p.ended)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.tell(false)
		case <-p.stop:
			p.tell(true)
			return
		}
	}
}

// Add says that n more bytes are done.
func (p *progress) Add(n int64) { p.done.Add(n) }

// SetTotal corrects the number of bytes that there are to do.
func (p *progress) SetTotal(n int64) { p.total.Store(n) }

// Done ends the telling, and leaves the bar's line empty. It may be called more
// than once.
func (p *progress) Done() {
	p.close.Do(func() { close(p.stop) })
	<-p.ended
}

// status is one observation; its JSON form is what --progress json prints.
type status struct {
	Task     string  `json:"task"`
	Done     int64   `json:"done"`
	Total    int64   `json:"total"` // 0 is unknown
	Rate     int64   `json:"bytes_per_second"`
	Seconds  float64 `json:"seconds"`     // since the task began
	ETA      *int64  `json:"eta_seconds"` // null is unknown
	Finished bool    `json:"finished"`
}

func (a *app) observe(p *progress) status {
	now := a.now()
	s := status{Task: p.name, Done: p.done.Load(), Total: p.total.Load()}
	s.Seconds = now.Sub(p.begin).Round(time.Millisecond).Seconds()
	rate := p.meter.observe(now, s.Done)
	s.Rate = int64(rate)
	if left := s.Total - s.Done; left >= 0 && s.Total > 0 && rate >= 1 {
		// A century in seconds still fits everything that prints it.
		eta := int64(min(float64(left)/rate+0.5, 100*365*24*3600))
		s.ETA = &eta
	}
	return s
}

// meter measures the rate over the last seconds: long enough to be calm, short
// enough to follow a change.
type meter struct{ samples []sample }

type sample struct {
	at   time.Time
	done int64
}

const meterWindow = 10 * time.Second

// observe adds a sample and returns the rate in bytes per second.
func (m *meter) observe(now time.Time, done int64) float64 {
	m.samples = append(m.samples, sample{now, done})
	for len(m.samples) > 2 && now.Sub(m.samples[1].at) >= meterWindow {
		m.samples = m.samples[1:]
	}
	first := m.samples[0]
	seconds := now.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0
	}
	return max(0, float64(done-first.done)/seconds)
}

// bar is the line for a terminal: at most columns wide, and of its parts the
// less telling ones are left out first.
//
//	store   42%  [=======>          ]  1.2 GiB of 2.9 GiB  210 MiB/s  8s left
func (s status) bar(columns int) string {
	name := printable(s.Task)
	amount := humanSize(s.Done)
	rate := humanSize(s.Rate) + "/s"
	if s.Total <= 0 {
		return fit(columns, []string{name, amount, rate}, []int{1, 2, 0})
	}
	share := min(1, float64(s.Done)/float64(s.Total))
	// Rounded down: 100% is said when all is done and not before.
	percent := fmt.Sprintf("%3d%%", int(share*100))
	amount += " of " + humanSize(s.Total)
	eta := ""
	if s.ETA != nil {
		eta = humanSeconds(*s.ETA) + " left"
	}
	line := fit(columns, []string{name, percent, amount, rate, eta}, []int{3, 4, 1, 0, 2})
	const least, most, frame = 10, 40, 4 // frame: brackets, and the gap before them
	room := min(columns-width(line)-frame, most)
	if room < least {
		return line
	}
	filled := int(share * float64(room))
	inside := strings.Repeat("=", filled)
	if filled < room {
		inside += ">" + strings.Repeat(" ", room-filled-1)
	}
	head := name + "  " + percent
	if rest, ok := strings.CutPrefix(line, head); ok {
		return head + "  [" + inside + "]" + rest
	}
	return line
}

// fit joins parts by two spaces. While that is too wide it drops one after the
// other, the one of the lowest rank first; the last one is cut.
func fit(columns int, parts []string, rank []int) string {
	for drop := 0; ; drop++ {
		var kept []string
		for i, part := range parts {
			if part != "" && rank[i] >= drop {
				kept = append(kept, part)
			}
		}
		line := strings.Join(kept, "  ")
		if width(line) <= columns {
			return line
		}
		if drop >= len(parts)-1 {
			return string([]rune(line)[:max(0, columns)])
		}
	}
}

// humanSeconds is a span for reading at a glance: 8s, 2m05s, 3h07m, 2d04h.
func humanSeconds(n int64) string {
	switch {
	case n < 60:
		return fmt.Sprintf("%ds", n)
	case n < 3600:
		return fmt.Sprintf("%dm%02ds", n/60, n%60)
	case n < 24*3600:
		return fmt.Sprintf("%dh%02dm", n/3600, n/60%60)
	}
	return fmt.Sprintf("%dd%02dh", n/86400, n/3600%24)
}

// humanSize is for people; JSON has plain bytes.
func humanSize(n int64) string { return humanize.IBytes(uint64(max(0, n))) }
