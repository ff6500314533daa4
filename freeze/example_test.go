package freeze_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/blkbak/blkbak/freeze"
)

// A program starts itself as the guard, and says so at the top of its main.
func Example() {
	if len(os.Args) > 1 && os.Args[1] == freeze.GuardCommand {
		os.Exit(freeze.GuardMain(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	startGuard := func(_ context.Context, args []string) (*freeze.Guard, error) {
		cmd := exec.Command("/proc/self/exe", args...)
		cmd.Stderr = os.Stderr
		stdin, stdin2, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		stdout, stdout2, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		cmd.Stdin, cmd.Stdout = stdin, stdout2
		err = cmd.Start()
		stdin.Close()
		stdout2.Close()
		return &freeze.Guard{Stdin: stdin2, Stdout: stdout, Wait: cmd.Wait}, err
	}
	backUp := func(mount string) error {
		f, err := freeze.Freeze(context.Background(), mount, freeze.Options{
			MaxFrozen:  time.Minute,
			StartGuard: startGuard,
			KeepClear:  []string{"/var/lib/blkbak", "/var/log"},
		})
		if err != nil {
			return err
		}
		// ... read the device here ...
		return f.Thaw() // an error says that what was read is worth nothing
	}
	fmt.Fprintln(io.Discard, backUp("/srv/data"))
}
