package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/blkbak/blkbak/freeze"
	"github.com/blkbak/blkbak/internal/engine"
	process "github.com/blkbak/blkbak/internal/run"
)

// freezer freezes filesystems under the eyes of a guard, which is this program
// started once more.
type freezer struct{ log *slog.Logger }

func (f freezer) Freeze(ctx context.Context, mount string, limit time.Duration, clear []string) (engine.Frozen, error) {
	fs, err := freeze.Freeze(ctx, mount, freeze.Options{MaxFrozen: limit, KeepClear: clear, StartGuard: f.startGuard})
	if err != nil {
		return nil, err
	}
	return fs, nil
}

func (f freezer) startGuard(ctx context.Context, args []string) (*freeze.Guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &process.Runner{Log: f.log}
	p, err := r.Start(ctx, process.Cmd{Name: self, Args: args, Session: true, Stderr: os.Stderr})
	if err != nil {
		return nil, err
	}
	return &freeze.Guard{Stdin: p.Stdin, Stdout: p.Stdout, Wait: p.Wait}, nil
}
