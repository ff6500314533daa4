package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/urfave/cli/v2"
)

// app is one execution of the program: its streams, what the global flags said,
// and the command tree. Commands are closures over it.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr *screen
	now    func() time.Time
	global globals
	log    *slog.Logger // narration; set before any command runs

	flags []cli.Flag     // the global ones
	tree  []*cli.Command // every command, in the order in which help shows them

	// points names the restore points and volumes that begin with prefix, for
	// completion; nil while nothing can be named.
	points func(ctx context.Context, prefix string) []string
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	a := &app{stdin: stdin, stdout: stdout, stderr: newScreen(stderr), now: time.Now}
	a.log = slog.New(newNarrator(a.stderr, slog.LevelWarn))
	a.flags = a.global.flags()
	a.points = a.namePoints
	a.tree = a.commands()
	return a
}

// The groups of the command list, in the order in which it shows them.
const (
	groupMain       = "Restore points"
	groupRepository = "The repository"
	groupSource     = "Where changes come from"
	groupOther      = "Other"
)

// commands lists every command. Each has a file of its own; those of one group
// stand together.
func (a *app) commands() []*cli.Command {
	return []*cli.Command{
		snapshotCommand(a),
		listCommand(a),
		showCommand(a),
		diffCommand(a),
		rootCommand(a),
		restoreCommand(a),
		serveCommand(a),
		initCommand(a),
		checkCommand(a),
		repairCommand(a),
		cowCommand(a),
		completionCommand(a),
		versionCommand(a),
		helpCommand(a),
		manCommand(a),
		completeCommand(a),
	}
}

// run executes a command line, given without the program's name.
func (a *app) run(ctx context.Context, args []string) error {
	inv, err := permute(a.flags, a.tree, args)
	if err != nil {
		a.global.json = wantsJSON(args) // nothing has parsed it, and the error needs it
		return err
	}
	if inv.version {
		inv.path = []*cli.Command{find(a.tree, "version")}
	}
	switch {
	case inv.help:
		return a.help(inv.path)
	case len(leaf(inv.path).Subcommands) > 0:
		a.global.json = wantsJSON(args)
		if !a.global.json {
			a.commandList(a.stderr, inv.path)
			io.WriteString(a.stderr, "\n")
		}
		return usagef("%sno command given", where(inv.path))
	}
	if err := checkArgs(inv.path, inv.args); err != nil {
		a.global.json = wantsJSON(args)
		return err
	}
	return a.cli().RunContext(ctx, inv.argv())
}

// cli builds the parser of flag values. It gets every line in canonical order
// and with known flags only, and neither prints nor exits.
func (a *app) cli() *cli.App {
	app := &cli.App{
		Name:                      programName,
		Flags:                     a.flags,
		Commands:                  a.tree,
		Before:                    a.before,
		HideHelp:                  true,
		HideVersion:               true,
		DisableSliceFlagSeparator: true, // a tag's value may have commas
		Reader:                    a.stdin,
		Writer:                    a.stdout,
		ErrWriter:                 a.stderr,
		OnUsageError:              valueError,
		ExitErrHandler:            func(*cli.Context, error) {},
	}
	walk(nil, a.tree, func(path []*cli.Command) {
		leaf(path).HideHelp = true
		leaf(path).OnUsageError = valueError
	})
	return app
}

// before runs once the global flags are known.
func (a *app) before(*cli.Context) error {
	if err := a.global.validate(); err != nil {
		return err
	}
	a.log = slog.New(newNarrator(a.stderr, a.global.level()))
	return nil
}
