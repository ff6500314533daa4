package main

import (
	"context"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestComplete(t *testing.T) {
	a := newApp(nil, nil, nil)
	restore := &cli.Command{Name: "restore", ArgsUsage: "POINT|VOLUME", Flags: []cli.Flag{
		&cli.StringFlag{Name: "to", Aliases: []string{"o"}, Usage: "`TARGET`"},
		&cli.StringFlag{Name: "from", Usage: "`POINT`"},
		&cli.BoolFlag{Name: "force"},
		&cli.BoolFlag{Name: "secret", Hidden: true},
	}}
	a.tree = []*cli.Command{cowCommand(a), completionCommand(a), versionCommand(a), helpCommand(a), completeCommand(a), restore}
	a.points = func(_ context.Context, prefix string) []string { return []string{"vg/data@latest", "a1b2c3d4", "zzz"} }
	for _, tt := range []struct {
		before, word string
		paths, want  string
	}{
		{"", "", "none", "cow completion version help restore"},
		{"", "co", "none", "cow completion"},
		{"", "x", "none", ""},
		{"", "--re", "none", "--repo"},
		{"--json", "ve", "none", "version"},
		{"--repo", "", "dirs", ""},
		{"--repo x", "cow", "none", "cow"},
		{"cow", "", "none", "info dump hints"},
		{"cow d", "", "none", ""},
		{"nosuch", "", "none", ""},
		{"cow dump", "", "files", ""},
		{"cow dump --nosuch", "", "none", ""},
		{"cow dump x", "", "none", ""},
		{"cow hints", "--fo", "none", "--format"},
		{"cow hints", "--format", "none", "--format"},
		{"cow hints --format", "", "none", "rbd-json extents bitmap"},
		{"cow hints --format", "b", "none", "bitmap"},
		{"cow hints", "--format=", "none", "--format=rbd-json --format=extents --format=bitmap"},
		{"cow hints", "--format=ex", "none", "--format=extents"},
		{"cow hints --", "--fo", "files", ""},
		{"cow hints x --progress", "b", "none", "bar"},
		{"cow hints -q", "", "files", ""},
		{"completion", "", "none", "bash zsh fish"},
		{"completion", "z", "none", "zsh"},
		{"help", "c", "none", "cow completion"},
		{"help cow", "", "none", "info dump hints"},
		{"restore", "", "none", "vg/data@latest a1b2c3d4 zzz"},
		{"restore", "a1", "none", "a1b2c3d4"},
		{"restore x", "--", "none", "--to --from --force --repo --state-dir --json --quiet --verbose --progress --help --version"},
		{"restore x --to", "", "files", ""},
		{"restore x", "--to=/d", "files", ""},
		{"restore x", "--force=", "none", ""},
		{"restore x", "--nosuch=", "none", ""},
		{"restore x -o", "", "files", ""},
		{"restore", "-o", "none", "-o"},
		{"restore --from", "vg", "none", "vg/data@latest"},
		{"restore", "--from=vg", "none", "--from=vg/data@latest"},
		{"restore --help", "", "none", ""},
	} {
		o := a.complete(t.Context(), strings.Fields(tt.before), tt.word)
		var words []string
		for _, c := range o.Words {
			words = append(words, c.Word)
		}
		if got := strings.Join(words, " "); got != tt.want || o.Paths != tt.paths {
			t.Errorf("%q then %q: %s, %q\nwant %s, %q", tt.before, tt.word, o.Paths, got, tt.paths, tt.want)
		}
	}
}

func TestRoff(t *testing.T) {
	for s, want := range map[string]string{
		".SH x":    `\&.SH x`,
		"'br":      `\(aqbr`,
		`a\b -x ~`: `a\(rsb \-x \(ti`,
		"a\n.b":    "a .b",
	} {
		if got := roff(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
	if got := quoteRoff(`a "b"`); got != `"a \(dqb\(dq"` {
		t.Errorf("quoted: %s", got)
	}
}
