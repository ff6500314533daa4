//go:build unix

package nbdserver

import (
	"errors"
	"syscall"
)

// privateSocket sets the mode of a unix socket before it gets its name, so that
// nobody else can connect in between. Linux takes the mode of the socket's file
// from the socket (unix_bind in net/unix/af_unix.c); others refuse, no harm done.
func privateSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { syscall.Fchmod(int(fd), 0o600) })
}

func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
