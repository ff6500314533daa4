package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// shares of the kinds in a tree's bytes, and the sizes of their files. What is
// left over is copies of files that came before.
var shares = []struct {
	kind     kind
	percent  int
	min, max int64
	suffix   string
}{
	{text, 32, 2 << 10, 512 << 10, "log"},
	{program, 25, 16 << 10, 8 << 20, "so"},
	{database, 20, 4 << 20, 64 << 20, "db"},
	{media, 12, 256 << 10, 16 << 20, "jpg"},
	{zero, 3, 1 << 20, 8 << 20, "img"},
}

// day0 is when all files of a tree were changed last.
var day0 = time.Unix(1_700_000_000, 0)

// Tree writes files of about size bytes in total below dir, which must exist and
// be empty.
func Tree(dir string, size int64, seed uint64) error {
	t := &tree{content: newContent(seed), dir: dir}
	for left := size; left > 0; t.count++ {
		n, err := t.file(left)
		if err != nil {
			return err
		}
		left -= n
	}
	// Directories last: files made in them have changed their times.
	for i := range t.dirs {
		if err := os.Chtimes(t.directory(i), day0, day0); err != nil {
			return err
		}
	}
	return os.Chtimes(dir, day0, day0)
}

type tree struct {
	*content
	dir   string
	dirs  int
	count int
	files []string
	sizes [5]int64 // written of each kind
	total int64
	buf   []byte
}

// perDirectory is how many files share a directory.
const perDirectory = 100

func (t *tree) directory(i int) string { return filepath.Join(t.dir, fmt.Sprintf("d%04d", i)) }

// file makes one more file, of left bytes at most, and returns its size.
func (t *tree) file(left int64) (int64, error) {
	dir := t.directory(t.count / perDirectory)
	if t.count%perDirectory == 0 {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return 0, err
		}
		t.dirs++
	}
	// The kind that is furthest behind its share is next.
	next, behind := -1, int64(0)
	for i, s := range shares {
		if b := t.total*int64(s.percent)/100 - t.sizes[s.kind]; next < 0 || b > behind {
			next, behind = i, b
		}
	}
	if behind < 0 || len(t.files) > 20 && t.IntN(12) == 0 {
		return t.copyOf(dir, left)
	}
	s := shares[next]
	name := filepath.Join(dir, fmt.Sprintf("f%06d.%s", t.count, s.suffix))
	n := min(t.between(s.min, s.max), left)
	t.sizes[s.kind] += n
	return n, t.write(name, s.kind, n)
}

// between returns a size from lo to hi, each power of two as likely as another.
func (t *tree) between(lo, hi int64) int64 {
	n := lo
	for n < hi && t.IntN(5) > 0 {
		n *= 2
	}
	return min(n+t.Int64N(n), hi)
}

func (t *tree) write(name string, k kind, n int64) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if t.buf == nil {
		t.buf = make([]byte, 1<<20)
	}
	for left := n; left > 0 && err == nil; {
		b := t.buf[:min(left, int64(len(t.buf)))]
		t.fill(k, b)
		_, err = f.Write(b)
		left -= int64(len(b))
	}
	t.total += n
	t.files = append(t.files, name)
	return closed(f, name, err)
}

// copyOf makes a file that holds what an earlier one does, with a little in front
// of it every other time, so that its blocks do not lie as those of the first.
func (t *tree) copyOf(dir string, left int64) (int64, error) {
	src, err := os.Open(t.files[t.IntN(len(t.files))])
	if err != nil {
		return 0, err
	}
	defer src.Close()
	name := filepath.Join(dir, fmt.Sprintf("f%06d.copy", t.count))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriter(f)
	if t.IntN(2) == 0 {
		fmt.Fprintf(w, "copy %d\n", t.count)
	}
	_, err = io.Copy(w, io.LimitReader(src, max(left-20, 1)))
	if ferr := w.Flush(); err == nil {
		err = ferr
	}
	st, serr := f.Stat()
	if err == nil {
		err = serr
	}
	if err := closed(f, name, err); err != nil {
		return 0, err
	}
	t.total += st.Size()
	return st.Size(), nil
}

// closed closes a file that was written and gives it its time.
func closed(f *os.File, name string, err error) error {
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Chtimes(name, day0, day0)
}
