package binread

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
)

func TestCursor(t *testing.T) {
	c := New("thing", 100, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 'a', 'b'})
	if c.Uint8() != 1 || c.Uint16() != 0x0302 || c.Uint32() != 0x07060504 || c.Uint64() != 0x0f0e0d0c0b0a0908 {
		t.Error("numbers are wrong")
	}
	if c.Off() != 115 || c.Left() != 2 || !bytes.Equal(c.Bytes(2), []byte("ab")) || c.Done() != nil {
		t.Errorf("at %d, %d left, %v", c.Off(), c.Left(), c.Err())
	}
}

// The first error stays, names the place, and everything after it reads zeros.
func TestCursorErrors(t *testing.T) {
	for _, n := range []int{-1, 4, math.MaxInt} {
		c := New("thing", 100, []byte{1, 2, 3})
		if c.Bytes(n) != nil {
			t.Errorf("%d bytes of 3", n)
		}
		first := c.Err()
		if c.Uint8() != 0 || c.Uint16() != 0 || c.Uint32() != 0 || c.Uint64() != 0 || c.Err() != first {
			t.Error("reading went on after an error")
		}
		c.Fail("another")
		if !errors.Is(c.Done(), blkbak.ErrCorrupt) || !strings.HasPrefix(c.Done().Error(), "thing at byte 100: ") {
			t.Errorf("%v", c.Done())
		}
	}
	for n, read := range map[int]func(*Cursor){
		0: func(c *Cursor) { c.Uint8() }, 1: func(c *Cursor) { c.Uint16() },
		3: func(c *Cursor) { c.Uint32() }, 7: func(c *Cursor) { c.Uint64() },
	} {
		c := New("thing", 0, make([]byte, n))
		if read(c); c.Err() == nil {
			t.Errorf("a number read from %d bytes", n)
		}
	}
	c := New("thing", 0, []byte{1, 2})
	c.Uint8()
	if err := c.Done(); err == nil || !strings.Contains(err.Error(), "1 bytes too many") {
		t.Errorf("%v", err)
	}
}

// What Bytes returns cannot be grown into what follows it.
func TestBytesIsBounded(t *testing.T) {
	buf := []byte{1, 2, 3}
	b := append(New("thing", 0, buf).Bytes(1), 9)
	if buf[1] != 2 || len(b) != 2 {
		t.Error("the input was written to")
	}
}
