package freeze

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/blkbak/blkbak"
)

var (
	// ErrThawedEarly: the filesystem did not stay frozen until Thaw. What was
	// read from its device meanwhile may be torn.
	ErrThawedEarly = errors.New("thawed early")
	// ErrStillFrozen: neither this process nor the guard could thaw. Somebody
	// has to act at once.
	ErrStillFrozen = errors.New("STILL FROZEN")
)

// GuardCommand is the first argument with which the guard is started: a program
// that finds it calls GuardMain with the arguments after it.
const GuardCommand = "freeze-guard"

// Defaults and limits of Options.
const (
	DefaultMaxFrozen = 30 * time.Second
	DefaultStall     = 10 * time.Second
	minTime          = 10 * time.Millisecond
	readyTimeout     = 20 * time.Second
	guardPatience    = 10 * time.Second // with a guard that should end
)

// Options says how long and how a filesystem may be frozen.
type Options struct {
	// MaxFrozen is how long writers wait at the most, the writing out of what
	// they wrote before included. 0 is DefaultMaxFrozen.
	MaxFrozen time.Duration
	// Stall is how long this process may show no sign of life. 0 is
	// DefaultStall.
	Stall time.Duration
	// StartGuard starts this program again with args, in a session of its own
	// and with pipes, and must not end it when the context it is given is done.
	// Required.
	StartGuard func(ctx context.Context, args []string) (*Guard, error)
	// KeepClear names files and directories whose filesystems must not be
	// frozen: what this program needs before it can thaw. They need not exist.
	KeepClear []string
}

// Guard is a running guard process.
type Guard struct {
	Stdin  io.WriteCloser // a pipe that closes when this process dies
	Stdout io.Reader      // a pipe
	Wait   func() error   // waits for the process's end; called once
}

func (o Options) withDefaults() (Options, error) {
	if o.MaxFrozen == 0 {
		o.MaxFrozen = DefaultMaxFrozen
	}
	if o.Stall == 0 {
		o.Stall = DefaultStall
	}
	var err error
	if o.MaxFrozen < minTime || o.Stall < minTime {
		err = errors.Join(err, fmt.Errorf("freeze for %v, stall %v: at least %v: %w", o.MaxFrozen, o.Stall, minTime, blkbak.ErrUsage))
	}
	if o.StartGuard == nil {
		err = errors.Join(err, fmt.Errorf("freeze without a guard: %w", blkbak.ErrUsage))
	}
	return o, err
}

// filesystem is what the kernel does with one mounted filesystem.
type filesystem interface {
	Sync() error   // writes out what is dirty, so that the freeze is short
	Freeze() error // FIFREEZE
	Thaw() error   // FITHAW; errNotFrozen when it is not
	Close() error
}

// errNotFrozen is FITHAW's answer for a filesystem that is not frozen.
var errNotFrozen = errors.New("not frozen")
