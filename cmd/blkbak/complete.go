package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// completeCommand answers the shells. It is told the words of the line so far,
// the last being the one to complete, and prints what else the shell should
// offer ("none", "files" or "dirs"), then a candidate a line, each followed by
// a tab and what it means.
func completeCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "__complete",
		Usage:     "what could follow on a command line",
		ArgsUsage: "[WORD...]",
		Hidden:    true,
		Action: func(c *cli.Context) error {
			words := c.Args().Slice()
			if len(words) == 0 {
				words = []string{""}
			}
			offer := a.complete(c.Context, words[:len(words)-1], words[len(words)-1])
			return a.print(offer, func(w io.Writer) {
				fmt.Fprintln(w, offer.Paths)
				for _, cand := range offer.Words {
					fmt.Fprintf(w, "%s\t%s\n", printable(cand.Word), printable(cand.Text))
				}
			})
		},
	}
}

// offer is what may stand at one place of a command line.
type offer struct {
	Paths string      `json:"paths"` // "none", "files", "dirs"
	Words []candidate `json:"words"`
}

type candidate struct {
	Word string `json:"word"`
	Text string `json:"text"`
}

// complete says what word may become after the words before it. Where those
// make no sense it offers nothing.
func (a *app) complete(ctx context.Context, before []string, word string) offer {
	o := offer{Paths: "none", Words: []candidate{}}
	p := parser{global: flagTable(a.flags), commands: a.tree, rest: before, inv: &invocation{}}
	err := p.parse()
	switch {
	case p.pending != nil:
		a.offerValue(ctx, &o, p.pending, word, "")
	case err != nil || p.inv.help || p.inv.version:
	case !p.ended && strings.HasPrefix(word, "--") && strings.Contains(word, "="):
		name, value, _ := strings.Cut(word, "=")
		if f := p.lookup(name[2:]); f != nil {
			a.offerValue(ctx, &o, f, value, name+"=")
		}
	case !p.ended && strings.HasPrefix(word, "-"):
		a.offerFlags(&o, &p, word)
	case len(p.commands) > 0:
		offerCommands(&o, p.commands, word)
	default:
		ops := operands(leaf(p.inv.path).ArgsUsage)
		if op, ok := operandAt(ops, len(p.inv.args)); ok {
			a.offerOperand(ctx, &o, op, p.inv.args, word)
		}
	}
	return o
}

func (o *offer) add(word, text, prefix string) {
	if strings.HasPrefix(word, prefix) {
		o.Words = append(o.Words, candidate{word, text})
	}
}

func offerCommands(o *offer, commands []*cli.Command, word string) {
	for _, c := range commands {
		if !c.Hidden {
			o.add(c.Name, c.Usage, word)
		}
	}
}

func (a *app) offerFlags(o *offer, p *parser, word string) {
	var own []cli.Flag
	if len(p.inv.path) > 0 {
		own = leaf(p.inv.path).Flags
	}
	for _, flags := range [][]cli.Flag{own, a.flags} {
		for _, f := range flags {
			if hidden(f) {
				continue
			}
			// One name is enough: the long one, or the short if that is being typed.
			for _, n := range f.Names() {
				if shown := "-" + n; len(n) == 1 && word == shown {
					o.add(shown, flagText(f), word)
				} else if len(n) > 1 {
					o.add("--"+n, flagText(f), word)
				}
			}
		}
	}
}

// offerValue completes the value of f; lead is what the word has before it.
func (a *app) offerValue(ctx context.Context, o *offer, f cli.Flag, value, lead string) {
	if g, ok := f.(*cli.GenericFlag); ok {
		if c, ok := g.Value.(*choiceValue); ok {
			for _, w := range c.words {
				o.add(lead+w, "", lead+value)
			}
			return
		}
	}
	if mayTakeValue(f) {
		a.offerNamed(ctx, o, placeholder(f), value, lead)
	}
}

func (a *app) offerOperand(ctx context.Context, o *offer, op operand, args []string, word string) {
	if words := op.choices(); words != nil {
		for _, w := range words {
			o.add(w, "", word)
		}
		return
	}
	if op.name == "COMMAND" {
		commands := a.tree
		if path, err := a.topic(args); err != nil {
			return
		} else if len(path) > 0 {
			commands = leaf(path).Subcommands
		}
		offerCommands(o, commands, word)
		return
	}
	a.offerNamed(ctx, o, op.name, word, "")
}

// offerNamed completes by the name that ArgsUsage or a flag's usage gives to a
// value: files unless the name says better.
func (a *app) offerNamed(ctx context.Context, o *offer, name, value, lead string) {
	for _, part := range strings.Split(name, "|") {
		switch part {
		case "POINT", "VOLUME":
			if a.points != nil && len(o.Words) == 0 {
				for _, w := range a.points(ctx, value) {
					o.add(lead+w, "", lead+value)
				}
			}
		case "DIR", "REPO", "URL":
			if o.Paths == "none" {
				o.Paths = "dirs"
			}
		case "FILE", "IMAGE", "DEV", "DEVICE", "SOURCE", "TARGET", "PATH", "SAMPLE", "COW":
			o.Paths = "files"
		}
	}
}
