package chunkstore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"slices"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/binread"
)

// Layout of an index segment. docs/format/index.md has the field tables.
//
//	header (32)  sources  packs (12 each)  fanout (4 each)  entries (32 each)  BLAKE3 (32)
//
// Entries are sorted. The fanout table has 2^k+1 numbers: entries whose name
// begins with the k bits x are those from number x to number x+1.
const (
	indexMagic      = "blkbakIX"
	indexVersion    = 1
	indexHeaderSize = 32
	indexPackSize   = 12
	indexEntrySize  = 32
	indexIDSize     = 22 // leading bytes of a name; reading compares the whole
	maxIndexPacks   = 1 << 24
	maxIndexEntries = 1<<32 - 1
	maxFanoutBits   = 20

	// maxPlaces bounds what find returns. Several writers may have stored the
	// same object at the same time; this many did not.
	maxPlaces = 16
)

// location is where an object's frame lies.
type location struct {
	pack packRef
	off  int64
	len  int64 // of the whole frame
}

// indexEntry is an entry as it lies in a segment:
//
//	off size
//	0   22   leading bytes of the object's name
//	22  3    number of the pack in the segment's list
//	25  4    offset of the frame
//	29  3    length of the frame
type indexEntry [indexEntrySize]byte

func newIndexEntry(id ID, pack uint32, off, length int64) (e indexEntry) {
	copy(e[:indexIDSize], id[:])
	e.setPack(pack)
	binary.LittleEndian.PutUint32(e[25:], uint32(off))
	e[29], e[30], e[31] = byte(length), byte(length>>8), byte(length>>16)
	return e
}

func (e *indexEntry) setPack(n uint32) { e[22], e[23], e[24] = byte(n), byte(n>>8), byte(n>>16) }

func entryPack(e []byte) uint32 { return uint32(e[22]) | uint32(e[23])<<8 | uint32(e[24])<<16 }

func entryOff(e []byte) int64 { return int64(binary.LittleEndian.Uint32(e[25:])) }

func entryLen(e []byte) int64 { return int64(e[29]) | int64(e[30])<<8 | int64(e[31])<<16 }

// fanoutBits is the table size for n entries: about 16 to a bucket.
func fanoutBits(n int) int {
	return min(max(bits.Len(uint(n))-4, 0), maxFanoutBits)
}

// bucket is the number that the k leading bits of an entry or name make.
func bucket(id []byte, k int) uint32 {
	return uint32(uint64(binary.BigEndian.Uint32(id)) >> (32 - k))
}

// writeSegment encodes a segment of n sorted entries, which refer to packs by
// their number in that list. It goes over entries twice; the first time their
// order does not matter. sources is empty except in a merged cache, whose reader
// compares it with what the cache was made of.
func writeSegment(w io.Writer, sources []byte, packs []packRef, n int, entries iter.Seq[indexEntry]) error {
	if len(packs) > maxIndexPacks || uint64(n) > maxIndexEntries {
		return fmt.Errorf("index of %d packs and %d objects: %w", len(packs), n, errors.ErrUnsupported)
	}
	k := fanoutBits(n)
	b := append([]byte(nil), indexMagic...)
	b = binary.LittleEndian.AppendUint16(b, indexVersion)
	b = append(b, byte(k), 0)
	b = binary.LittleEndian.AppendUint32(b, 0) // flags
	b = binary.LittleEndian.AppendUint32(b, uint32(len(sources)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(packs)))
	b = binary.LittleEndian.AppendUint64(b, uint64(n))
	b = append(b, sources...)
	for _, p := range packs {
		b = append(b, p.session[:]...)
		b = binary.LittleEndian.AppendUint32(b, p.n)
	}
	marks := make([]uint32, 1<<k+1)
	for e := range entries {
		marks[bucket(e[:], k)+1]++
	}
	sum := uint32(0)
	for _, m := range marks {
		sum += m
		b = binary.LittleEndian.AppendUint32(b, sum)
	}
	h := newHash()
	bw := bufio.NewWriterSize(io.MultiWriter(w, h), 64<<10)
	bw.Write(b)             // bufio keeps the first error for Flush
	room := new(indexEntry) // one for all, which Write would make for each
	for e := range entries {
		*room = e
		bw.Write(room[:])
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

// buildSegment encodes a segment in memory, and sorts entries for it.
func buildSegment(packs []packRef, entries []indexEntry) []byte {
	slices.SortFunc(entries, compareEntries)
	var b bytes.Buffer
	writeSegment(&b, nil, packs, len(entries), slices.Values(entries)) // a Buffer never fails
	return b.Bytes()
}

func compareEntries(a, b indexEntry) int { return bytes.Compare(a[:], b[:]) }

// segment is an index segment in memory, mapped or built. What reads it beyond
// its shape does so under guarded.
type segment struct {
	name    string
	obj     Object // what to close when the segment goes, or nil
	whole   []byte
	sources []byte
	packs   []byte
	fanout  []byte
	entries []byte
	k       int
	trusted bool // check was called and found nothing; guarded by who calls it
}

// parseSegment checks the shape of a segment. The checksum over everything is
// left to verify: reading a large one whole at every start would cost more than
// its lookups, each of which is checked by what it leads to.
func parseSegment(name string, b []byte) (*segment, error) {
	c := binread.New(name, 0, b)
	magic := c.Bytes(8)
	version, k, zero, flags := c.Uint16(), int(c.Uint8()), c.Uint8(), c.Uint32()
	sources, packs, entries := c.Uint32(), c.Uint32(), c.Uint64()
	if err := c.Err(); err != nil {
		return nil, err
	}
	switch {
	case string(magic) != indexMagic:
		return nil, blkbak.Corruptf(name, 0, "not an index segment")
	case version != indexVersion:
		return nil, blkbak.Corruptf(name, 8, "version %d, this program knows %d", version, indexVersion)
	case zero != 0 || flags != 0:
		return nil, blkbak.Corruptf(name, 11, "unknown flags")
	case k > maxFanoutBits || packs > maxIndexPacks || entries > min(uint64(len(b))/indexEntrySize, maxIndexEntries):
		return nil, blkbak.Corruptf(name, 10, "%d packs, %d entries, %d fanout bits in %d bytes", packs, entries, k, len(b))
	}
	s := &segment{name: name, k: k, whole: b}
	s.sources = c.Bytes(int(sources))
	s.packs = c.Bytes(int(packs) * indexPackSize)
	s.fanout = c.Bytes((1<<k + 1) * 4)
	s.entries = c.Bytes(int(entries) * indexEntrySize)
	c.Bytes(len(ID{}))
	return s, c.Done()
}

// verify checks everything that lookups rely on: checksum, order, fanout and
// pack numbers.
func (s *segment) verify() error {
	body := s.whole[:len(s.whole)-len(ID{})]
	if Sum(body) != ID(s.whole[len(body):]) {
		return blkbak.Corruptf(s.name, -1, "checksum does not match")
	}
	last := uint32(0)
	for x := range uint32(1)<<s.k + 1 {
		m := binary.LittleEndian.Uint32(s.fanout[x*4:])
		if x == 0 && m != 0 || m < last || m > uint32(s.count()) {
			return blkbak.Corruptf(s.name, -1, "number %d of the fanout table is out of order", x)
		}
		last = m
	}
	if last != uint32(s.count()) {
		return blkbak.Corruptf(s.name, -1, "the fanout table ends at entry %d of %d", last, s.count())
	}
	for i := range s.count() {
		e := s.entry(i)
		x := bucket(e, s.k)
		if i > 0 && bytes.Compare(s.entry(i - 1)[:indexIDSize], e[:indexIDSize]) > 0 ||
			i < s.mark(x) || i >= s.mark(x+1) || int(entryPack(e)) >= s.packCount() {
			return blkbak.Corruptf(s.name, int64(len(body)-len(s.entries)+i*indexEntrySize), "entry %d is out of place", i)
		}
	}
	return nil
}

func (s *segment) count() int { return len(s.entries) / indexEntrySize }

func (s *segment) packCount() int { return len(s.packs) / indexPackSize }

func (s *segment) entry(i int) []byte {
	return s.entries[i*indexEntrySize : (i+1)*indexEntrySize]
}

// mark is number x of the fanout table, never more than there are entries.
func (s *segment) mark(x uint32) int {
	return int(min(binary.LittleEndian.Uint32(s.fanout[x*4:]), uint32(s.count())))
}

func (s *segment) pack(n uint32) packRef {
	p := s.packs[n*indexPackSize:]
	return packRef{blkbak.PointID(p[:8]), binary.LittleEndian.Uint32(p[8:])}
}

// find appends the places where s says that id lies: none or one, or several if
// writers at the same time stored the same object. A damaged segment may make it
// miss or name wrong places, never fail.
func (s *segment) find(id ID, out []location) (found []location) {
	found = out // kept when the segment cannot be read
	_ = guarded(s.name, func() { found = s.search(id, out) })
	return found
}

func (s *segment) search(id ID, out []location) []location {
	x := bucket(id[:], s.k)
	lo, hi := s.mark(x), s.mark(x+1)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if bytes.Compare(s.entry(mid)[:indexIDSize], id[:indexIDSize]) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for end := min(s.count(), lo+maxPlaces); lo < end; lo++ {
		e := s.entry(lo)
		if !bytes.Equal(e[:indexIDSize], id[:indexIDSize]) {
			break
		}
		if n := entryPack(e); int(n) < s.packCount() {
			out = append(out, location{s.pack(n), entryOff(e), entryLen(e)})
		}
	}
	return out
}

// has tells whether s lists id.
func (s *segment) has(id ID) bool {
	var one [1]location
	return len(s.find(id, one[:0])) > 0
}

func (s *segment) close() error {
	if s.obj == nil {
		return nil
	}
	return s.obj.Close()
}
