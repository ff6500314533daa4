package atomicfile

import (
	"errors"
	"os"

	"github.com/blkbak/blkbak"
	"golang.org/x/sys/windows"
)

// SyncDir does nothing: Windows has no call for it, and NTFS journals names.
func SyncDir(string) error { return nil }

func flock(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return blkbak.ErrBusy
	}
	return err
}
