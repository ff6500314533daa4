package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// manCommand is for packagers: the page is made of the command tree.
func manCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:   "man",
		Usage:  "print the manual page blkbak(1)",
		Hidden: true,
		Description: `
Examples:
  blkbak man > /usr/local/share/man/man1/blkbak.1
  blkbak man | man -l -`,
		Action: func(*cli.Context) error {
			var b strings.Builder
			a.manual(&b)
			_, err := io.WriteString(a.stdout, b.String())
			return err
		},
	}
}

// manual writes the page in the man(7) macros.
func (a *app) manual(w io.Writer) {
	b := currentBuild()
	fmt.Fprintf(w, ".TH BLKBAK 1 %s %s \"User Commands\"\n", quoteRoff(b.day()), quoteRoff(programName+" "+b.Version))
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", programName, roff(tagline))
	fmt.Fprintf(w, ".SH SYNOPSIS\n.B %s\n.I COMMAND\n[\\fIFLAG\\fR...] [\\fIARGUMENT\\fR...]\n", programName)
	fmt.Fprint(w, ".SH DESCRIPTION\nFlags may stand before or after arguments;\n.B \\-\\-\nends them.\n",
		"Those of every command may also stand before the command.\n")
	fmt.Fprint(w, ".SH COMMANDS\n")
	walk(nil, a.tree, func(path []*cli.Command) {
		for _, c := range path {
			if c.Hidden {
				return
			}
		}
		manCommandSection(w, path)
	})
	fmt.Fprint(w, ".SH \"FLAGS OF EVERY COMMAND\"\n")
	manFlags(w, a.flags)
	fmt.Fprint(w, ".SH \"EXIT STATUS\"\n")
	for _, e := range exitCodes {
		fmt.Fprintf(w, ".TP\n.B %d\n%s\n", e.code, roff(e.text))
	}
}

func manCommandSection(w io.Writer, path []*cli.Command) {
	c := leaf(path)
	fmt.Fprintf(w, ".SS %s\n", quoteRoff(fullName(path)))
	if len(c.Subcommands) == 0 {
		fmt.Fprint(w, ".nf\n")
		for _, line := range synopsis(path) {
			fmt.Fprintf(w, "\\fB%s\\fR\n", roff(line))
		}
		fmt.Fprint(w, ".fi\n.PP\n")
	}
	fmt.Fprintf(w, "%s.\n.PP\n", roff(sentence(c.Usage)))
	manText(w, c.Description)
	manFlags(w, c.Flags)
}

// manText sets a description: paragraphs are filled, indented lines are not.
func manText(w io.Writer, text string) {
	literal := false
	for line := range strings.Lines(strings.TrimSpace(text)) {
		line = strings.TrimRight(line, " \n")
		indented := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
		switch {
		case line == "" && !literal:
			fmt.Fprint(w, ".PP\n")
			continue
		case indented && !literal:
			fmt.Fprint(w, ".PP\n.RS 4\n.nf\n")
			literal = true
		case !indented && literal:
			fmt.Fprint(w, ".fi\n.RE\n.PP\n")
			literal = false
			if line == "" {
				continue
			}
		}
		fmt.Fprintln(w, roff(strings.TrimPrefix(line, "  ")))
	}
	if literal {
		fmt.Fprint(w, ".fi\n.RE\n")
	}
}

func manFlags(w io.Writer, flags []cli.Flag) {
	for _, f := range flags {
		if !hidden(f) {
			fmt.Fprintf(w, ".TP\n\\fB%s\\fR\n", roff(flagLabel(f)))
			for _, line := range wrap(sentence(flagText(f)), 72) {
				fmt.Fprintln(w, roff(line))
			}
		}
	}
}

// roff makes text safe for troff: no character of it is a request or an escape,
// and hyphens are those that one can paste into a shell.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\(rs`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "\n", " ").Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

// quoteRoff makes s one argument of a request.
func quoteRoff(s string) string { return `"` + strings.ReplaceAll(roff(s), `"`, `\(dq`) + `"` }
