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
	var (
		cur    *leaf
		curKey = uint64(math.MaxUint64)
		took   int
	)
	for b := buf; len(b) >= entrySize; b = b[entrySize:] {
		oldChunk := binary.LittleEndian.Uint64(b)
		newChunk := binary.LittleEndian.Uint64(b[8:])
		if newChunk == 0 {
			break
		}
		at := off + int64(took)*entrySize
		if newChunk == d.next && newChunk < d.chunks {
			d.advance()
		} else if err := d.stray(newChunk, at); err != nil {
			return took, err
		}
		if oldChunk >= d.oldEnd {
			return took, blkbak.Corruptf(formatName, at, "old chunk %d is beyond the origin's %d chunks", oldChunk, d.oldEnd)
		}
		if key := oldChunk >> leafBits; key != curKey {
			cur, curKey = d.olds.leaf(key), key
		}
		w, bit := &cur[oldChunk>>6%uint64(len(cur))], uint64(1)<<(oldChunk&63)
		if *w&bit != 0 {
			return took, blkbak.Corruptf(formatName, at, "old chunk %d is listed twice", oldChunk)
		}
		*w |= bit
		took++
	}
	d.entries += int64(took)
	return took, nil
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
	case n < d.next || !d.strays.add(n):
		return blkbak.Corruptf(formatName, at, "new chunk %d is listed twice", n)
	}
	d.unruly = true
	return nil
}
