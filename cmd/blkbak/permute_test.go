package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
)

// testTree has every kind of flag and argument.
func testTree() (global []cli.Flag, commands []*cli.Command) {
	var g globals
	optional := &cli.GenericFlag{Name: "read-data", Value: new(optionalValue), Usage: "check `PERCENT` of the data"}
	return g.flags(), []*cli.Command{
		{Name: "list", ArgsUsage: "[VOLUME]"},
		{Name: "diff", ArgsUsage: "POINT POINT"},
		{Name: "snapshot", ArgsUsage: "SOURCE...", Flags: []cli.Flag{
			&cli.BoolFlag{Name: "full", Aliases: []string{"f"}},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}},
			&cli.StringSliceFlag{Name: "tag", Aliases: []string{"t"}},
			&cli.IntFlag{Name: "level"},
			optional,
			&cli.BoolFlag{Name: "secret", Hidden: true},
		}},
		{Name: "restore", ArgsUsage: "POINT", Flags: []cli.Flag{&cli.StringFlag{Name: "to", Aliases: []string{"o"}}}},
		{Name: "cow", Subcommands: []*cli.Command{
			{Name: "dump", Aliases: []string{"d"}, ArgsUsage: "DEV"},
			{Name: "hints", ArgsUsage: "DEV", Flags: []cli.Flag{&cli.StringFlag{Name: "format"}}},
		}},
		{Name: "__hidden", Hidden: true},
	}
}

type optionalValue struct{ s string }

func (v *optionalValue) Set(s string) error { v.s = s; return nil }
func (v *optionalValue) String() string     { return v.s }
func (v *optionalValue) IsBoolFlag() bool   { return true }

func TestPermute(t *testing.T) {
	tests := []struct{ line, want string }{
		// No flags.
		{"list", "list --"},
		{"list vol", "list -- vol"},
		{"cow dump dev", "cow dump -- dev"},
		{"cow d dev", "cow dump -- dev"},
		{"diff a b c", "diff -- a b c"}, // counting comes later
		// A command's own flags.
		{"restore p --to dev", "restore --to=dev -- p"},
		{"restore --to dev p", "restore --to=dev -- p"},
		{"restore --to=dev p", "restore --to=dev -- p"},
		{"restore p --to=dev", "restore --to=dev -- p"},
		{"restore p --to=", "restore --to= -- p"},
		{"restore p --to=a=b", "restore --to=a=b -- p"},
		{"restore p --to -", "restore --to=- -- p"},
		{"restore - --to x", "restore --to=x -- -"},
		{"restore p -o dev", "restore --to=dev -- p"},
		{"restore p -odev", "restore --to=dev -- p"},
		{"restore p -o=dev", "restore --to=dev -- p"},
		{"restore p -o -5", "restore --to=-5 -- p"},
		{"restore p --to --strange", "restore --to=--strange -- p"},
		{"restore p --to=--repo", "restore --to=--repo -- p"},
		{"restore p --to é", "restore --to=é -- p"},
		{"restore p -oé", "restore --to=é -- p"},
		{"snapshot --full s", "snapshot --full -- s"},
		{"snapshot s --full", "snapshot --full -- s"},
		{"snapshot s --full=false", "snapshot --full=false -- s"},
		{"snapshot s --full x", "snapshot --full -- s x"}, // a bool takes no value
		{"snapshot s -fn", "snapshot --full --dry-run -- s"},
		{"snapshot s -fnt k=v", "snapshot --full --dry-run --tag=k=v -- s"},
		{"snapshot s -fntk=v", "snapshot --full --dry-run --tag=k=v -- s"},
		{"snapshot s -f=true", "snapshot --full=true -- s"},
		{"snapshot -t a s -t b", "snapshot --tag=a --tag=b -- s"},
		{"snapshot --level -3 s", "snapshot --level=-3 -- s"},
		{"snapshot --secret s", "snapshot --secret -- s"},
		// A value that may be left out stands only behind "=".
		{"snapshot --read-data s", "snapshot --read-data -- s"},
		{"snapshot s --read-data=5", "snapshot --read-data=5 -- s"},
		// Global flags, anywhere.
		{"--repo x list", "--repo=x list --"},
		{"list --repo x", "--repo=x list --"},
		{"list vol --repo=x", "--repo=x list -- vol"},
		{"list -r x vol", "--repo=x list -- vol"},
		{"list -rx vol", "--repo=x list -- vol"},
		{"-qr x list", "--quiet --repo=x list --"},
		{"cow --repo x dump dev", "--repo=x cow dump -- dev"},
		{"cow hints dev --json --format bitmap -v", "--json --verbose cow hints --format=bitmap -- dev"},
		{"--repo list list list", "--repo=list list -- list"},
		{"--repo a list --repo b", "--repo=a --repo=b list --"},
		{"snapshot -fqr x s", "--quiet --repo=x snapshot --full -- s"},
		// The end of flags.
		{"restore --to dev -- -p", "restore --to=dev -- -p"},
		{"restore -- --to", "restore -- --to"},
		{"restore p -- --help", "restore -- p --help"},
		{"diff -- -- a", "diff -- -- a"},
		{"-- list --json", "list -- --json"},
		{"diff – —", ""}, // dashes that are no hyphens
		{"diff -- – —", "diff -- – —"},
	}
	for _, tt := range tests {
		global, commands := testTree()
		inv, err := permute(global, commands, strings.Fields(tt.line))
		if tt.want == "" {
			if !errors.Is(err, blkbak.ErrUsage) {
				t.Errorf("%q: got %v, want a usage error", tt.line, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", tt.line, err)
			continue
		}
		if got := strings.Join(inv.argv()[1:], " "); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.line, got, tt.want)
		}
	}
}

// TestPermuteOrders puts the parts of a line in every order that keeps a flag
// with its value and arguments among themselves in order.
func TestPermuteOrders(t *testing.T) {
	global, commands := testTree()
	args := [][]string{{"one"}, {"two"}, {"-"}}
	flags := [][]string{{"--repo", "X"}, {"-fn"}, {"-t", "k=v"}, {"--read-data=5"}, {"--json"}}
	want := map[string]bool{}
	n := 0
	var build func(line []string, args, flags [][]string)
	build = func(line []string, args, flags [][]string) {
		if len(args)+len(flags) == 0 {
			inv, err := permute(global, commands, append([]string{"snapshot"}, line...))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if !slices.Equal(inv.args, []string{"one", "two", "-"}) {
				t.Fatalf("%q: arguments %q", line, inv.args)
			}
			slices.Sort(inv.local)
			slices.Sort(inv.global)
			want[strings.Join(append(inv.global, inv.local...), " ")] = true
			n++
			return
		}
		if len(args) > 0 {
			build(append(line[:len(line):len(line)], args[0]...), args[1:], flags)
		}
		for i, f := range flags {
			build(append(line[:len(line):len(line)], f...), args, slices.Delete(slices.Clone(flags), i, i+1))
		}
	}
	build(nil, args, flags)
	if n != 8*7*6*5*4 { // 8!/3!: the arguments keep their order
		t.Errorf("%d orders tried", n)
	}
	if len(want) != 1 || !want["--json --repo=X --dry-run --full --read-data=5 --tag=k=v"] {
		t.Errorf("orders differ: %v", want)
	}
}

func TestPermuteErrors(t *testing.T) {
	tests := []struct{ line, err, hint string }{
		{"lst", `unknown command "lst"`, "did you mean blkbak list?"},
		{"snapshto x", `unknown command "snapshto"`, "did you mean blkbak snapshot?"},
		{"__hiden", `unknown command "__hiden"`, "see blkbak help"},
		{"xyzzy", `unknown command "xyzzy"`, "see blkbak help"},
		{"cow dmup x", `cow: unknown command "dmup"`, "did you mean blkbak cow dump?"},
		{"cow xyzzy x", `cow: unknown command "xyzzy"`, "see blkbak help cow"},
		{"--ful snapshot x", "unknown flag --ful", "a command's own flags stand behind its name; see blkbak help"},
		{"snapshot x --ful", "snapshot: unknown flag --ful", "did you mean --full?"},
		{"snapshot x --secrt", "snapshot: unknown flag --secrt", "see blkbak help snapshot"},
		{"snapshot x --dryrun", "snapshot: unknown flag --dryrun", "did you mean --dry-run?"},
		{"snapshot x --jsn", "snapshot: unknown flag --jsn", "did you mean --json?"},
		{"snapshot x --full-text=1", "snapshot: unknown flag --full-text", "see blkbak help snapshot"},
		{"snapshot x -full", "snapshot: unknown flag -full", "long flags have two hyphens: --full"},
		{"snapshot x -repo=y", "snapshot: unknown flag -repo=y", "long flags have two hyphens: --repo=y"},
		{"snapshot x -z", "snapshot: unknown flag -z", "see blkbak help snapshot"},
		{"snapshot x -fz", "snapshot: unknown flag -z", "see blkbak help snapshot"},
		{"snapshot x -levle", "snapshot: unknown flag -levle", "did you mean --level?"},
		{"snapshot x --=v", "snapshot: unknown flag --", "see blkbak help snapshot"},
		{"snapshot x ---full", "snapshot: unknown flag ---full", "did you mean --full?"},
		{"restore p --to", "restore: --to needs a value: VALUE", ""},
		{"restore p -o", "restore: -o needs a value: VALUE", ""},
		{"list --repo", "list: --repo needs a value: URL", ""},
		{"restore p --to --json", "restore: --to needs a value, and --json is a flag", "write --to=--json if that is the value"},
		{"restore p --to -q", "restore: --to needs a value, and -q is a flag", "write --to=-q if that is the value"},
		{"restore p --to --repo=x", "restore: --to needs a value, and --repo=x is a flag", "write --to=--repo=x if that is the value"},
		{"restore p --to --", "restore: --to needs a value, and -- is a flag", "write --to=-- if that is the value"},
		{"snapshot –full x", `snapshot: "–full" begins with a dash that is no hyphen`, "type -- instead, or give it after a bare -- when it is meant so"},
	}
	for _, tt := range tests {
		global, commands := testTree()
		_, err := permute(global, commands, strings.Fields(tt.line))
		if !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%q: got %v, want a usage error", tt.line, err)
			continue
		}
		if err.Error() != tt.err || blkbak.Hint(err) != tt.hint {
			t.Errorf("%q: got %q, hint %q\nwant %q, hint %q", tt.line, err, blkbak.Hint(err), tt.err, tt.hint)
		}
	}
}

func TestPermuteHelp(t *testing.T) {
	for line, want := range map[string]string{
		"--help":                    "blkbak",
		"-h":                        "blkbak",
		"list --help":               "blkbak list",
		"list -h":                   "blkbak list",
		"cow -h":                    "blkbak cow",
		"cow hints --help --nosuch": "blkbak cow hints",
		"snapshot x -fh":            "blkbak snapshot",
		"restore --to --help":       "",
		"list -- --help":            "",
		"--version":                 "version",
	} {
		global, commands := testTree()
		inv, err := permute(global, commands, strings.Fields(line))
		got := ""
		switch {
		case err == nil && inv.help:
			got = fullName(inv.path)
		case err == nil && inv.version:
			got = "version"
		}
		if got != want {
			t.Errorf("%q: help on %q, want %q (%v)", line, got, want, err)
		}
	}
}

// FuzzPermute wants that no line is lost or made up: what comes out, taken apart
// again, is the same.
func FuzzPermute(f *testing.F) {
	for _, line := range []string{"list --repo x", "snapshot\nx\n-fn\n-t\nk", "cow\nhints\n--format=é\n--\n-x", "-", "--", "-\xff", "snapshot\n-f\xff"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		global, commands := testTree()
		inv, err := permute(global, commands, strings.Split(line, "\n"))
		if err != nil {
			if !errors.Is(err, blkbak.ErrUsage) {
				t.Fatalf("not a usage error: %v", err)
			}
			return
		}
		if inv.help || inv.version || len(inv.path) == 0 || len(leaf(inv.path).Subcommands) > 0 {
			return
		}
		again, err := permute(global, commands, inv.argv()[1:])
		if err != nil {
			t.Fatalf("%q: %v", inv.argv(), err)
		}
		if !slices.Equal(inv.argv(), again.argv()) {
			t.Fatalf("%q became %q", inv.argv(), again.argv())
		}
	})
}
