package freeze

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/blockdev"
)

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

func statxFile(f *os.File) (unix.Statx_t, error) {
	var st unix.Statx_t
	c, err := f.SyscallConn()
	if err != nil {
		return st, err
	}
	var serr error
	err = c.Control(func(fd uintptr) { serr = unix.Statx(int(fd), "", unix.AT_EMPTY_PATH, statxMask, &st) })
	if err := errors.Join(err, serr); err != nil {
		return st, &os.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	return st, nil
}

// superblock names the filesystem that st is of: by the device number in the
// mount table where the kernel gives the mount (5.8 and later), since that of
// stat is another for each btrfs subvolume.
func superblock(st unix.Statx_t) (string, error) {
	major, minor := st.Dev_major, st.Dev_minor
	if st.Mask&unix.STATX_MNT_ID != 0 {
		mounts, err := blockdev.Mounts()
		if err != nil {
			return "", err
		}
		for _, m := range mounts {
			if uint64(m.ID) == st.Mnt_id {
				major, minor = m.Major, m.Minor
			}
		}
	}
	return fmt.Sprintf("%d:%d", major, minor), nil
}

// keepClear refuses m if it holds something that must go on.
func keepClear(m *mounted, paths []string) error {
	all := append([]string{"/", "."}, paths...)
	for _, p := range all {
		st, err := statxNearest(p)
		if err != nil {
			return err
		}
		id, err := superblock(st)
		if err != nil {
			return err
		}
		if id == m.id {
			return fmt.Errorf("it holds %s, which must not wait: %w", p, blkbak.ErrUsage)
		}
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		st, err := statxFile(f)
		if err != nil {
			continue // closed: nobody writes there
		}
		if id, err := superblock(st); err != nil {
			return err
		} else if id == m.id {
			return fmt.Errorf("it holds %s, which must not wait: %w", f.Name(), blkbak.ErrUsage)
		}
	}
	return nil
}

// statxNearest looks at path, or if it is missing, at the directory that it would
// be made in.
func statxNearest(path string) (unix.Statx_t, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return unix.Statx_t{}, err
	}
	for {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, path, 0, statxMask, &st)
		if parent := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && parent != path {
			path = parent
			continue
		}
		if err != nil {
			return st, &os.PathError{Op: "statx", Path: path, Err: err}
		}
		return st, nil
	}
}
