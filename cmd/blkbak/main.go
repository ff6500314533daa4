package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/blkbak/blkbak/freeze"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == freeze.GuardCommand {
		os.Exit(freeze.GuardMain(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signalContext(context.Background())
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// signalContext returns a context that the first signal cancels. After that
// signals have their usual effect again, so that a second one ends a program
// which does not come to its end by itself.
func signalContext(parent context.Context) (context.Context, context.CancelFunc) {
	signals := []os.Signal{syscall.SIGTERM}
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if !signal.Ignored(s) { // what nohup and a shell's & have set stays in force
			signals = append(signals, s)
		}
	}
	ctx, stop := signal.NotifyContext(parent, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// run executes one command line, without the program's name, and returns the
// exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := newApp(stdin, stdout, stderr)
	return a.report(a.run(ctx, args))
}
