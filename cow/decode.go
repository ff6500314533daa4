package cow

import (
	"encoding/binary"
	"math"

	"github.com/blkbak/blkbak"
)

// decoder takes entries in the table's order, checks each, and keeps the old
// chunks. The kernel hands out new chunks one after the other, so these need one
// comparison; only what breaks that order is kept in a set.
type decoder struct {
	layout
	oldEnd uint64 // old chunks lie below it

	olds set
	// All data chunks below next are taken, next itself is not.
	next    uint64
	slot    uint64 // the first metadata chunk above next
	strays  set    // new chunks taken above next
	unruly  bool   // strays was used
	entries int64
}

// newDecoder makes a decoder for an origin of originSize bytes, 0 if unknown.
func newDecoder(l layout, originSize int64) *decoder {
	d := &decoder{layout: l, next: 2, slot: 1 + l.stride}
	// Offsets are int64, so without a size the last chunk that has them is the limit.
	d.oldEnd = math.MaxInt64 / uint64(l.chunk)
	if originSize > 0 {
		d.oldEnd = uint64((originSize-1)/l.chunk) + 1
	}
	return d
}

// decode takes the entries in buf, a whole number of them, which lie at device
// offset off, up to the end of the table. It returns how many it took: fewer than
// there are in buf when the table ends here.
func (d *decoder) decode(buf []byte, off int64) (int, error) {
	took := 0
	for b := buf; len(b) >= entrySize; b = buf[took*entrySize:] {
		oldChunk := binary.LittleEndian.Uint64(b)
		newChunk := binary.LittleEndian.Uint64(b[8:])
		if newChunk == 0 {
			break
		}
		at := off + int64(took)*entrySize
		n := uint64(1)
		if newChunk == d.next && newChunk < d.chunks {
			n = d.run(b, oldChunk, newChunk)
		} else if err := d.stray(newChunk, at); err != nil {
			return took, err
		}
		// The first entry that is wrong is the one to name, so those before the
		// origin's end go first.
		within := min(n, d.oldEnd-min(oldChunk, d.oldEnd))
		if dup, ok := d.olds.add(oldChunk, within); !ok {
			return took, blkbak.Corruptf(formatName, at+int64(dup-oldChunk)*entrySize, "old chunk %d is listed twice", dup)
		}
		if within < n {
			return took, blkbak.Corruptf(formatName, at+int64(within)*entrySize,
				"old chunk %d is beyond the origin's %d chunks", oldChunk+within, d.oldEnd)
		}
		took += int(n)
	}
	d.entries += int64(took)
	return took, nil
}

// run returns how many of the entries in b, the first of which takes d.next, count
// on by one on both sides, and takes their new chunks.
func (d *decoder) run(b []byte, oldChunk, newChunk uint64) uint64 {
	if d.unruly {
		d.advance()
		return 1
	}
	room := min(d.slot, d.chunks) - newChunk
	n := uint64(1)
	for b = b[entrySize:]; len(b) >= entrySize && n < room &&
		binary.LittleEndian.Uint64(b) == oldChunk+n &&
		binary.LittleEndian.Uint64(b[8:]) == newChunk+n; b = b[entrySize:] {
		n++
	}
	d.next += n - 1
	d.advance()
	return n
}

// advance takes the chunk next.
func (d *decoder) advance() {
	for {
		d.next++
		if d.next == d.slot {
			d.next++
			d.slot += d.stride
		}
		if !d.unruly || !d.strays.has(d.next) {
			return
		}
	}
}

// stray takes a new chunk out of the usual order.
func (d *decoder) stray(n uint64, at int64) error {
	switch {
	case n >= d.chunks:
		return blkbak.Corruptf(formatName, at, "new chunk %d is beyond the device's %d chunks", n, d.chunks)
	case d.isMetadata(n):
		return blkbak.Corruptf(formatName, at, "new chunk %d is the place of metadata", n)
	case n < d.next:
		return blkbak.Corruptf(formatName, at, "new chunk %d is listed twice", n)
	}
	if _, ok := d.strays.add(n, 1); !ok {
		return blkbak.Corruptf(formatName, at, "new chunk %d is listed twice", n)
	}
	d.unruly = true
	return nil
}
