package lvm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/run"
)

// said maps what the tools say, in the C locale, to the sentinel that it means.
// The exit status is 5 for all of these. First match wins.
var said = []struct {
	text string
	is   error
}{
	{"already exists", blkbak.ErrExists},
	{"insufficient free space", blkbak.ErrNoSpace},
	{"Insufficient suitable", blkbak.ErrNoSpace},
	{"Insufficient free", blkbak.ErrNoSpace},
	{"Failed to find logical volume", blkbak.ErrNotFound},
	{"not found", blkbak.ErrNotFound},
	{"Device does not exist", blkbak.ErrNotFound},
	{"Device or resource busy", blkbak.ErrBusy},
	{"in use", blkbak.ErrBusy},
	{"Can't get lock", blkbak.ErrBusy},
	{"is locked", blkbak.ErrBusy},
}

// classify adds our vocabulary to a failed command's error.
func classify(err error) error {
	var e *run.Error
	if !errors.As(err, &e) {
		return err
	}
	if h := e.Hint(); h != "" {
		return blkbak.WithHint(err, "%s", h)
	}
	if e.Err != nil { // it did not start, or was stopped
		return err
	}
	for _, s := range said {
		if strings.Contains(e.Stderr, s.text) {
			return fmt.Errorf("%w: %w", s.is, err)
		}
	}
	if strings.Contains(e.Stderr, "Permission denied") || strings.Contains(e.Stderr, "non-root user") {
		return blkbak.WithHint(err, "LVM wants root")
	}
	return err
}
