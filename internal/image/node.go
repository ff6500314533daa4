package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// Limits of the format.
const (
	MinChunkSize = 4 << 10
	MaxChunkSize = chunkstore.MaxObject
	MaxSize      = 1 << 62 // of a device, in bytes
)

const (
	format     = "image tree node"
	magic      = 0x4e546b62 // "bkTN", little-endian
	version    = 1
	fanoutLog2 = 6
	fanout     = 1 << fanoutLog2
	nameSize   = 32

	minChunkLog2 = 12
	maxChunkLog2 = 24
	maxSizeLog2  = 62
	maxLevels    = (maxSizeLog2 - minChunkLog2 + fanoutLog2 - 1) / fanoutLog2
)

// The header of a node, little-endian, see docs/format/image-tree.md:
//
//	off size field
//	  0    4 magic "bkTN"
//	  4    1 version, 1
//	  5    1 level, 0 for a node that names chunks
//	  6    1 log2 of the chunk size, 12 to 24
//	  7    1 log2 of the fanout, 6
//	  8    8 size, the bytes of the device that the node spans
const (
	offMagic   = 0
	offVersion = 4
	offLevel   = 5
	offChunk   = 6
	offFanout  = 7
	offSize    = 8
	headerSize = 16
)

// shape is what the header of a node says, which is as well what the node's
// place in a tree implies.
type shape struct {
	level     uint8
	chunkLog2 uint8
	size      int64
}

// childLog2 is log2 of the bytes that one full child spans.
func (s shape) childLog2() int { return int(s.chunkLog2) + fanoutLog2*int(s.level) }

// count is the number of names in the node.
func (s shape) count() int {
	child := int64(1) << s.childLog2()
	return int((s.size + child - 1) >> s.childLog2())
}

// childSize is the bytes that the child in slot spans.
func (s shape) childSize(slot int) int64 {
	return min(int64(1)<<s.childLog2(), s.size-int64(slot)<<s.childLog2())
}

// child is the shape of the node that slot names. The level of s is above 0.
func (s shape) child(slot int) shape {
	return shape{s.level - 1, s.chunkLog2, s.childSize(slot)}
}

// encodedLen is the length of the node in bytes.
func (s shape) encodedLen() int { return headerSize + nameSize*s.count() }

// appendNode appends a node of shape s that names nothing but zeros.
func (s shape) appendNode(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, magic)
	b = append(b, version, s.level, s.chunkLog2, fanoutLog2)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.size))
	var zeros [fanout * nameSize]byte
	return append(b, zeros[:nameSize*s.count()]...)
}

// nameAt returns the name in slot of an encoded node.
func nameAt(node []byte, slot int) chunkstore.ID {
	off := headerSize + nameSize*slot
	return chunkstore.ID(node[off : off+nameSize])
}

// setName puts id into slot of an encoded node.
func setName(node []byte, slot int, id chunkstore.ID) {
	copy(node[headerSize+nameSize*slot:][:nameSize], id[:])
}

// namesNothing tells whether all names of an encoded node are the zero name.
func namesNothing(node []byte) bool { return allZero(node[headerSize:]) }

func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// parseNode checks an encoded node by itself and returns its shape.
func parseNode(b []byte) (shape, error) {
	if len(b) < headerSize {
		return shape{}, blkbak.Corruptf(format, int64(len(b)), "%d bytes, want at least %d", len(b), headerSize)
	}
	if m := binary.LittleEndian.Uint32(b[offMagic:]); m != magic {
		return shape{}, blkbak.Corruptf(format, offMagic, "magic %#08x, want %#08x", m, magic)
	}
	if v := b[offVersion]; v != version {
		return shape{}, blkbak.Corruptf(format, offVersion, "version %d, this program reads %d", v, version)
	}
	if f := b[offFanout]; f != fanoutLog2 {
		return shape{}, blkbak.Corruptf(format, offFanout, "fanout 2^%d, want 2^%d", f, fanoutLog2)
	}
	s := shape{level: b[offLevel], chunkLog2: b[offChunk]}
	if s.chunkLog2 < minChunkLog2 || s.chunkLog2 > maxChunkLog2 {
		return shape{}, blkbak.Corruptf(format, offChunk, "chunk size 2^%d, want 2^%d to 2^%d", s.chunkLog2, minChunkLog2, maxChunkLog2)
	}
	if s.childLog2() >= maxSizeLog2 {
		return shape{}, blkbak.Corruptf(format, offLevel, "level %d is too high for chunks of 2^%d bytes", s.level, s.chunkLog2)
	}
	size := binary.LittleEndian.Uint64(b[offSize:])
	if size > MaxSize {
		return shape{}, blkbak.Corruptf(format, offSize, "size %d is above %d", size, int64(MaxSize))
	}
	s.size = int64(size)
	if n := s.count(); n > fanout || n == 0 && s.level > 0 {
		return shape{}, blkbak.Corruptf(format, offSize, "size %d does not fit level %d", s.size, s.level)
	}
	if want := s.encodedLen(); len(b) != want {
		return shape{}, blkbak.Corruptf(format, int64(min(len(b), want)), "%d bytes, want %d for size %d", len(b), want, s.size)
	}
	return s, nil
}

// parseTop checks an encoded top node, and returns the geometry of its tree.
func parseTop(b []byte) (geometry, error) {
	s, err := parseNode(b)
	if err != nil {
		return geometry{}, err
	}
	g := geometry{s.size, s.chunkLog2}
	if top := g.top(); s.level != top {
		return geometry{}, blkbak.Corruptf(format, offLevel, "top node has level %d, size %d needs %d", s.level, s.size, top)
	}
	return g, nil
}

// checkInner checks an encoded node below the top, whose place implies want.
func checkInner(b []byte, want shape) error {
	s, err := parseNode(b)
	switch {
	case err != nil:
		return err
	case s.level != want.level:
		return blkbak.Corruptf(format, offLevel, "level %d, its place in the tree wants %d", s.level, want.level)
	case s.chunkLog2 != want.chunkLog2:
		return blkbak.Corruptf(format, offChunk, "chunk size 2^%d, its place in the tree wants 2^%d", s.chunkLog2, want.chunkLog2)
	case s.size != want.size:
		return blkbak.Corruptf(format, offSize, "size %d, its place in the tree wants %d", s.size, want.size)
	case namesNothing(b):
		return blkbak.Corruptf(format, headerSize, "a node of zeros is stored")
	}
	return nil
}

// geometry is the shape of a whole tree.
type geometry struct {
	size      int64
	chunkLog2 uint8
}

// newGeometry checks the sizes, both in bytes.
func newGeometry(size, chunkSize int64) (geometry, error) {
	if chunkSize < MinChunkSize || chunkSize > MaxChunkSize || chunkSize&(chunkSize-1) != 0 {
		return geometry{}, fmt.Errorf("chunk size %d: want a power of two from %d to %d: %w", chunkSize, MinChunkSize, MaxChunkSize, blkbak.ErrUsage)
	}
	if size < 0 || size > MaxSize {
		return geometry{}, fmt.Errorf("device size %d: want 0 to %d: %w", size, int64(MaxSize), blkbak.ErrUsage)
	}
	return geometry{size, uint8(bits.TrailingZeros64(uint64(chunkSize)))}, nil
}

func (g geometry) chunkSize() int64 { return 1 << g.chunkLog2 }

// chunks is the number of chunks, a short last one included.
func (g geometry) chunks() int64 { return (g.size + g.chunkSize() - 1) >> g.chunkLog2 }

// chunk is the extent of chunk i.
func (g geometry) chunk(i int64) blkbak.Extent {
	off := i << g.chunkLog2
	return blkbak.Extent{Off: off, Len: min(g.chunkSize(), g.size-off)}
}

// top is the level of the top node: the lowest at which one node spans it all.
func (g geometry) top() uint8 {
	var level uint8
	for n := g.chunks(); n > fanout; n = (n + fanout - 1) >> fanoutLog2 {
		level++
	}
	return level
}

// node is the extent and the shape of node i of a level that is not above the
// top, or of what would be there in a taller tree.
func (g geometry) node(level uint8, i int64) (blkbak.Extent, shape) {
	e := blkbak.Extent{Len: g.size}
	if log2 := int(g.chunkLog2) + fanoutLog2*(int(level)+1); log2 < maxSizeLog2 {
		e.Off = i << log2
		e.Len = max(0, min(int64(1)<<log2, g.size-e.Off))
	}
	return e, shape{level, g.chunkLog2, e.Len}
}

// slotOf is the slot on level that leads to a chunk.
func slotOf(chunk int64, level uint8) int {
	return int(chunk>>(fanoutLog2*level)) & (fanout - 1)
}

// nodeOf is the index of the node on level that leads to a chunk.
func nodeOf(chunk int64, level uint8) int64 { return chunk >> (fanoutLog2 * (int(level) + 1)) }
