//go:build unix

package run

import (
	"os"
	"syscall"
)

// sysProcAttr gives the command a process group of its own: what it starts can
// be stopped with it, and the terminal's Ctrl-C is ours to handle.
func sysProcAttr(session bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: !session, Setsid: session}
}

// A group that has ended already is no error.
func terminate(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGTERM) }
func kill(p *os.Process)      { syscall.Kill(-p.Pid, syscall.SIGKILL) }
