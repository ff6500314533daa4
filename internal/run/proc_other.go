//go:build !unix

package run

import (
	"os"
	"syscall"
)

func sysProcAttr(bool) *syscall.SysProcAttr { return nil }

func terminate(p *os.Process) { p.Kill() }
func kill(p *os.Process)      { p.Kill() }
