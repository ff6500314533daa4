package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/blkbak/blkbak"
)

func open(path string, o Options) (*Device, error) {
	flags := o.openFlags()
	st, err := os.Stat(path)
	block := err == nil && isBlock(st)
	switch {
	case err != nil && !(o.Create && errors.Is(err, fs.ErrNotExist)):
		return nil, err
	case err == nil && !block && !st.Mode().IsRegular():
		return nil, fmt.Errorf("open %s: neither a block device nor a regular file: %w", path, blkbak.ErrUsage)
	case block:
		flags &^= os.O_CREATE
		if o.Exclusive {
			flags |= unix.O_EXCL
		}
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, syscall.EBUSY) {
		return nil, fmt.Errorf("open %s: the device is in use: %w: %w", path, blkbak.ErrBusy, err)
	}
	if err != nil {
		return nil, err
	}
	d := &Device{path: path, f: f, lb: 512}
	if err := d.learn(); err != nil {
		d.Close()
		return nil, err
	}
	if o.Exclusive && !d.block {
		if err := d.lock(); err != nil {
			d.Close()
			return nil, err
		}
	}
	if o.Direct {
		if err := d.goDirect(flags &^ (unix.O_EXCL | os.O_CREATE)); err != nil {
			d.Close()
			return nil, err
		}
	}
	return d, nil
}

func isBlock(st fs.FileInfo) bool {
	return st.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
}

// control runs fn on the file's descriptor, which stays open meanwhile.
func control(f *os.File, fn func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// learn asks the open file what it is: the name may mean something else by now.
func (d *Device) learn() (err error) {
	if d.info, err = d.f.Stat(); err != nil {
		return err
	}
	d.block = isBlock(d.info)
	if !d.block {
		d.size = d.info.Size()
		return nil
	}
	return control(d.f, func(fd int) error {
		var size uint64
		if err := ioctlPtr(fd, unix.BLKGETSIZE64, &size); err != nil {
			return fmt.Errorf("size of %s: %w", d.path, err)
		}
		lb, err := unix.IoctlGetInt(fd, unix.BLKSSZGET)
		if err != nil {
			return fmt.Errorf("block size of %s: %w", d.path, err)
		}
		if size > 1<<63-1 || lb < 512 || lb&(lb-1) != 0 {
			return fmt.Errorf("%s: size %d or block size %d makes no sense", d.path, size, lb)
		}
		d.size, d.lb = int64(size), int64(lb)
		return nil
	})
}

// lock takes an advisory lock, which goes with the descriptor.
func (d *Device) lock() error {
	return control(d.f, func(fd int) error {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", d.path, blkbak.ErrBusy)
		}
		return err
	})
}

// goDirect opens the file once more with O_DIRECT and keeps the first, buffered
// descriptor for unaligned edges; that one also holds what makes it exclusive.
func (d *Device) goDirect(flags int) error {
	f, err := os.OpenFile(d.path, flags|unix.O_DIRECT, 0)
	if errors.Is(err, syscall.EINVAL) && !d.block {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && identity(info) != identity(d.info) {
		err = fmt.Errorf("open %s: replaced by something else meanwhile: %w", d.path, blkbak.ErrBusy)
	}
	if err != nil {
		f.Close()
		return err
	}
	d.f, d.edge, d.direct = f, d.f, true
	if !d.block {
		d.lb = fileAlign(f)
	}
	return nil
}

// fileAlign is the alignment that direct I/O on a regular file wants. Kernels
// before 6.1 do not say; 4096 is right for every device in use.
func fileAlign(f *os.File) int64 {
	align := int64(4096)
	control(f, func(fd int) error {
		var st unix.Statx_t
		err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
		if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
			a := int64(max(st.Dio_offset_align, st.Dio_mem_align, 512))
			if a&(a-1) == 0 && a <= 1<<20 {
				align = a
			}
		}
		return nil
	})
	return align
}

// fileID identifies a file or device independent of its name.
type fileID struct {
	block    bool
	dev, ino uint64 // of the file; of a block device only its own number, in dev
}

func identity(info fs.FileInfo) fileID {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		panic("blockdev: FileInfo is not from package os")
	}
	if isBlock(info) {
		return fileID{block: true, dev: uint64(st.Rdev)}
	}
	return fileID{dev: uint64(st.Dev), ino: st.Ino}
}

// Number is the device number of a block device, and 0, 0 for a file.
func (d *Device) Number() (major, minor uint32) { return number(d.info) }

func number(info fs.FileInfo) (major, minor uint32) {
	id := identity(info)
	if !id.block {
		return 0, 0
	}
	return unix.Major(id.dev), unix.Minor(id.dev)
}

// Same tells whether both are the same file or device, whatever their names.
func (d *Device) Same(o *Device) bool { return identity(d.info) == identity(o.info) }

// SamePath tells whether path names this same file or device.
func (d *Device) SamePath(path string) (bool, error) {
	st, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return identity(st) == identity(d.info), nil
}

// DropCache forgets cached pages, so that the next buffered read comes from the
// device. Dirty pages are written first. Needs root for a block device.
func (d *Device) DropCache() error {
	return control(d.f, func(fd int) error {
		if d.block {
			if err := unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0); err != nil {
				return fmt.Errorf("drop cache of %s: %w", d.path, err)
			}
			return nil
		}
		if err := unix.Fdatasync(fd); err != nil {
			return fmt.Errorf("drop cache of %s: %w", d.path, err)
		}
		return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	})
}

// DM returns the device-mapper name and UUID of a block device, "" and "" when
// it is not one of device-mapper's. LVM's UUIDs are "LVM-" followed by those of
// the volume group and the volume without their hyphens.
func (d *Device) DM() (name, uuid string, err error) {
	if !d.block {
		return "", "", nil
	}
	major, minor := d.Number()
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/dm", major, minor)
	n, err := os.ReadFile(filepath.Join(dir, "name"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	u, err := os.ReadFile(filepath.Join(dir, "uuid"))
	return strings.TrimSpace(string(n)), strings.TrimSpace(string(u)), err
}
