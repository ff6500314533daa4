package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"blkbak":       main,
		"blkbak-waits": mainThatWaits,
		"damage":       damage,
		"roots-equal":  rootsEqual,
	})
}

// TestScripts runs testdata/script. Besides what testscript has there is
//
//	exits CODE PROGRAM ARG...
//
// for the exact exit code; stdout and stderr look at its output as after exec.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("BLKBAK_REPO", "")
			e.Setenv("BLKBAK_STATE_DIR", "")
			return cowFiles(e.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		got = failed.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// mainThatWaits is main with one command more, which says "waiting" and waits
// for the context, and with --stuck goes on after that.
func mainThatWaits() {
	ctx, stop := signalContext(context.Background())
	a := newApp(os.Stdin, os.Stdout, os.Stderr)
	var stuck bool
	a.tree = append(a.tree, &cli.Command{
		Name:  "wait",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "stuck", Destination: &stuck}},
		Action: func(c *cli.Context) error {
			fmt.Fprintln(a.stdout, "waiting")
			p := a.Progress("wait", 0)
			defer p.Done()
			<-c.Context.Done()
			if stuck {
				fmt.Fprintln(a.stdout, "stuck")
				time.Sleep(time.Minute)
			}
			return fmt.Errorf("wait: %w", c.Context.Err())
		},
	})
	code := a.report(a.run(ctx, os.Args[1:]))
	stop()
	os.Exit(code)
}

// damage changes a byte in the middle of the first file of a directory.
func damage() {
	files, err := os.ReadDir(os.Args[1])
	if err == nil && len(files) > 0 {
		name := filepath.Join(os.Args[1], files[0].Name())
		var b []byte
		if b, err = os.ReadFile(name); err == nil {
			b[len(b)/2] ^= 0x40
			err = os.WriteFile(name, b, 0o600)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// rootsEqual tells whether the text of the first file, a root, is what a line
// "root NAME" of the second says.
func rootsEqual() {
	root, err := os.ReadFile(os.Args[1])
	if err != nil || len(root) != 65 {
		fmt.Fprintln(os.Stderr, "no root:", string(root), err)
		os.Exit(1)
	}
	shown, err := os.ReadFile(os.Args[2])
	if err != nil || !strings.Contains(string(shown), "root       "+string(root)) {
		fmt.Fprintln(os.Stderr, string(shown), err)
		os.Exit(1)
	}
}
