package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
)

// globals is what the flags say that every command has.
type globals struct {
	repo     string // as given; "" means the default directory
	stateDir string // as given
	json     bool
	quiet    bool
	verbose  bool
	progress string
}

// These two end the parse where they stand.
var (
	helpFlag    = &cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show help and exit"}
	versionFlag = &cli.BoolFlag{Name: "version", Usage: "show the version and exit"}
)

func (g *globals) flags() []cli.Flag {
	g.progress = "auto"
	return []cli.Flag{
		envFlag("BLKBAK_REPO", textFlag(&g.repo, "repo",
			"the repository: a directory or `URL`. Default "+systemDir+" as root, else $XDG_DATA_HOME/blkbak", "r")),
		envFlag("BLKBAK_STATE_DIR", textFlag(&g.stateDir, "state-dir",
			"`DIR` for what is kept between runs. Default "+systemDir+"/state as root, else $XDG_STATE_HOME/blkbak")),
		&cli.BoolFlag{Name: "json", Destination: &g.json, Usage: "print one JSON document"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Destination: &g.quiet, Usage: "print errors only"},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Destination: &g.verbose, Usage: "say what is being done"},
		choiceFlag(&g.progress, "progress", "show progress as `MODE`: auto is a bar on a terminal and else nothing; bar, json (a line each second), none",
			"auto", "bar", "json", "none"),
		helpFlag,
		versionFlag,
	}
}

func (g *globals) validate() error {
	if g.quiet && g.verbose {
		return usagef("--quiet and --verbose contradict each other")
	}
	return nil
}

func (g *globals) level() slog.Level {
	switch {
	case g.quiet:
		return slog.LevelError
	case g.verbose:
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// systemDir is where root keeps everything unless told otherwise.
const systemDir = "/var/lib/blkbak"

// repository is the repository to use. isDefault tells that nobody named it: it
// may be made on first use then, while any other must exist.
func (g *globals) repository() (path string, isDefault bool, err error) {
	if g.repo != "" {
		return g.repo, false, nil
	}
	path, err = defaultDir(os.Geteuid(), os.Getenv, systemDir, "XDG_DATA_HOME", ".local/share")
	if err != nil {
		return "", false, hintf(err, "name the repository with --repo or BLKBAK_REPO")
	}
	return path, true, nil
}

// state is the directory for what is kept between runs.
func (g *globals) state() (string, error) {
	if g.stateDir != "" {
		return g.stateDir, nil
	}
	dir, err := defaultDir(os.Geteuid(), os.Getenv, systemDir+"/state", "XDG_STATE_HOME", ".local/state")
	return dir, hintf(err, "name the directory with --state-dir or BLKBAK_STATE_DIR")
}

// defaultDir follows the XDG base directory specification for anyone but root.
// As it asks, a relative path in the variable is ignored.
func defaultDir(euid int, getenv func(string) string, system, variable, underHome string) (string, error) {
	if euid == 0 {
		return system, nil
	}
	if base := getenv(variable); filepath.IsAbs(base) {
		return filepath.Join(base, programName), nil
	}
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", fmt.Errorf("neither $%s nor $HOME is an absolute path", variable)
	}
	return filepath.Join(home, underHome, programName), nil
}
