package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
)

// The exit codes, as help and the manual page list them.
const (
	exitDone        = 0
	exitOther       = 1
	exitUsage       = 2
	exitWarnings    = 3
	exitCorrupt     = 4
	exitBusy        = 5
	exitNotFound    = 6
	exitNeedsFull   = 7
	exitInterrupted = 130
)

var exitCodes = []struct {
	code int
	text string
}{
	{exitDone, "done"},
	{exitOther, "an error that none of the others names"},
	{exitUsage, "the command line makes no sense as written"},
	{exitWarnings, "done, with warnings"},
	{exitCorrupt, "stored or foreign bytes are not what they must be"},
	{exitBusy, "another process holds what is needed; try later"},
	{exitNotFound, "what was named does not exist"},
	{exitNeedsFull, "only reading everything can give a right result"},
	{exitInterrupted, "ended by a signal"},
}

// exitCode maps an error to its code. Where several kinds are joined the most
// telling one wins: damage that was found is reported although the search was
// then called off.
func exitCode(err error) int {
	var w warnings
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, blkbak.ErrUsage):
		return exitUsage
	case errors.Is(err, blkbak.ErrNeedsFull):
		return exitNeedsFull
	case errors.Is(err, blkbak.ErrCorrupt):
		return exitCorrupt
	case errors.Is(err, blkbak.ErrBusy):
		return exitBusy
	case errors.Is(err, blkbak.ErrNotFound):
		return exitNotFound
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &w):
		return exitWarnings
	}
	return exitOther
}

// warnings is the error of a command that did its work and has something to
// say about it.
type warnings []string

func (w warnings) Error() string { return strings.Join(w, "; ") }

// usageError is a request that makes no sense as written. Unlike an error
// wrapped around blkbak.ErrUsage it does not say so in its text.
type usageError struct{ msg string }

func (e *usageError) Error() string        { return e.msg }
func (e *usageError) Is(target error) bool { return target == blkbak.ErrUsage }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

func hintf(err error, format string, args ...any) error {
	return blkbak.WithHint(err, format, args...)
}

// valueError turns what package flag says about a value into our words.
func valueError(c *cli.Context, err error, _ bool) error {
	msg := strings.Replace(err.Error(), " for flag -", " for --", 1)
	msg = strings.Replace(msg, " for -", " for --", 1) // of a boolean
	msg = strings.Replace(msg, "for ---", "for --", 1)
	name := c.Command.HelpName // "blkbak cow dump"
	if short, ok := strings.CutPrefix(name, programName+" "); ok {
		msg = short + ": " + msg
	}
	return hintf(usagef("%s", msg), "see %s --help", name)
}

// report prints err, if it is one, and returns the exit code.
func (a *app) report(err error) int {
	code := exitCode(err)
	if code != exitDone {
		writeError(a.stderr, err, code, a.global.json)
	}
	return code
}

func writeError(w io.Writer, err error, code int, asJSON bool) {
	if asJSON {
		var doc struct {
			Error struct {
				Code    int    `json:"code"`
				Message string `json:"message"`
				Hint    string `json:"hint"`
			} `json:"error"`
		}
		doc.Error.Code, doc.Error.Message, doc.Error.Hint = code, err.Error(), blkbak.Hint(err)
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.Encode(doc) // nowhere to report that standard error is gone
		return
	}
	var list warnings
	if code == exitWarnings && errors.As(err, &list) {
		for _, msg := range list {
			fmt.Fprintf(w, "%s: warning: %s\n", programName, printable(msg))
		}
	} else {
		fmt.Fprintf(w, "%s: error: %s\n", programName, printable(err.Error()))
	}
	if hint := blkbak.Hint(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", printable(hint))
	}
}
