package freeze

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blkbak/blkbak"
)

// Freeze freezes the filesystem mounted at mountpoint and returns when nothing
// writes to it any more. That it cannot be interrupted meanwhile is the kernel's
// doing; the guard's clock runs. A filesystem that somebody else has frozen is an
// error that matches blkbak.ErrBusy, one that cannot be frozen matches
// errors.ErrUnsupported.
func Freeze(ctx context.Context, mountpoint string, o Options) (*Frozen, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	// The guard changes to another directory.
	mountpoint, err = filepath.Abs(mountpoint)
	if err != nil {
		return nil, err
	}
	fs, err := openMount(mountpoint)
	if err != nil {
		return nil, err
	}
	if err := keepClear(fs, o.KeepClear); err != nil {
		fs.Close()
		return nil, fmt.Errorf("freeze %s: %w", mountpoint, err)
	}
	args := []string{GuardCommand, mountpoint, fs.id, o.MaxFrozen.String(), o.Stall.String()}
	return hold(ctx, mountpoint, fs, args, o)
}

// FIFREEZE and FITHAW are _IOWR('X', 119, int) and _IOWR('X', 120, int) of
// include/uapi/linux/fs.h.
const (
	fifreeze = iowr | 4<<16 | 'X'<<8 | 119
	fithaw   = iowr | 4<<16 | 'X'<<8 | 120
)

// mounted is a filesystem held by a descriptor of its mount point.
type mounted struct {
	dir   *os.File
	point string
	id    string // of the superblock
}

// openMount opens a mount point. Anything else would mean the filesystem below
// it: a volume that is not mounted must not freeze what holds its mount point.
func openMount(point string) (*mounted, error) {
	dir, err := os.OpenFile(point, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", blkbak.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	m := &mounted{dir: dir, point: point}
	st, err := statxFile(dir)
	if err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		err = fmt.Errorf("freeze %s: not a mount point: %w", point, blkbak.ErrUsage)
	}
	if err == nil {
		m.id, err = superblock(st)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return m, nil
}

func (m *mounted) Close() error { return m.dir.Close() }

func (m *mounted) ioctl(req uint) error {
	var err error
	c, cerr := m.dir.SyscallConn()
	if cerr != nil {
		return cerr
	}
	cerr = c.Control(func(fd uintptr) {
		for {
			_, _, e := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), 0)
			if e == 0 {
				err = nil
				return
			}
			if err = e; e != unix.EINTR {
				return
			}
		}
	})
	return errors.Join(cerr, err)
}

// Sync writes out what is dirty.
func (m *mounted) Sync() error {
	c, err := m.dir.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	return errors.Join(c.Control(func(fd uintptr) { serr = unix.Syncfs(int(fd)) }), serr)
}

// Freeze freezes.
func (m *mounted) Freeze() error {
	err := m.ioctl(fifreeze)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("somebody else has frozen it: %w: %w", blkbak.ErrBusy, err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return fmt.Errorf("its type cannot be frozen: %w: %w", errors.ErrUnsupported, err)
	case errors.Is(err, unix.EPERM):
		return blkbak.WithHint(err, "freezing wants root")
	}
	return err
}

// Thaw thaws.
func (m *mounted) Thaw() error {
	err := m.ioctl(fithaw)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", errNotFrozen, err)
	}
	return err
}

// parseGuard reads the arguments that Freeze makes.
func parseGuard(args []string) (point, id string, limit, stall time.Duration, err error) {
	if len(args) != 4 || !filepath.IsAbs(args[0]) {
		return "", "", 0, 0, fmt.Errorf("want MOUNTPOINT ID MAX STALL: this command is for blkbak itself")
	}
	limit, err1 := time.ParseDuration(args[2])
	stall, err2 := time.ParseDuration(args[3])
	if err = errors.Join(err1, err2); err == nil && (limit < minTime || stall < minTime) {
		err = fmt.Errorf("times %v and %v are too short", limit, stall)
	}
	return args[0], args[1], limit, stall, err
}
