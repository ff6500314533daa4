package binread

import (
	"encoding/binary"

	"github.com/blkbak/blkbak"
)

// Cursor walks over a little-endian record. The zero value reads nothing; make
// one with New. Not safe for concurrent use.
type Cursor struct {
	format string
	base   int64
	buf    []byte
	pos    int
	err    error
}

// New starts a cursor over buf, which lies at offset base of the named format.
// Slices that the cursor returns share buf's memory.
func New(format string, base int64, buf []byte) *Cursor {
	return &Cursor{format: format, base: base, buf: buf}
}

// Off is the absolute offset of the next byte.
func (c *Cursor) Off() int64 { return c.base + int64(c.pos) }

// Left is the number of bytes not read yet.
func (c *Cursor) Left() int { return len(c.buf) - c.pos }

// Err is the first error met.
func (c *Cursor) Err() error { return c.err }

// Fail records an error at the current offset unless one is recorded already.
func (c *Cursor) Fail(msg string, args ...any) {
	if c.err == nil {
		c.err = blkbak.Corruptf(c.format, c.Off(), msg, args...)
	}
}

// Bytes returns the next n bytes, or nil when there are fewer.
func (c *Cursor) Bytes(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > c.Left() {
		c.Fail("%d bytes wanted, %d left", n, c.Left())
		return nil
	}
	b := c.buf[c.pos : c.pos+n : c.pos+n]
	c.pos += n
	return b
}

// Uint8 reads one byte.
func (c *Cursor) Uint8() uint8 {
	if b := c.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 reads a little-endian number.
func (c *Cursor) Uint16() uint16 {
	if b := c.Bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads a little-endian number.
func (c *Cursor) Uint32() uint32 {
	if b := c.Bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// Uint64 reads a little-endian number.
func (c *Cursor) Uint64() uint64 {
	if b := c.Bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Done returns the first error, or one for bytes that nothing read.
func (c *Cursor) Done() error {
	if c.err == nil && c.Left() > 0 {
		c.Fail("%d bytes too many", c.Left())
	}
	return c.err
}
