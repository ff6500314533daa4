//go:build !linux

package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"
)

func unsupported(what, path string) error {
	return fmt.Errorf("%s %s: %w", what, path, errors.ErrUnsupported)
}

func open(path string, o Options) (*Device, error) {
	if o.Direct || o.Exclusive {
		return nil, unsupported("open direct or exclusive", path)
	}
	f, err := os.OpenFile(path, o.openFlags(), 0o600)
	if err != nil {
		return nil, err
	}
	d := &Device{path: path, f: f, lb: 512}
	if d.info, err = f.Stat(); err == nil {
		d.block = d.info.Mode()&os.ModeDevice != 0
		d.size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// Without Options.Direct no device is direct: these two are never reached.
func (d *Device) readDirect(p []byte, off int64) (int, error) {
	return 0, unsupported("read direct", d.path)
}

func (d *Device) writeDirect(p []byte, off int64) (int, error) {
	return 0, unsupported("write direct", d.path)
}

func (d *Device) writeZeros(off, n int64) error { return d.fillZeros(off, n) }

func (d *Device) seekData(off int64) (data, hole int64, err error) {
	return 0, 0, unsupported("seek data", d.path)
}

// Number is the device number of a block device.
func (d *Device) Number() (major, minor uint32) { return 0, 0 }

// Same tells whether both are the same file or device, whatever their names.
func (d *Device) Same(o *Device) bool { return os.SameFile(d.info, o.info) }

// SamePath tells whether path names this same file or device.
func (d *Device) SamePath(path string) (bool, error) {
	st, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return os.SameFile(d.info, st), nil
}

// DropCache needs Linux.
func (d *Device) DropCache() error { return unsupported("drop cache", d.path) }

// DM needs Linux.
func (d *Device) DM() (name, uuid string, err error) {
	return "", "", unsupported("device-mapper name", d.path)
}

// Mounts needs Linux.
func Mounts() ([]Mount, error) { return nil, errors.ErrUnsupported }

// MountsOf needs Linux.
func MountsOf(path string) ([]Mount, error) { return nil, unsupported("mounts", path) }

// InUse needs Linux.
func InUse(path string) ([]Use, error) { return nil, unsupported("in use", path) }
