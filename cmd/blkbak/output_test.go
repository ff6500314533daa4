package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	tab := newTable("POINT", ">SIZE", "AGE")
	var b strings.Builder
	tab.write(&b)
	if b.Len() != 0 {
		t.Errorf("an empty table is %q", b.String())
	}
	tab.add("a1b2", "1.0 GiB", "3 hours ago")
	tab.add("ü\x1b[2J", "512 B", "")
	tab.write(&b)
	want := "" +
		"POINT        SIZE  AGE\n" +
		"a1b2      1.0 GiB  3 hours ago\n" +
		"ü\\x1b[2J    512 B\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"plain – é 漢\n\t": "plain – é 漢\n\t",
		"a\x1b[31mb":      `a\x1b[31mb`,
		"a\rb\x00\x7f":    `a\x0db\x00\x7f`,
		"bad \xff utf":    `bad \xff utf`,
		"\u202eright":     `\u202eright`,
		"\u009b31m":       `\u009b31m`,
		"\ufffd":          `\ufffd`,
	} {
		if got := printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

type brokenWriter struct{}

var errBroken = errors.New("no space left")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	a := newApp(nil, &out, io.Discard)
	doc := struct {
		Name string `json:"name"`
	}{"a<b&c"}
	human := func(w io.Writer) { io.WriteString(w, "text\n") }
	if err := a.print(doc, human); err != nil || out.String() != "text\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	a.global.json = true
	if err := a.print(doc, human); err != nil || out.String() != "{\n  \"name\": \"a<b&c\"\n}\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	a.stdout = brokenWriter{}
	for _, a.global.json = range []bool{true, false} {
		if err := a.print(doc, human); !errors.Is(err, errBroken) {
			t.Errorf("a lost result gives %v", err)
		}
	}
}

func TestAsk(t *testing.T) {
	in := strings.NewReader("yes\r\nrest")
	var screen bytes.Buffer
	a := newApp(in, io.Discard, &screen)
	got, err := a.ask(t.Context(), "sure? ")
	if err != nil || got != "yes" || screen.String() != "sure? " {
		t.Errorf("%q, %v, after %q", got, err, screen.String())
	}
	if got, err = a.ask(t.Context(), ""); err != nil || got != "rest" {
		t.Errorf("%q, %v: the rest of the input was lost", got, err)
	}
	if _, err = a.ask(t.Context(), ""); !errors.Is(err, io.EOF) {
		t.Errorf("at the end of the input: %v", err)
	}
	a.stdin = strings.NewReader(strings.Repeat("y", 1<<20))
	if _, err = a.ask(t.Context(), ""); err == nil {
		t.Error("an answer without end was taken")
	}
	r, w := io.Pipe()
	defer w.Close()
	a.stdin = r
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = a.ask(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAge(t *testing.T) {
	a := newApp(nil, nil, io.Discard)
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	a.now = func() time.Time { return now }
	if got := a.age(now.Add(-3 * time.Hour)); got != "3 hours ago" {
		t.Error(got)
	}
	if got := a.age(now.Add(3 * time.Hour)); got != "3 hours from now" {
		t.Error(got)
	}
}

func TestNarrator(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(newNarrator(&b, slog.LevelInfo)).With("source", "vg/data")
	log.Debug("hidden")
	log.Info("snapshot taken", "dur", 41*time.Millisecond)
	log.WithGroup("lvm").Warn("base is gone", "err", errors.New(`no "x"`), slog.Group("g", "n", 1), "empty", "")
	log.Error("bad\x1b", "name", "\x1b[2J")
	want := "blkbak: snapshot taken source=vg/data dur=41ms\n" +
		`blkbak: warning: base is gone source=vg/data lvm.err="no \"x\"" lvm.g.n=1 lvm.empty=""` + "\n" +
		`blkbak: error: bad\x1b source=vg/data name="\x1b[2J"` + "\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
