package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// print writes the result of a command on standard output: doc with --json, or
// else what human writes. A result that could not be written is an error.
func (a *app) print(doc any, human func(w io.Writer)) error {
	out := bufio.NewWriter(a.stdout)
	if a.global.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(doc); err != nil {
			return fmt.Errorf("print result: %w", err)
		}
	} else {
		human(out)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

// notef says something that is no result and no error, unless --quiet or --json
// forbid it.
func (a *app) notef(format string, args ...any) {
	if !a.global.quiet && !a.global.json {
		fmt.Fprintf(a.stderr, "%s: %s\n", programName, printable(fmt.Sprintf(format, args...)))
	}
}

// table is text in aligned columns.
type table struct {
	heads []string
	right []bool
	rows  [][]string
}

// newTable names the columns. One that begins with ">" is flush right, as
// numbers are read best.
func newTable(heads ...string) *table {
	t := &table{heads: make([]string, len(heads)), right: make([]bool, len(heads))}
	for i, h := range heads {
		t.heads[i], t.right[i] = strings.CutPrefix(h, ">")
	}
	return t
}

// add appends a row. It panics unless there is a cell for every column.
func (t *table) add(cells ...string) {
	if len(cells) != len(t.heads) {
		panic(fmt.Sprintf("table of %d columns got a row of %d", len(t.heads), len(cells)))
	}
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = printable(c)
	}
	t.rows = append(t.rows, row)
}

// write prints the heading and the rows; of an empty table, nothing.
func (t *table) write(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	lines := append([][]string{t.heads}, t.rows...)
	widths := make([]int, len(t.heads))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], width(cell))
		}
	}
	for _, line := range lines {
		var b strings.Builder
		for i, cell := range line {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-width(cell))
			if t.right[i] {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// width is the number of columns that s takes, one for each character.
func width(s string) int { return utf8.RuneCountInString(s) }

// age is how long ago t was, in words.
func (a *app) age(t time.Time) string { return humanize.RelTime(t, a.now(), "ago", "from now") }

// printable makes s harmless on a terminal: names come from repositories and
// devices that others wrote, and may hold control sequences.
func printable(s string) string {
	safe := func(r rune) bool { return r != utf8.RuneError && (unicode.IsPrint(r) || r == '\n' || r == '\t') }
	if strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case safe(r):
			b.WriteRune(r)
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[size:]
	}
	return b.String()
}

// ask puts a question on standard error and returns the line that comes back on
// standard input, or an error when ctx or the input ends first.
func (a *app) ask(ctx context.Context, question string) (string, error) {
	io.WriteString(a.stderr, printable(question))
	type reply struct {
		line string
		err  error
	}
	got := make(chan reply, 1)
	go func() { // stays behind with an unfinished read when ctx ends: nothing can interrupt that
		line, err := readLine(a.stdin)
		got <- reply{line, err}
	}()
	select {
	case <-ctx.Done():
		io.WriteString(a.stderr, "\n")
		return "", context.Cause(ctx)
	case r := <-got:
		a.stderr.newline() // the terminal has shown what was typed
		if r.err != nil {
			return "", fmt.Errorf("read answer: %w", r.err)
		}
		return r.line, nil
	}
}

// readLine reads no byte beyond the line's end, which a later reader may want.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < 4096 {
		n, err := r.Read(b[:])
		if n == 1 {
			if b[0] == '\n' {
				return strings.TrimSuffix(string(line), "\r"), nil
			}
			line = append(line, b[0])
			continue
		}
		if err == io.EOF && len(line) > 0 {
			return string(line), nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", usagef("the answer is too long")
}
