package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// operand is one argument of a command's ArgsUsage.
type operand struct {
	name     string // "POINT", "VOLUME", "bash|zsh|fish"
	optional bool
	repeated bool
}

// operands reads an ArgsUsage: NAME, NAME..., [NAME], [NAME...].
func operands(argsUsage string) []operand {
	var ops []operand
	for _, word := range strings.Fields(argsUsage) {
		var op operand
		word, op.repeated = strings.CutSuffix(word, "...")
		if inner, ok := strings.CutPrefix(word, "["); ok {
			op.optional = true
			word = strings.TrimSuffix(inner, "]")
		}
		if inner, ok := strings.CutSuffix(word, "..."); ok {
			op.repeated, word = true, inner
		}
		op.name = word
		ops = append(ops, op)
	}
	return ops
}

// choices are the words that the operand may be, nil when it is free.
func (op operand) choices() []string {
	if op.name != strings.ToLower(op.name) {
		return nil
	}
	return strings.Split(op.name, "|")
}

// operandAt is the operand that argument number i would be.
func operandAt(ops []operand, i int) (operand, bool) {
	switch {
	case i < len(ops):
		return ops[i], true
	case len(ops) > 0 && ops[len(ops)-1].repeated:
		return ops[len(ops)-1], true
	}
	return operand{}, false
}

// checkArgs compares args with what the innermost command's ArgsUsage allows.
func checkArgs(path []*cli.Command, args []string) error {
	ops := operands(leaf(path).ArgsUsage)
	for i, op := range ops {
		if !op.optional && i >= len(args) {
			return seeUsage(usagef("%sno %s given", where(path), op.name), path)
		}
	}
	for i, arg := range args {
		op, ok := operandAt(ops, i)
		if !ok {
			return seeUsage(usagef("%sunexpected argument %q", where(path), arg), path)
		}
		if words := op.choices(); words != nil && !slices.Contains(words, arg) {
			err := usagef("%s%q is none of %s", where(path), arg, strings.Join(words, ", "))
			if best := nearest(arg, words); best != "" {
				return hintf(err, "did you mean %s?", best)
			}
			return seeUsage(err, path)
		}
		if arg == "" && !leaf(path).Hidden { // a shell may well ask us to complete nothing
			return seeUsage(usagef("%s%s is empty", where(path), op.name), path)
		}
	}
	return nil
}

// seeUsage adds the command's synopsis as the hint.
func seeUsage(err error, path []*cli.Command) error {
	return hintf(err, "usage: %s", strings.Join(synopsis(path), " | "))
}

// seeHelp points to the place where more is said.
func seeHelp(path []*cli.Command) string {
	if len(path) == 0 {
		return "see " + programName + " help"
	}
	return "see " + programName + " help" + strings.TrimPrefix(fullName(path), programName)
}

// need returns a usage error unless each of the named flags was given, or came
// from the environment. It stands in for Required, which urfave/cli checks in a
// way that goes round the usage errors.
func need(c *cli.Context, flags ...string) error {
	for _, name := range flags {
		if !c.IsSet(name) {
			err := usagef("%s: no --%s given", strings.TrimPrefix(c.Command.HelpName, programName+" "), name)
			return hintf(err, "see %s --help", c.Command.HelpName)
		}
	}
	return nil
}
