package cow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/blkbak/blkbak"
)

const (
	formatName = "exception store"

	// Magic begins every store: "SnAp".
	Magic = 0x70416e53
	// Version is the only version there ever was.
	Version = 1

	sector = 512
	// MinChunk and MaxChunk bound the chunk size in bytes. The kernel takes any
	// power of two of sectors that, in bytes, fits an int.
	MinChunk = sector
	MaxChunk = 1 << 30

	headerSize = 16
	entrySize  = 16
)

// Header is the store's first 16 bytes (struct disk_header in the kernel's
// drivers/md/dm-snap-persistent.c); the rest of chunk 0 is not defined.
//
//	offset size field
//	     0    4 magic       0: no header, to be written by the kernel
//	     4    4 valid       0: the snapshot was dropped; there is no way back
//	     8    4 version
//	    12    4 chunk size  in 512-byte sectors; overrides the device's table
type Header struct {
	Magic        uint32
	Valid        uint32
	Version      uint32
	ChunkSectors uint32
}

// ChunkSize is the chunk size in bytes.
func (h Header) ChunkSize() int64 { return int64(h.ChunkSectors) * sector }

// AppendBinary appends the encoded header to b.
func (h Header) AppendBinary(b []byte) ([]byte, error) {
	for _, v := range [...]uint32{h.Magic, h.Valid, h.Version, h.ChunkSectors} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b, nil
}

// UnmarshalBinary takes the shape of a header from b, which may be longer. What
// the fields mean is for Validate.
func (h *Header) UnmarshalBinary(b []byte) error {
	if len(b) < headerSize {
		return blkbak.Corruptf(formatName, 0, "%d bytes are no header of %d", len(b), headerSize)
	}
	le := binary.LittleEndian
	*h = Header{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}
	return nil
}

// Validate tells whether h heads a store whose table can be trusted. The error
// matches blkbak.ErrNeedsFull when the store is invalid or has no header (fresh,
// or of the transient kind), and blkbak.ErrCorrupt when it is none at all.
func (h Header) Validate() error {
	if err := h.validateShape(); err != nil {
		return err
	}
	if h.Valid == 0 {
		return blkbak.WithHint(
			fmt.Errorf("%s: marked invalid: the snapshot was dropped and changes are missing: %w", formatName, blkbak.ErrNeedsFull),
			"its space ran out or a write to it failed; give the snapshot more room")
	}
	return nil
}

// validateShape is Validate but for the valid flag.
func (h Header) validateShape() error {
	size := h.ChunkSize()
	switch {
	case h.Magic == 0:
		return fmt.Errorf("%s: no header: fresh or transient: %w", formatName, blkbak.ErrNeedsFull)
	case h.Magic != Magic:
		return blkbak.Corruptf(formatName, 0, "magic %#08x, want %#08x", h.Magic, uint32(Magic))
	case h.Version != Version:
		return blkbak.Corruptf(formatName, 8, "version %d, want %d", h.Version, Version)
	case size < MinChunk || size > MaxChunk || size&(size-1) != 0:
		return blkbak.Corruptf(formatName, 12, "chunk size of %d sectors is no power of two up to %d", h.ChunkSectors, MaxChunk/sector)
	}
	return nil
}

// ReadHeader reads the header of the store of size bytes in r. It checks nothing
// but that there is one: see Header.Validate.
func ReadHeader(r io.ReaderAt, size int64) (Header, error) {
	var h Header
	n := min(size, pageSize)
	if n >= sector {
		n -= n % sector
	}
	if n < headerSize {
		return h, blkbak.Corruptf(formatName, 0, "%d bytes are no header of %d", max(n, 0), headerSize)
	}
	buf := alignedBuffer(int(n))
	if err := readFull(r, buf, 0); err != nil {
		return h, err
	}
	return h, h.UnmarshalBinary(buf)
}

// readFull fills buf from offset off of the store.
func readFull(r io.ReaderAt, buf []byte, off int64) error {
	n, err := r.ReadAt(buf, off)
	switch {
	case n == len(buf):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return &blkbak.FormatError{Format: formatName, Off: off + int64(n), Msg: "cut short", Err: io.ErrUnexpectedEOF}
	}
	return fmt.Errorf("read %s at byte %d: %w", formatName, off, err)
}
