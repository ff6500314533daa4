package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Error says that a command failed.
type Error struct {
	Cmd    string // as one would type it
	Exit   int    // exit status, -1 when it did not start or did not exit by itself
	Stderr string // the last part of what it said
	Err    error  // why it did not start, or was stopped; nil when it exited by itself
	name   string
}

// maxLines of standard error go into an error's text.
const maxLines = 4

func (e *Error) Error() string {
	s := e.Cmd + ": "
	switch {
	case e.NotInstalled():
		s += "not installed"
	case e.Err != nil:
		s += e.Err.Error()
	default:
		s += fmt.Sprintf("exit status %d", e.Exit)
	}
	lines := strings.FieldsFunc(e.Stderr, func(r rune) bool { return r == '\n' || r == '\r' })
	if n := len(lines); n > maxLines {
		lines = lines[n-maxLines:]
	}
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	if len(lines) > 0 {
		s += ": " + strings.Join(lines, "; ")
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// NotInstalled tells whether there is no such program.
func (e *Error) NotInstalled() bool {
	return errors.Is(e.Err, exec.ErrNotFound) || e.Exit < 0 && errors.Is(e.Err, fs.ErrNotExist)
}

// packages names what a distribution calls the package of a program; most agree.
var packages = map[string]string{
	"lvm": "lvm2", "lvs": "lvm2", "vgs": "lvm2", "pvs": "lvm2", "lvcreate": "lvm2", "lvremove": "lvm2",
	"lvchange": "lvm2", "lvrename": "lvm2", "lvconvert": "lvm2", "vgcfgbackup": "lvm2",
	"dmsetup":    "dmsetup (Debian) or device-mapper",
	"thin_delta": "thin-provisioning-tools (Debian) or device-mapper-persistent-data",
	"thin_dump":  "thin-provisioning-tools (Debian) or device-mapper-persistent-data",
	"nbd-client": "nbd-client (Debian) or nbd",
	"zfs":        "zfsutils-linux (Debian) or zfs",
	"e2fsck":     "e2fsprogs", "fsck.ext4": "e2fsprogs", "xfs_repair": "xfsprogs",
	"btrfs": "btrfs-progs", "fsck.vfat": "dosfstools",
	"ssh": "openssh-client (Debian) or openssh-clients",
}

// Hint says what to install when a known program is missing, else "".
func (e *Error) Hint() string {
	if p := packages[filepath.Base(e.name)]; p != "" && e.NotInstalled() {
		return "install the package " + p
	}
	return ""
}

// timeoutError is a command's own time limit. It matches
// context.DeadlineExceeded.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string        { return fmt.Sprintf("no end after %v", e.limit) }
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

const debugLevel = slog.LevelDebug

func attrs(p *Process, err error) []slog.Attr {
	a := []slog.Attr{slog.String("cmd", p.cmd.String()), slog.Duration("dur", p.dur), slog.Int("exit", p.exit)}
	if err != nil {
		a = append(a, slog.String("err", err.Error()))
	}
	return a
}
