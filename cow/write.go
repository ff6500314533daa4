package cow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/blkbak/blkbak"
)

// WriteOptions are how a store is written. OriginSize must be given.
type WriteOptions struct {
	OriginSize int64
	ChunkSize  int64 // bytes; 0: DefaultChunk
	Size       int64 // bytes of the device written to; 0: as many as it takes
}

// DefaultChunk is the chunk size that LVM chooses.
const DefaultChunk = 4096

func (o *WriteOptions) complete() error {
	if o.ChunkSize == 0 {
		o.ChunkSize = DefaultChunk
	}
	var errs []error
	if o.ChunkSize < MinChunk || o.ChunkSize > MaxChunk || o.ChunkSize&(o.ChunkSize-1) != 0 {
		errs = append(errs, fmt.Errorf("%w: chunk size %d is no power of two from %d to %d", blkbak.ErrUsage, o.ChunkSize, MinChunk, MaxChunk))
	}
	if o.OriginSize <= 0 || o.OriginSize > maxOrigin {
		errs = append(errs, fmt.Errorf("%w: origin size %d", blkbak.ErrUsage, o.OriginSize))
	}
	return errors.Join(errs...)
}

// Write makes an exception store in dst that shows the content of src at extents:
// over any origin of that size, the kernel's snapshot target then reads as src
// there. The extents are sorted and lie within the origin; they are widened to
// whole chunks, so src must be the whole snapshot. The header comes last, and a
// write that stops early leaves no store behind. Write returns the bytes that
// the store takes from dst's start. It does not sync.
func Write(ctx context.Context, dst io.WriterAt, src io.ReaderAt, extents []blkbak.Extent, opts WriteOptions) (int64, error) {
	if err := opts.complete(); err != nil {
		return 0, err
	}
	var end int64
	for _, e := range extents {
		if e.Off < end || e.Len < 0 || e.Len > opts.OriginSize-e.Off {
			return 0, fmt.Errorf("%w: extent %v is out of order or beyond the origin's %d bytes", blkbak.ErrUsage, e, opts.OriginSize)
		}
		end = e.End()
	}
	size := int64(math.MaxInt64)
	if opts.Size > 0 {
		size = opts.Size
	}
	w := &writer{dst: dst, src: src, layout: newLayout(opts.ChunkSize, size), originSize: opts.OriginSize, next: 2}
	extents = blkbak.AlignExtents(extents, opts.ChunkSize, opts.OriginSize)
	total := w.chunksFor(extents)
	if total > w.chunks {
		return 0, fmt.Errorf("write %s: %d chunks wanted, %d there: %w", formatName, total, w.chunks, blkbak.ErrNoSpace)
	}
	head := make([]byte, min(opts.ChunkSize, pageSize))
	if _, err := dst.WriteAt(head, 0); err != nil {
		return 0, err
	}
	for _, e := range extents {
		if err := w.extent(ctx, e); err != nil {
			return 0, err
		}
	}
	if err := w.endTable(); err != nil {
		return 0, err
	}
	return int64(total) * opts.ChunkSize, w.header(head)
}

// header writes the header in head, a block of zeros.
func (w *writer) header(head []byte) error {
	h := Header{Magic: Magic, Valid: 1, Version: Version, ChunkSectors: uint32(w.chunk / sector)}
	b, err := h.AppendBinary(nil)
	if err != nil {
		return err
	}
	copy(head, b)
	_, err = w.dst.WriteAt(head, 0)
	return err
}

// writer lays out data chunks and entries as the kernel does.
type writer struct {
	layout
	dst        io.WriterAt
	src        io.ReaderAt
	originSize int64
	next       uint64 // the next data chunk
	meta       int64  // bytes of metadata written
	entries    []byte // those to come after, for chunks whose data is written
	buf        []byte
}

// chunksFor is the number of chunks in a store for extents: the header, the data,
// and an area for every E entries and the end after them.
func (w *writer) chunksFor(extents []blkbak.Extent) uint64 {
	var n uint64
	for _, e := range extents {
		n += uint64((e.Len-1)/w.chunk) + 1
	}
	return 1 + n + n/uint64(w.per) + 1
}

// extent writes an extent's data and entries.
func (w *writer) extent(ctx context.Context, e blkbak.Extent) error {
	for e.Len > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// Data is contiguous up to the next area.
		room := int64(w.stride-(w.next-1)%w.stride) * w.chunk
		n := min(e.Len, room)
		if err := w.data(blkbak.Extent{Off: e.Off, Len: n}); err != nil {
			return err
		}
		e.Off, e.Len = e.Off+n, e.Len-n
	}
	return nil
}

// data writes data that fits before the next area, and its entries.
func (w *writer) data(e blkbak.Extent) error {
	if w.buf == nil {
		w.buf = alignedBuffer(1 << 20)
	}
	at := int64(w.next) * w.chunk
	for off := e.Off; off < e.End(); {
		b := w.buf[:min(e.End()-off, int64(len(w.buf)))]
		if n, err := w.src.ReadAt(b, off); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read snapshot at byte %d: %w", off, err)
		}
		if _, err := w.dst.WriteAt(b, at); err != nil {
			return err
		}
		off, at = off+int64(len(b)), at+int64(len(b))
	}
	// The origin's last chunk may be short; the store's is not.
	if short := -at & (w.chunk - 1); short > 0 {
		if err := w.zero(at, short); err != nil {
			return err
		}
	}
	for c := e.Off / w.chunk; c*w.chunk < e.End(); c++ {
		if err := w.entry(uint64(c)); err != nil {
			return err
		}
	}
	return nil
}

// entry lists the origin's chunk oldChunk as being at w.next.
func (w *writer) entry(oldChunk uint64) error {
	w.entries = binary.LittleEndian.AppendUint64(w.entries, oldChunk)
	w.entries = binary.LittleEndian.AppendUint64(w.entries, w.next)
	w.next++
	if w.isMetadata(w.next) {
		w.next++
	}
	if int64(len(w.entries)) == w.piece {
		return w.flush()
	}
	return nil
}

// flush writes the entries that are waiting.
func (w *writer) flush() error {
	_, err := w.dst.WriteAt(w.entries, w.metaOffset(w.meta))
	w.meta += int64(len(w.entries))
	w.entries = w.entries[:0]
	return err
}

// endTable writes the rest of the last area: zeros, of which the first entry's
// worth is the table's end. After a full area that is the whole next one.
func (w *writer) endTable() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.zero(w.metaOffset(w.meta), w.chunk-w.meta%w.chunk)
}

func (w *writer) zero(off, n int64) error {
	zeros := make([]byte, min(n, maxPiece))
	for n > 0 {
		m, err := w.dst.WriteAt(zeros[:min(n, maxPiece)], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}
