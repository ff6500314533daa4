package cow

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/blkbak/blkbak"
)

// The hint writers below tell other backup programs which bytes of a device to
// read. They take sorted, disjoint extents, as Store.All yields them.

// WriteRBDHints writes a JSON array as `rbd diff --format json` prints it, which
// Benji and backy2 read:
//
//	[{"offset":4096,"length":8192,"exists":"true"},...]
func WriteRBDHints(w io.Writer, extents iter.Seq[blkbak.Extent]) error {
	b := bufio.NewWriter(w)
	sep := "["
	var num []byte
	for e := range extents {
		num = append(num[:0], sep...)
		num = append(num, `{"offset":`...)
		num = strconv.AppendInt(num, e.Off, 10)
		num = append(num, `,"length":`...)
		num = strconv.AppendInt(num, e.Len, 10)
		num = append(num, `,"exists":"true"}`...)
		if _, err := b.Write(num); err != nil {
			return err
		}
		sep = ","
	}
	if sep == "[" {
		b.WriteString(sep)
	}
	b.WriteString("]\n")
	return b.Flush()
}

// WriteExtentHints writes a line for each extent: its offset and its length in
// bytes, decimal, with a space between.
func WriteExtentHints(w io.Writer, extents iter.Seq[blkbak.Extent]) error {
	b := bufio.NewWriter(w)
	var line []byte
	for e := range extents {
		line = strconv.AppendInt(line[:0], e.Off, 10)
		line = strconv.AppendInt(append(line, ' '), e.Len, 10)
		if _, err := b.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return b.Flush()
}

// WriteBitmapHints writes one bit for each grain bytes of the device, set where an
// extent has a byte in it: bit i%8 (of value 1<<(i%8)) of byte i/8 is grain i. No
// header, no padding but the last byte's upper bits. Size is the device's size in
// bytes; where it is 0, not known, the bitmap ends with the last byte that has a
// bit set.
func WriteBitmapHints(w io.Writer, extents iter.Seq[blkbak.Extent], grain, size int64) error {
	if grain <= 0 || size < 0 {
		return fmt.Errorf("%w: bitmap of grain %d, size %d", blkbak.ErrUsage, grain, size)
	}
	m := bitmap{w: bufio.NewWriterSize(w, 64<<10)}
	var end int64
	for e := range extents {
		if e.Len <= 0 || e.Off < end || size > 0 && e.End() > size {
			return fmt.Errorf("%w: extent %v is out of order or beyond the device's %d bytes", blkbak.ErrUsage, e, size)
		}
		end = e.End()
		if err := m.set(e.Off/grain, (e.End()-1)/grain); err != nil {
			return err
		}
	}
	if m.cur != 0 {
		if err := m.to(m.at + 1); err != nil {
			return err
		}
	}
	if size > 0 {
		if err := m.to((size-1)/grain/8 + 1); err != nil {
			return err
		}
	}
	return m.w.Flush()
}

// bitmap writes a bitmap in ascending order.
type bitmap struct {
	w   *bufio.Writer
	at  int64 // byte being filled
	cur byte  // what it holds so far
}

// to writes out bytes until byte at is the one to fill.
func (m *bitmap) to(at int64) error {
	for ; m.at < at; m.at++ {
		if err := m.w.WriteByte(m.cur); err != nil {
			return err
		}
		m.cur = 0
	}
	return nil
}

// set sets bits first to last. A grain may be shared with the extent before.
func (m *bitmap) set(first, last int64) error {
	for bit := first; bit <= last; {
		if err := m.to(bit / 8); err != nil {
			return err
		}
		// All of this byte from bit on, cut at last.
		end := min(last, bit|7)
		m.cur |= byte(1<<(end-bit+1)-1) << (bit & 7)
		bit = end + 1
	}
	return nil
}
