package blockdev

import (
	"os"
	"unsafe"
)

// AlignedBuffer returns n bytes of zeroed memory that start on a page boundary,
// as direct I/O wants. The memory is ordinary and is collected like any other.
func AlignedBuffer(n int) []byte {
	page := max(os.Getpagesize(), 4096)
	b := make([]byte, n+page)
	skip := -int(addr(b) % uintptr(page))
	if skip < 0 {
		skip += page
	}
	return b[skip : skip+n : skip+n]
}

func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// aligned tells whether a direct transfer of p at off needs no help.
func (d *Device) aligned(p []byte, off int64) bool {
	return (off|int64(len(p))|int64(addr(p)))&(d.lb-1) == 0
}
