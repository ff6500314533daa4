//go:build linux || darwin || freebsd

package main

import (
	"os"
	"syscall"
	"unsafe"
)

// terminalWidth asks a terminal for its number of columns, 0 when it does not
// know; ok is false when f is something else.
func terminalWidth(f *os.File) (columns int, ok bool) {
	if os.Getenv("TERM") == "dumb" {
		return 0, false // it cannot go back to the start of a line
	}
	var size struct{ rows, columns, x, y uint16 } // ioctl_tty(2), struct winsize
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	return int(size.columns), errno == 0
}
