//go:build unix

package atomicfile

import (
	"errors"
	"os"

	"github.com/blkbak/blkbak"
	"golang.org/x/sys/unix"
)

// SyncDir makes the names in the directory dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return blkbak.ErrBusy
		}
		return err
	}
}
