package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/atomicfile"
)

// directories of a repository, made by Init.
var directories = []string{"sess", "packs", "idx", "points"}

// staleTemp is the age at which a temporary file belongs to no one. Taking one
// from a writer that is alive after all makes that writer fail, and lose nothing.
const staleTemp = time.Hour

// localDir is the Backend in a local directory.
type localDir struct{ root string }

func (d localDir) path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

func (d localDir) Create(ctx context.Context, name string, data ...[]byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return noSpace(atomicfile.Create(d.path(name), 0o600, data...))
}

func (d localDir) Open(_ context.Context, name string) (Object, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, notFound(err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &localFile{File: f, size: st.Size()}, nil
}

func (d localDir) List(_ context.Context, dir string) ([]Entry, error) {
	names, err := os.ReadDir(d.path(dir))
	if err != nil {
		return nil, notFound(err)
	}
	list := make([]Entry, 0, len(names))
	for _, n := range names {
		st, err := n.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the directory was read
		}
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(n.Name(), atomicfile.TempPrefix) {
			if time.Since(st.ModTime()) > staleTemp {
				os.Remove(filepath.Join(d.path(dir), n.Name()))
			}
			continue
		}
		list = append(list, Entry{dir + "/" + n.Name(), st.Size()})
	}
	return list, nil
}

func (d localDir) Remove(_ context.Context, name string) error {
	return atomicfile.Remove(d.path(name))
}

func (d localDir) Hold(_ context.Context, name string) (func() error, error) {
	if _, err := os.Stat(d.path(name)); err != nil {
		return nil, notFound(err)
	}
	l, err := atomicfile.TryLock(d.path(name))
	if err != nil {
		return nil, err
	}
	return l.Unlock, nil
}

// localFile is an open file, mapped on demand.
type localFile struct {
	*os.File
	size   int64
	mapped []byte
}

func (f *localFile) Size() int64 { return f.size }

func (f *localFile) Map() ([]byte, error) {
	if f.mapped == nil && f.size > 0 {
		b, err := mmap(f.File, f.size)
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", f.Name(), err)
		}
		f.mapped = b
	}
	return f.mapped, nil
}

func (f *localFile) Close() error {
	var err error
	if f.mapped != nil {
		err = munmap(f.mapped)
		f.mapped = nil
	}
	return errors.Join(err, f.File.Close())
}

func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", blkbak.ErrNotFound, err)
	}
	return err
}
