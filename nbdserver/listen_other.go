//go:build !unix

package nbdserver

import (
	"errors"
	"syscall"
)

func privateSocket(_, _ string, _ syscall.RawConn) error { return nil }

// refused knows the error number of Windows, WSAECONNREFUSED.
func refused(err error) bool { return errors.Is(err, syscall.Errno(10061)) }
