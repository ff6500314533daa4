package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
)

// narrator is the log handler for people:
//
//	blkbak: snapshot taken source=vg/data dur=41ms
//	blkbak: warning: base snapshot is gone source=vg/data
type narrator struct {
	mu    *sync.Mutex
	w     io.Writer
	level slog.Level
	attrs string // rendered already
	group string // prefix of the keys to come
}

func newNarrator(w io.Writer, level slog.Level) *narrator {
	return &narrator{mu: new(sync.Mutex), w: w, level: level}
}

func (n *narrator) Enabled(_ context.Context, l slog.Level) bool { return l >= n.level }

func (n *narrator) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(programName + ": ")
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(printable(r.Message))
	b.WriteString(n.attrs)
	r.Attrs(func(a slog.Attr) bool {
		appendAttr(&b, n.group, a)
		return true
	})
	b.WriteByte('\n')
	n.mu.Lock()
	defer n.mu.Unlock()
	_, err := io.WriteString(n.w, b.String())
	return err
}

func (n *narrator) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		appendAttr(&b, n.group, a)
	}
	c := *n
	c.attrs += b.String()
	return &c
}

func (n *narrator) WithGroup(name string) slog.Handler {
	if name == "" {
		return n
	}
	c := *n
	c.group += name + "."
	return &c
}

func appendAttr(b *strings.Builder, group string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, sub := range v.Group() {
			appendAttr(b, group, sub)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	text := v.String()
	if text == "" || strings.ContainsAny(text, " \"=\n\t") || printable(text) != text {
		text = strconv.Quote(text)
	}
	fmt.Fprintf(b, " %s%s=%s", group, a.Key, text)
}
