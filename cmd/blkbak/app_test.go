package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
)

func TestExitCode(t *testing.T) {
	bad := blkbak.Corruptf("pack", 7, "bad")
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{fs.ErrNotExist, 1}, // only what was named by the user is "not found"
		{blkbak.ErrExists, 1},
		{usagef("x"), 2},
		{fmt.Errorf("y: %w", hintf(usagef("x"), "h")), 2},
		{warnings{"x"}, 3},
		{fmt.Errorf("y: %w", warnings{"x"}), 3},
		{bad, 4},
		{errors.Join(context.Canceled, bad), 4},
		{errors.Join(warnings{"x"}, bad), 4},
		{fmt.Errorf("y: %w", blkbak.ErrBusy), 5},
		{fmt.Errorf("y: %w", blkbak.ErrNotFound), 6},
		{fmt.Errorf("y: %w", blkbak.ErrNeedsFull), 7},
		{fmt.Errorf("y: %w", context.Canceled), 130},
		{context.DeadlineExceeded, 1},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
	for _, e := range exitCodes {
		if e.text == "" {
			t.Errorf("code %d is not explained", e.code)
		}
	}
}

func TestWriteError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		json bool
		want string
	}{
		{errors.New("open x: no"), false, "blkbak: error: open x: no\n"},
		{hintf(usagef("bad\x1b"), "do it"), false, "blkbak: error: bad\\x1b\nhint: do it\n"},
		{fmt.Errorf("y: %w", warnings{"one", "two"}), false, "blkbak: warning: one\nblkbak: warning: two\n"},
		{hintf(usagef("a<b"), "do it"), true, `{"error":{"code":2,"message":"a<b","hint":"do it"}}` + "\n"},
		{warnings{"one", "two"}, true, `{"error":{"code":3,"message":"one; two","hint":""}}` + "\n"},
	} {
		var b bytes.Buffer
		writeError(&b, tt.err, exitCode(tt.err), tt.json)
		if b.String() != tt.want {
			t.Errorf("got  %swant %s", b.String(), tt.want)
		}
	}
}

// TestTree holds every command to what help, completion and permute rest on.
func TestTree(t *testing.T) {
	a := newApp(nil, io.Discard, io.Discard)
	global := flagTable(a.flags)
	groups := map[string]bool{}
	last := ""
	for _, c := range a.tree {
		if c.Hidden {
			continue
		}
		if c.Category != last && groups[c.Category] {
			t.Errorf("%s: group %q is in two places", c.Name, c.Category)
		}
		groups[c.Category], last = true, c.Category
	}
	walk(nil, a.tree, func(path []*cli.Command) {
		c, name := leaf(path), fullName(path)
		if c.Usage == "" || c.Usage[0] < 'a' || c.Usage[0] > 'z' || strings.HasSuffix(c.Usage, ".") {
			t.Errorf("%s: its usage %q is no short text in lower case", name, c.Usage)
		}
		if len(c.Subcommands) > 0 && (len(c.Flags) > 0 || c.Action != nil || c.ArgsUsage != "") {
			t.Errorf("%s: a group has neither flags, arguments nor an action", name)
		}
		if len(c.Subcommands) == 0 && c.Action == nil {
			t.Errorf("%s: no action", name)
		}
		optional, repeated := false, false
		for _, op := range operands(c.ArgsUsage) {
			if repeated || optional && !op.optional || strings.ContainsAny(op.name, "[].") {
				t.Errorf("%s: arguments %q cannot be told apart", name, c.ArgsUsage)
			}
			optional, repeated = op.optional, op.repeated
		}
		own := map[string]bool{}
		for _, f := range c.Flags {
			for _, n := range f.Names() {
				if global[n] != nil || own[n] {
					t.Errorf("%s: flag %s means two things", name, n)
				}
				own[n] = true
			}
			if mayTakeValue(f) && placeholder(f) == "VALUE" {
				t.Errorf("%s: the usage of --%s does not name its value in backquotes", name, f.Names()[0])
			}
			if r, ok := f.(cli.RequiredFlag); ok && r.IsRequired() {
				t.Errorf("%s: --%s is Required, use need", name, f.Names()[0])
			}
		}
		for line := range strings.Lines(c.Description) {
			if n := width(strings.TrimRight(line, "\n")); n > columns {
				t.Errorf("%s: a line of %d columns: %s", name, n, line)
			}
		}
		checkExamples(t, a, path)
	})
}

// checkExamples wants that the examples of a command are lines that it takes.
func checkExamples(t *testing.T, a *app, path []*cli.Command) {
	c, name := leaf(path), fullName(path)
	n := 0
	for line := range strings.Lines(c.Description) {
		words := exampleWords(line)
		if words == nil {
			continue
		}
		inv, err := permute(a.flags, a.tree, words)
		if err == nil && !inv.help {
			err = checkArgs(inv.path, inv.args)
		}
		if err != nil {
			t.Errorf("%s: example %q: %v", name, strings.TrimSpace(line), err)
			continue
		}
		if slices.Equal(inv.path, path) {
			n++
		}
	}
	if n == 0 && len(c.Subcommands) == 0 && c.Name != "__complete" {
		t.Errorf("%s: no example", name)
	}
}

// exampleWords returns the words behind "blkbak" in an indented line, up to what
// the shell would take for itself.
func exampleWords(line string) []string {
	if !strings.HasPrefix(line, "  ") {
		return nil
	}
	words := strings.Fields(line)
	at := slices.Index(words, programName)
	if at < 0 {
		return nil
	}
	out := []string{}
	for _, w := range words[at+1:] {
		if strings.ContainsAny(w[:1], "|><&;#") {
			break
		}
		out = append(out, strings.Trim(w, `'"`))
	}
	return out
}

func TestCheckArgs(t *testing.T) {
	for _, tt := range []struct {
		usage, args string
		ok          bool
	}{
		{"", "", true}, {"", "a", false},
		{"[V]", "", true}, {"[V]", "a", true}, {"[V]", "a b", false},
		{"P", "", false}, {"P", "a", true}, {"P", "a b", false},
		{"P P", "a", false}, {"P P", "a b", true}, {"P P", "a b c", false},
		{"S...", "", false}, {"S...", "a", true}, {"S...", "a b c", true},
		{"[S...]", "", true}, {"[S]...", "a b c", true},
		{"P [PATH...]", "", false}, {"P [PATH...]", "a", true}, {"P [PATH...]", "a b c", true},
		{"on|off", "on", true}, {"on|off", "of", false},
	} {
		err := checkArgs([]*cli.Command{{Name: "x", ArgsUsage: tt.usage}}, strings.Fields(tt.args))
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%q with %q: %v", tt.usage, tt.args, err)
		}
	}
	if err := checkArgs([]*cli.Command{{Name: "x", ArgsUsage: "S..."}}, []string{"a", ""}); err == nil {
		t.Error("an empty argument was taken")
	}
}

func TestNearest(t *testing.T) {
	words := []string{"snapshot", "restore", "rollback", "list", "show", "zfs", "fish", "zsh"}
	for typed, want := range map[string]string{
		"snapshto": "snapshot", "snapsho": "snapshot", "restor": "restore", "lst": "list", "lits": "list", "fsh": "fish",
		"shwo": "show", "banana": "", "": "", strings.Repeat("x", 1000): "",
	} {
		if got := nearest(typed, words); got != want {
			t.Errorf("%q: %q, want %q", typed, got, want)
		}
	}
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"ab", "ba", 1}, {"kitten", "sitting", 3}, {"é", "e", 1}} {
		if got := distance(tt.a, tt.b); got != tt.want || distance(tt.b, tt.a) != tt.want {
			t.Errorf("%q to %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestDefaultDir(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	for _, tt := range []struct {
		euid int
		env  func(string) string
		want string
	}{
		{0, env("XDG_DATA_HOME", "/x"), "/sys"},
		{1, env("XDG_DATA_HOME", "/x", "HOME", "/h"), "/x/blkbak"},
		{1, env("HOME", "/h"), "/h/.local/share/blkbak"},
		{1, env("XDG_DATA_HOME", "x", "HOME", "/h"), "/h/.local/share/blkbak"},
		{1, env(), ""},
		{1, env("HOME", "h"), ""},
	} {
		got, err := defaultDir(tt.euid, tt.env, "/sys", "XDG_DATA_HOME", ".local/share")
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%q, %v; want %q", got, err, tt.want)
		}
	}
}

// TestRunErrorsAsJSON wants one JSON document on standard error however early a
// line fails, and nothing on standard output.
func TestRunErrorsAsJSON(t *testing.T) {
	for _, line := range []string{
		"--json", "--json nosuch", "nosuch --json", "version --json --nosuch", "version --json=true extra",
		"completion --json", "version --json --progress x", "version --json -qv",
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), strings.Fields(line), strings.NewReader(""), &out, &errs)
		var doc struct {
			Error struct {
				Code          int
				Message, Hint string
			}
		}
		if err := json.Unmarshal(errs.Bytes(), &doc); err != nil || doc.Error.Code != code || code != exitUsage || doc.Error.Message == "" {
			t.Errorf("%q: exit code %d, %v: %s", line, code, err, errs.String())
		}
		if out.Len() != 0 {
			t.Errorf("%q wrote %q", line, out.String())
		}
	}
}
