//go:build !linux

package freeze

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Freeze needs Linux.
func Freeze(context.Context, string, Options) (*Frozen, error) {
	return nil, fmt.Errorf("freeze: %w", errors.ErrUnsupported)
}

// GuardMain needs Linux.
func GuardMain(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fmt.Fprintln(stderr, "freeze guard:", errors.ErrUnsupported)
	return exitFailed
}
