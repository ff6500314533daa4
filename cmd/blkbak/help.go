package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

const (
	tagline = "incremental images of block devices, each of them a whole disk"
	// columns is where help breaks its lines; authors of descriptions do likewise.
	columns = 80
)

func helpCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "help",
		Category:  groupOther,
		Usage:     "explain a command",
		ArgsUsage: "[COMMAND...]",
		Description: `
Shows what a command does, its flags, and examples. The same as the command
with --help.

Examples:
  blkbak help
  blkbak help cow dump`,
		Action: func(c *cli.Context) error {
			path, err := a.topic(c.Args().Slice())
			if err != nil {
				return err
			}
			return a.help(path)
		},
	}
}

// topic finds the command that words name.
func (a *app) topic(words []string) ([]*cli.Command, error) {
	var path []*cli.Command
	commands := a.tree
	for _, w := range words {
		c := find(commands, w)
		if c == nil {
			return nil, unknownCommand(path, commands, w)
		}
		path = append(path, c)
		commands = c.Subcommands
	}
	return path, nil
}

// help prints the page of a command, or of the program, on standard output.
func (a *app) help(path []*cli.Command) error {
	var b strings.Builder
	if len(path) == 0 {
		a.rootHelp(&b)
	} else {
		a.commandHelp(&b, path)
	}
	_, err := io.WriteString(a.stdout, b.String())
	return err
}

func (a *app) rootHelp(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n\n", programName, tagline)
	a.commandList(w, nil)
	fmt.Fprint(w, "\nFlags that every command has:\n")
	writeFlags(w, a.flags)
	fmt.Fprint(w, "\nFlags may stand before or after arguments; -- ends them.\n")
	fmt.Fprint(w, "\nExit codes:\n")
	for _, e := range exitCodes {
		fmt.Fprintf(w, "  %3d  %s\n", e.code, e.text)
	}
}

// commandList prints the usage line and the commands below path, in their groups.
func (a *app) commandList(w io.Writer, path []*cli.Command) {
	fmt.Fprintf(w, "usage: %s COMMAND [FLAG...] [ARGUMENT...]\n", fullName(path))
	commands := a.tree
	if len(path) > 0 {
		commands = leaf(path).Subcommands
	}
	widest := 0
	for _, c := range commands {
		if !c.Hidden {
			widest = max(widest, len(c.Name))
		}
	}
	group := "\x00"
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		if c.Category != group {
			group = c.Category
			title := group
			if title == "" {
				title = "Commands"
			}
			fmt.Fprintf(w, "\n%s:\n", title)
		}
		fmt.Fprintf(w, "  %-*s  %s\n", widest, c.Name, c.Usage)
	}
	fmt.Fprintf(w, "\n%s help%s COMMAND says more about one.\n", programName,
		strings.TrimPrefix(fullName(path), programName))
}

func (a *app) commandHelp(w io.Writer, path []*cli.Command) {
	c := leaf(path)
	if len(c.Subcommands) > 0 {
		fmt.Fprintf(w, "%s: %s\n\n", fullName(path), c.Usage)
		a.commandList(w, path)
	} else {
		for i, line := range synopsis(path) {
			lead := "usage: "
			if i > 0 {
				lead = "       "
			}
			fmt.Fprintln(w, lead+line)
		}
		fmt.Fprintf(w, "\n%s.\n", sentence(c.Usage))
	}
	if text := strings.TrimSpace(c.Description); text != "" {
		fmt.Fprintf(w, "\n%s\n", text)
	}
	if len(c.Flags) > 0 {
		fmt.Fprint(w, "\nFlags:\n")
		writeFlags(w, c.Flags)
	}
	var names []string
	for _, f := range a.flags {
		if !hidden(f) {
			names = append(names, "--"+f.Names()[0])
		}
	}
	text := strings.Join(names, ", ") + "; see " + programName + " help"
	fmt.Fprintf(w, "\nFlags that every command has:\n  %s\n", strings.Join(wrap(text, columns-2), "\n  "))
}

// writeFlags prints flags in two columns. The text of one whose label is too
// long for the first begins on a line of its own.
func writeFlags(w io.Writer, flags []cli.Flag) {
	const indent = 26
	for _, f := range flags {
		if hidden(f) {
			continue
		}
		label := flagLabel(f)
		if !strings.HasPrefix(label, "-") || strings.HasPrefix(label, "--") {
			label = "    " + label // where a short name would stand
		}
		line := "  " + label
		if len(line) > indent-2 {
			fmt.Fprintln(w, line)
			line = ""
		}
		for _, text := range wrap(flagText(f), columns-indent) {
			fmt.Fprintf(w, "%-*s%s\n", indent, line, text)
			line = ""
		}
	}
}

// wrap breaks text into lines of at most n characters where words allow it.
func wrap(text string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case width(line)+1+width(word) <= n:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}

// sentence begins s with a capital letter.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
