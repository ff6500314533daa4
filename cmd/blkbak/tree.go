package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// This file answers questions about the command tree: what permute, help, the
// manual page and completion all ask.

// leaf is the innermost command of path; of an empty path, a stand-in for the
// root that has subcommands.
func leaf(path []*cli.Command) *cli.Command {
	if len(path) == 0 {
		return &cli.Command{Name: programName, Subcommands: []*cli.Command{{}}}
	}
	return path[len(path)-1]
}

// find returns the command of that name, or nil.
func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// walk calls fn for every command below path, parents first.
func walk(path, commands []*cli.Command, fn func(path []*cli.Command)) {
	for _, c := range commands {
		p := append(path[:len(path):len(path)], c)
		fn(p)
		walk(p, c.Subcommands, fn)
	}
}

// fullName is how a command is called: "blkbak cow dump".
func fullName(path []*cli.Command) string {
	words := []string{programName}
	for _, c := range path {
		words = append(words, c.Name)
	}
	return strings.Join(words, " ")
}

// where begins an error about the command: "cow dump: ", and nothing for the root.
func where(path []*cli.Command) string {
	if len(path) == 0 {
		return ""
	}
	return strings.TrimPrefix(fullName(path), programName+" ") + ": "
}

// synopsis is the line, or the lines, that show how a command is called. A
// command with flags that it cannot do without gives its own UsageText, without
// the command's name, one line for each form.
func synopsis(path []*cli.Command) []string {
	c := leaf(path)
	text := c.UsageText
	if text == "" {
		text = c.ArgsUsage
		if len(c.Subcommands) > 0 {
			text = "COMMAND"
		}
		for _, f := range c.Flags {
			if !hidden(f) {
				text = strings.TrimSpace("[FLAG...] " + text)
				break
			}
		}
	}
	var lines []string
	for line := range strings.Lines(text + "\n") {
		lines = append(lines, strings.TrimSpace(fullName(path)+" "+strings.TrimSpace(line)))
	}
	return lines
}

// flagTable finds flags by any of their names.
func flagTable(flags []cli.Flag) map[string]cli.Flag {
	table := make(map[string]cli.Flag)
	for _, f := range flags {
		for _, name := range f.Names() {
			table[name] = f
		}
	}
	return table
}

// takesValue tells whether f needs a value. One that may do without has a value
// with an IsBoolFlag method, as in package flag, and takes one only behind "=".
func takesValue(f cli.Flag) bool {
	switch f := f.(type) {
	case *cli.BoolFlag:
		return false
	case *cli.GenericFlag:
		b, ok := f.Value.(interface{ IsBoolFlag() bool })
		return !ok || !b.IsBoolFlag()
	}
	return true
}

// mayTakeValue tells whether f accepts a value behind "=" that says something.
func mayTakeValue(f cli.Flag) bool {
	_, isBool := f.(*cli.BoolFlag)
	return !isBool
}

func hidden(f cli.Flag) bool {
	v, ok := f.(cli.VisibleFlag)
	return ok && !v.IsVisible()
}

// placeholder is the name of f's value in help: the part of its usage between
// backquotes, or VALUE.
func placeholder(f cli.Flag) string {
	name, _ := usageOf(f)
	return name
}

// usageOf splits a flag's usage text into the name of its value and the text
// without backquotes.
func usageOf(f cli.Flag) (value, text string) {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return "VALUE", ""
	}
	text = d.GetUsage()
	before, rest, ok1 := strings.Cut(text, "`")
	name, after, ok2 := strings.Cut(rest, "`")
	if !ok1 || !ok2 {
		return "VALUE", text
	}
	return name, before + name + after
}

// flagLabel is how help and the manual show a flag: "-r, --repo URL".
func flagLabel(f cli.Flag) string {
	var short, long []string
	for _, n := range f.Names() {
		if len(n) == 1 {
			short = append(short, "-"+n)
		} else {
			long = append(long, "--"+n)
		}
	}
	label := strings.Join(append(short, long...), ", ")
	switch {
	case takesValue(f):
		label += " " + placeholder(f)
	case mayTakeValue(f):
		label += "[=" + placeholder(f) + "]"
	}
	return label
}

// flagText is what help and the manual say about a flag.
func flagText(f cli.Flag) string {
	_, text := usageOf(f)
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return text
	}
	if mayTakeValue(f) {
		switch def := strings.Trim(d.GetDefaultText(), `"`); def {
		case "", "0", "0s", "[]":
		default:
			text += " (default " + def + ")"
		}
	}
	if env := d.GetEnvVars(); len(env) > 0 {
		text += " [$" + strings.Join(env, ", $") + "]"
	}
	return text
}
