package blockdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/blkbak/blkbak"
)

// Options says how Open opens. The zero value reads through the page cache.
type Options struct {
	// Direct goes past the page cache; see the package comment. A filesystem
	// that cannot do so for a regular file (tmpfs on older kernels) is read
	// buffered instead, and Device.Direct then says false. On a block device
	// it is never silently dropped.
	Direct bool
	// Write allows WriteAt, WriteZeros, Truncate.
	Write bool
	// Exclusive refuses, with an error that matches blkbak.ErrBusy, what others
	// have in use: a block device that is mounted, is part of another one, or is
	// open exclusively elsewhere (O_EXCL); a regular file that another Device
	// holds exclusively (an advisory lock).
	Exclusive bool
	// Create makes a missing regular file, empty, with mode 0600. Needs Write.
	Create bool
}

// Device is an open block device or regular file.
type Device struct {
	path   string
	f      *os.File
	edge   *os.File // buffered twin of f for unaligned writes; nil unless direct
	info   fs.FileInfo
	size   int64
	block  bool
	direct bool
	lb     int64 // unit of direct I/O and of the device
}

// Open opens the block device or regular file path.
func Open(path string, o Options) (*Device, error) {
	if o.Create && !o.Write {
		return nil, fmt.Errorf("open %s: create without write: %w", path, blkbak.ErrUsage)
	}
	d, err := open(path, o)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			// Both vocabularies: commands map ours to an exit code.
			err = fmt.Errorf("%w: %w", blkbak.ErrNotFound, err)
		}
		return nil, err
	}
	return d, nil
}

// openFlags are those flags of o that mean the same on every platform.
func (o Options) openFlags() int {
	flags := os.O_RDONLY
	if o.Write {
		flags = os.O_RDWR
	}
	if o.Create {
		flags |= os.O_CREATE
	}
	return flags
}

// Path is the name the device was opened by.
func (d *Device) Path() string { return d.path }

// Size is the size in bytes when the device was opened, or last truncated.
func (d *Device) Size() int64 { return d.size }

// IsBlock tells a block device from a regular file.
func (d *Device) IsBlock() bool { return d.block }

// Direct tells whether reads and writes go past the page cache.
func (d *Device) Direct() bool { return d.direct }

// LogicalBlock is the device's logical block size in bytes, or for a file the
// alignment that direct I/O on it wants. It is a power of two, at least 512.
func (d *Device) LogicalBlock() int64 { return d.lb }

// ReadAt reads like io.ReaderAt: fewer bytes than asked for come with an error,
// io.EOF at the end.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if d.direct {
		return d.readDirect(p, off)
	}
	return d.f.ReadAt(p, off)
}

// WriteAt writes like io.WriterAt. A block device does not grow: the part of p
// that lies behind its end is not written and is an error that matches
// blkbak.ErrNoSpace.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if d.block && off >= 0 && int64(len(p)) > d.size-off {
		n, err := d.writeAt(p[:max(0, d.size-off)], off)
		if err == nil {
			err = fmt.Errorf("write %s at byte %d: the device has %d: %w", d.path, off, d.size, blkbak.ErrNoSpace)
		}
		return n, err
	}
	return d.writeAt(p, off)
}

func (d *Device) writeAt(p []byte, off int64) (int, error) {
	if d.direct {
		return d.writeDirect(p, off)
	}
	return d.f.WriteAt(p, off)
}

// Truncate sets the size of a regular file; what is new reads as zeros.
func (d *Device) Truncate(size int64) error {
	if d.block {
		return fmt.Errorf("truncate %s: a block device keeps its size: %w", d.path, errors.ErrUnsupported)
	}
	if err := d.f.Truncate(size); err != nil {
		return err
	}
	d.size = size
	return nil
}

// Sync returns when all that was written is durable.
func (d *Device) Sync() error { return d.f.Sync() }

// Close closes the device, without Sync.
func (d *Device) Close() error {
	err := d.f.Close()
	if d.edge != nil {
		err = errors.Join(err, d.edge.Close())
	}
	return err
}

// WriteZeros makes the n bytes at off read as zeros, giving the space back to
// the filesystem or the device where that is possible. The range must lie inside
// the device.
func (d *Device) WriteZeros(off, n int64) error {
	if off < 0 || n < 0 || off > d.size-n {
		return fmt.Errorf("zero %s: %d bytes at %d: the device has %d: %w", d.path, n, off, d.size, blkbak.ErrUsage)
	}
	if n == 0 {
		return nil
	}
	return d.writeZeros(off, n)
}

// fillZeros is the way that always works: writing them.
func (d *Device) fillZeros(off, n int64) error {
	const most = 1 << 20
	zeros := AlignedBuffer(int(min(n, most)))
	for n > 0 {
		// The first write ends where the following ones are aligned.
		m := min(n, most-off%d.lb)
		w, err := d.WriteAt(zeros[:m], off)
		if err != nil {
			return err
		}
		off, n = off+int64(w), n-int64(w)
	}
	return nil
}

// NextData returns the next run of data at or after off, as the filesystem
// knows it: it starts at data ≥ off and ends before hole. Bytes in no run are
// zeros. Where nothing is known about holes (block devices, some filesystems)
// the rest of the device is one run. After the last run it returns io.EOF.
func (d *Device) NextData(off int64) (data, hole int64, err error) {
	if off < 0 {
		return 0, 0, fmt.Errorf("next data of %s: offset %d: %w", d.path, off, blkbak.ErrUsage)
	}
	if off >= d.size {
		return 0, 0, io.EOF
	}
	if d.block {
		return off, d.size, nil
	}
	data, hole, err = d.seekData(off)
	if errors.Is(err, errors.ErrUnsupported) {
		return off, d.size, nil
	}
	if err != nil {
		return 0, 0, err
	}
	// The file may have grown, or shrunk between two system calls.
	hole = min(hole, d.size)
	if data < off || data >= hole {
		return 0, 0, io.EOF
	}
	return data, hole, nil
}
