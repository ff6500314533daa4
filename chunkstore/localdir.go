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
	f, err := openLocal(d.path(name))
	if err != nil {
		return nil, err // not f, which is nil of a type
	}
	return f, nil
}

func openLocal(path string) (*localFile, error) {
	f, err := os.Open(path)
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
		if isTemp(n.Name()) {
			removeStale(d.path(dir), st)
			continue
		}
		list = append(list, Entry{dir + "/" + n.Name(), st.Size()})
	}
	return list, nil
}

func isTemp(name string) bool { return strings.HasPrefix(name, atomicfile.TempPrefix) }

// removeStale removes a temporary file that belongs to no one. If it cannot be
// removed it only takes room.
func removeStale(dir string, st fs.FileInfo) {
	if time.Since(st.ModTime()) > staleTemp {
		os.Remove(filepath.Join(dir, st.Name()))
	}
}

// sweepTemp removes what killed processes left half written in dir.
func sweepTemp(dir string) {
	names, _ := os.ReadDir(dir)
	for _, n := range names {
		if st, err := n.Info(); err == nil && isTemp(n.Name()) {
			removeStale(dir, st)
		}
	}
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
	// No file of a repository is empty: this one was removed a moment ago, and
	// taking the lock made it again.
	if st, err := l.File().Stat(); err != nil || st.Size() == 0 {
		return nil, errors.Join(blkbak.ErrNotFound, err, os.Remove(d.path(name)), l.Unlock())
	}
	return l.Unlock, nil
}

// localFile is an open file. Once it is mapped it is read through the mapping
// alone, and takes no descriptor: an index may have many segments.
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
		if err := f.File.Close(); err != nil {
			return nil, err
		}
	}
	return f.mapped, nil
}

func (f *localFile) Close() error {
	if f.mapped == nil {
		return f.File.Close()
	}
	b := f.mapped
	f.mapped = nil
	return munmap(b)
}

func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", blkbak.ErrNotFound, err)
	}
	return err
}
