package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

const programName = "blkbak"

// invocation is a command line taken apart.
type invocation struct {
	path   []*cli.Command // from the root's own command to the innermost
	global []string       // flags of the root as --name or --name=value
	local  []string       // flags of the innermost command, likewise
	args   []string

	help, version bool // asked for by flag: nothing else matters then
}

// argv is the line in the one order that urfave/cli understands.
func (inv *invocation) argv() []string {
	argv := append([]string{programName}, inv.global...)
	for _, c := range inv.path {
		argv = append(argv, c.Name)
	}
	argv = append(argv, inv.local...)
	argv = append(argv, "--")
	return append(argv, inv.args...)
}

// permute takes words apart. urfave/cli stops at the first argument, so that
// `restore POINT --to DEV` would leave --to empty without an error; here flags
// may stand anywhere up to `--`. Whether one takes a value is looked up in its
// definition. Global flags go with any command, a command's own stand behind
// its name. Unknown commands and flags, and flags without their value, are
// usage errors with a suggestion.
func permute(global []cli.Flag, commands []*cli.Command, words []string) (*invocation, error) {
	p := parser{global: flagTable(global), commands: commands, rest: words, inv: &invocation{}}
	err := p.parse()
	return p.inv, err
}

// parser is the state of permute. Completion uses it too, on lines that end in
// the middle.
type parser struct {
	global, local map[string]cli.Flag
	commands      []*cli.Command // what the next argument may name; empty below a leaf
	rest          []string       // words not looked at yet
	inv           *invocation

	ended   bool     // `--` has been seen
	pending cli.Flag // the flag whose value the line ended before
}

func (p *parser) parse() error {
	for len(p.rest) > 0 && !p.inv.help && !p.inv.version {
		word := p.rest[0]
		p.rest = p.rest[1:]
		if err := p.word(word); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) word(word string) error {
	switch {
	case p.ended || word == "-" || word == "":
		return p.argument(word)
	case word == "--":
		p.ended = true
		return nil
	case strings.HasPrefix(word, "--"):
		name, value, hasValue := strings.Cut(word[2:], "=")
		return p.flag("--"+name, name, value, hasValue)
	case word[0] == '-':
		return p.short(word)
	}
	if r := []rune(word)[0]; r == '–' || r == '—' {
		// What word processors and web pages make of two hyphens.
		err := usagef("%s%q begins with a dash that is no hyphen", where(p.inv.path), word)
		return hintf(err, "type -- instead, or give it after a bare -- when it is meant so")
	}
	return p.argument(word)
}

// short handles -f, -fVALUE, -f=VALUE, -f VALUE and bundles of them.
func (p *parser) short(word string) error {
	name, _, _ := strings.Cut(word[1:], "=")
	if len(name) > 1 && p.lookup(name) != nil {
		err := usagef("%sunknown flag %s", where(p.inv.path), word)
		return hintf(err, "long flags have two hyphens: --%s", word[1:])
	}
	letters := []rune(word[1:])
	for i, r := range letters {
		letter, tail := string(r), string(letters[i+1:])
		f := p.lookup(letter)
		if f != nil && takesValue(f) && tail != "" {
			return p.flag("-"+letter, letter, strings.TrimPrefix(tail, "="), true)
		}
		if value, ok := strings.CutPrefix(tail, "="); ok {
			return p.flag("-"+letter, letter, value, true)
		}
		if f == nil && i == 0 && len(letters) > 1 {
			return p.unknownFlag(word, name) // more likely a long one than a bundle
		}
		if err := p.flag("-"+letter, letter, "", false); err != nil || p.inv.help {
			return err
		}
	}
	return nil
}

// flag records one flag, shown is how it was typed.
func (p *parser) flag(shown, name, value string, hasValue bool) error {
	f := p.lookup(name)
	switch {
	case f == nil:
		return p.unknownFlag(shown, name)
	case f == helpFlag:
		p.inv.help = true
		return nil
	case f == versionFlag:
		p.inv.version = true
		return nil
	case !hasValue && takesValue(f):
		if len(p.rest) == 0 {
			p.pending = f
			return usagef("%s%s needs a value: %s", where(p.inv.path), shown, placeholder(f))
		}
		value, hasValue = p.rest[0], true
		if p.looksLikeFlag(value) {
			err := usagef("%s%s needs a value, and %s is a flag", where(p.inv.path), shown, value)
			return hintf(err, "write --%s=%s if that is the value", f.Names()[0], value)
		}
		p.rest = p.rest[1:]
	}
	out := "--" + f.Names()[0]
	if hasValue {
		out += "=" + value
	}
	if p.local[name] != nil {
		p.inv.local = append(p.inv.local, out)
	} else {
		p.inv.global = append(p.inv.global, out)
	}
	return nil
}

// argument takes a word that is no flag: a command's name for as long as there
// is one to choose, then an argument.
func (p *parser) argument(word string) error {
	if len(p.commands) == 0 {
		p.inv.args = append(p.inv.args, word)
		return nil
	}
	c := find(p.commands, word)
	if c == nil {
		return unknownCommand(p.inv.path, p.commands, word)
	}
	p.inv.path = append(p.inv.path, c)
	p.commands = c.Subcommands
	p.local = flagTable(c.Flags)
	return nil
}

func (p *parser) lookup(name string) cli.Flag {
	if f := p.local[name]; f != nil {
		return f
	}
	return p.global[name]
}

// looksLikeFlag tells whether word is `--` or a flag known here. Other words
// that begin with a hyphen may well be values.
func (p *parser) looksLikeFlag(word string) bool {
	if word == "--" {
		return true
	}
	name, _, _ := strings.Cut(word, "=")
	long, ok := strings.CutPrefix(name, "--")
	if ok {
		return len(long) > 1 && p.lookup(long) != nil
	}
	return len(name) == 2 && name[0] == '-' && p.lookup(name[1:]) != nil
}

func (p *parser) unknownFlag(shown, name string) error {
	var known []string
	for _, table := range []map[string]cli.Flag{p.local, p.global} {
		for n, f := range table {
			if len(n) > 1 && !hidden(f) {
				known = append(known, n)
			}
		}
	}
	slices.Sort(known)
	err := usagef("%sunknown flag %s", where(p.inv.path), shown)
	if best := nearest(name, known); best != "" {
		return hintf(err, "did you mean --%s?", best)
	}
	if len(p.inv.path) == 0 {
		return hintf(err, "a command's own flags stand behind its name; %s", seeHelp(nil))
	}
	return hintf(err, "%s", seeHelp(p.inv.path))
}

func unknownCommand(path, commands []*cli.Command, word string) error {
	var known []string
	for _, c := range commands {
		if !c.Hidden {
			known = append(known, c.Names()...)
		}
	}
	err := usagef("%sunknown command %q", where(path), word)
	if best := nearest(word, known); best != "" {
		return hintf(err, "did you mean %s %s?", fullName(path), best)
	}
	return hintf(err, "%s", seeHelp(path))
}

// wantsJSON looks for --json where nothing could be parsed.
func wantsJSON(words []string) bool {
	for _, w := range words {
		switch w {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}
