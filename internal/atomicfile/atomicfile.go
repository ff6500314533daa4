package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/blkbak/blkbak"
)

// TempPrefix begins the name of every temporary file made here.
const TempPrefix = ".tmp-"

// Replace makes path hold data, durably, whether or not it existed.
func Replace(path string, perm fs.FileMode, data ...[]byte) error {
	return place(path, perm, pieces(data), os.Rename)
}

// ReplaceFrom is Replace with what write writes.
func ReplaceFrom(path string, perm fs.FileMode, write func(io.Writer) error) error {
	return place(path, perm, write, os.Rename)
}

// Create makes path hold data, durably, unless it exists: then the error matches
// blkbak.ErrExists and the file is as it was. Of any number of callers at once,
// in any number of processes, one succeeds.
func Create(path string, perm fs.FileMode, data ...[]byte) error {
	return place(path, perm, pieces(data), func(tmp, path string) error {
		err := os.Link(tmp, path)
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("create %s: %w", path, blkbak.ErrExists)
		}
		// The name tmp is of no more use either way.
		return errors.Join(err, os.Remove(tmp))
	})
}

func pieces(data [][]byte) func(io.Writer) error {
	return func(w io.Writer) error {
		for _, b := range data {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		return nil
	}
}

func place(path string, perm fs.FileMode, write func(io.Writer) error, name func(tmp, path string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, TempPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()           // a second close is harmless
			os.Remove(f.Name()) // gone already once it has its name
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := name(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// Remove deletes path durably. A path that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll makes the directory path and its missing parents, and syncs each
// directory in which it made one.
func MkdirAll(path string, perm fs.FileMode) error {
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return fmt.Errorf("make directory %s: %w", path, blkbak.ErrExists)
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// Lock is an advisory lock on a file, held until Unlock or until the process
// ends, however it ends. It excludes other holders in this process as well.
type Lock struct{ f *os.File }

// TryLock takes the lock on path, making the file if it is missing. When someone
// else holds it, it returns at once with an error that matches blkbak.ErrBusy.
func TryLock(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f}, nil
}

// File is the locked file, to be read or written by the lock's holder.
func (l *Lock) File() *os.File { return l.f }

// Unlock gives the lock back. The file stays.
func (l *Lock) Unlock() error { return l.f.Close() }
