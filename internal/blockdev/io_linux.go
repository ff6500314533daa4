package blockdev

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctlPtr[T any](fd int, req uint, arg *T) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(arg)))
	if e != 0 {
		return e
	}
	return nil
}

// bounceSize bounds the memory of one unaligned direct read.
const bounceSize = 256 << 10

var bouncePool = sync.Pool{New: func() any { b := AlignedBuffer(bounceSize); return &b }}

// preadOnce is one read with no second try: after a short read the position is
// no longer aligned, and os.File.ReadAt would go on from there.
func (d *Device) preadOnce(p []byte, off int64) (n int, err error) {
	c, err := d.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := c.Read(func(fd uintptr) bool {
		for {
			n, err = unix.Pread(int(fd), p, off)
			if err != unix.EINTR {
				return true
			}
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: d.path, Err: err}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (d *Device) readDirect(p []byte, off int64) (done int, err error) {
	if off < 0 {
		return 0, &os.PathError{Op: "read", Path: d.path, Err: errors.New("negative offset")}
	}
	for done < len(p) {
		rest, at := p[done:], off+int64(done)
		var n int
		if whole := rest[:len(rest)&^int(d.lb-1)]; len(whole) > 0 && d.aligned(whole, at) {
			n, err = d.preadOnce(whole[:min(len(whole), 1<<30)], at)
		} else {
			n, err = d.readBounce(rest, at)
		}
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readBounce reads some of p through an aligned buffer, at least one byte.
func (d *Device) readBounce(p []byte, off int64) (int, error) {
	b := bouncePool.Get().(*[]byte)
	defer bouncePool.Put(b)
	start := off &^ (d.lb - 1)
	skip := int(off - start)
	want := min(int64(skip+len(p))+d.lb-1, bounceSize) &^ (d.lb - 1)
	n, err := d.preadOnce((*b)[:want], start)
	if err != nil {
		return 0, err
	}
	if n <= skip {
		return 0, io.EOF
	}
	return copy(p, (*b)[skip:n]), nil
}

// writeDirect sends the aligned middle of p past the cache and its edges through
// the buffered descriptor. The kernel keeps the two coherent: a direct transfer
// first writes back, and then drops, the pages of its range.
func (d *Device) writeDirect(p []byte, off int64) (int, error) {
	if d.aligned(p, off) {
		return d.f.WriteAt(p, off)
	}
	head := int(min(int64(len(p)), -off&(d.lb-1)))
	tail := head + (len(p)-head)&^int(d.lb-1)
	middle := d.f
	if !d.aligned(p[head:tail], off+int64(head)) { // the memory, then
		middle = d.edge
	}
	done := 0
	for _, part := range []struct {
		w *os.File
		b []byte
	}{{d.edge, p[:head]}, {middle, p[head:tail]}, {d.edge, p[tail:]}} {
		n, err := part.w.WriteAt(part.b, off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// seekData finds the next run of data of a regular file.
func (d *Device) seekData(off int64) (data, hole int64, err error) {
	data, err = d.f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return 0, 0, io.EOF
	case errors.Is(err, syscall.EINVAL):
		return 0, 0, errors.ErrUnsupported
	case err != nil:
		return 0, 0, err
	}
	hole, err = d.f.Seek(data, unix.SEEK_HOLE)
	if errors.Is(err, syscall.ENXIO) { // cut off between the two calls
		return 0, 0, io.EOF
	}
	return data, hole, err
}

// zeroSlice bounds one fallocate call: each is one uninterruptible request.
const zeroSlice = 1 << 30

// writeZeros lets the kernel make zeros. Both calls promise that the range reads
// as zeros afterwards, on files and on block devices (there through WRITE ZEROES,
// never through a discard whose result would be the device's own choice).
// Punching comes first since it gives the space back.
func (d *Device) writeZeros(off, n int64) error {
	if d.block {
		// The kernel wants whole blocks of a device.
		head := min(n, -off&(d.lb-1))
		tail := (n - head) & (d.lb - 1)
		if head > 0 || tail > 0 {
			if err := d.fillZeros(off, head); err != nil {
				return err
			}
			if err := d.fillZeros(off+n-tail, tail); err != nil {
				return err
			}
			off, n = off+head, n-head-tail
		}
	}
	for n > 0 {
		m := min(n, zeroSlice)
		if err := d.zeroRange(off, m); err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

func (d *Device) zeroRange(off, n int64) error {
	for _, mode := range []uint32{unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE} {
		err := control(d.f, func(fd int) error {
			for {
				err := unix.Fallocate(fd, mode|unix.FALLOC_FL_KEEP_SIZE, off, n)
				if err != unix.EINTR {
					return err
				}
			}
		})
		switch err {
		case nil:
			return nil
		case unix.EOPNOTSUPP, unix.ENOSYS, unix.ENODEV, unix.EBUSY, unix.EINVAL:
			// Not here, or not while others have it open: try the next way.
		default:
			return &os.PathError{Op: "zero", Path: d.path, Err: err}
		}
	}
	return d.fillZeros(off, n)
}
