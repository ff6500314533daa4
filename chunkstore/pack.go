package chunkstore

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/binread"
)

// Layout of a pack. docs/format/pack.md has the field tables.
//
//	header (64)  frame frame ...  table (48 per frame)  trailer (96)
//
// Numbers are little endian, offsets count from the start of the pack.
const (
	packMagic    = "blkbakPK"
	packEndMagic = "blkbakPE"
	packVersion  = 1

	packHeaderSize  = 64
	frameHeaderSize = 16
	tableEntrySize  = 48
	packTrailerSize = 96

	frameMagic = 0x424f6b62 // "bkOB"

	// maxPack keeps offsets in 32 bits; writers stay far below.
	maxPack = 1 << 32
	// maxPackEntries bounds what reading a table takes; writers close a pack of
	// tiny objects there.
	maxPackEntries = 1 << 18
)

// packRef names a pack: the session that wrote it and its number in it.
type packRef struct {
	session blkbak.PointID
	n       uint32
}

func (r packRef) name() string { return fmt.Sprintf("packs/%v-%d", r.session, r.n) }

// tableEntry describes one frame: what the pack's table says of it.
//
//	off size
//	0   32   object name
//	32  4    offset of the frame
//	36  4    stored bytes, frame header not counted
//	40  4    plaintext bytes
//	44  1    codec
//	45  1    kind
//	46  2    flags, 0
type tableEntry struct {
	id     ID
	off    uint32
	stored uint32
	plain  uint32
	codec  uint8
	kind   Kind
}

// frameLen is the length of the whole frame.
func (e tableEntry) frameLen() int64 { return frameHeaderSize + int64(e.stored) }

func (e tableEntry) appendBinary(b []byte) []byte {
	b = append(b, e.id[:]...)
	b = binary.LittleEndian.AppendUint32(b, e.off)
	b = binary.LittleEndian.AppendUint32(b, e.stored)
	b = binary.LittleEndian.AppendUint32(b, e.plain)
	return append(b, e.codec, byte(e.kind), 0, 0)
}

// appendFrame appends a frame's header; its payload follows.
//
//	off size
//	0   4    magic "bkOB"
//	4   1    codec
//	5   1    kind
//	6   2    flags, 0
//	8   4    plaintext bytes
//	12  4    stored bytes
func (e tableEntry) appendFrame(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, frameMagic)
	b = append(b, e.codec, byte(e.kind), 0, 0)
	b = binary.LittleEndian.AppendUint32(b, e.plain)
	return binary.LittleEndian.AppendUint32(b, e.stored)
}

// parseFrame takes a whole frame apart. name and off say where it was read.
func parseFrame(name string, off int64, frame []byte) (e tableEntry, payload []byte, err error) {
	c := binread.New(name, off, frame)
	magic := c.Uint32()
	e.codec, e.kind = c.Uint8(), Kind(c.Uint8())
	flags := c.Uint16()
	e.off, e.plain, e.stored = uint32(off), c.Uint32(), c.Uint32()
	switch {
	case c.Err() != nil:
	case magic != frameMagic:
		return e, nil, blkbak.Corruptf(name, off, "no object starts here")
	case flags != 0:
		return e, nil, blkbak.Corruptf(name, off+6, "unknown flags %#x", flags)
	case e.plain == 0 || e.plain > MaxObject || e.stored > MaxObject:
		return e, nil, blkbak.Corruptf(name, off+8, "object of %d bytes, %d stored", e.plain, e.stored)
	}
	payload = c.Bytes(int(e.stored))
	return e, payload, c.Done()
}

// object decodes a frame's payload into dst and checks it against its name.
func (e tableEntry) object(name string, dst, payload []byte) ([]byte, error) {
	plain, err := decode(dst, e.codec, payload, int(e.plain))
	if err != nil {
		return nil, &blkbak.FormatError{Format: name, Off: int64(e.off), Msg: "object " + e.id.String(), Err: err}
	}
	if Sum(plain) != e.id {
		return nil, blkbak.Corruptf(name, int64(e.off), "object %v does not have the content that its name promises", e.id)
	}
	return plain, nil
}

// pack is a pack being filled in memory.
type pack struct {
	ref   packRef
	buf   []byte
	table []tableEntry
}

// start empties p and begins a pack with the given name.
func (p *pack) start(ref packRef, kind Kind) {
	p.ref, p.table = ref, p.table[:0]
	b := append(p.buf[:0], packMagic...)
	b = binary.LittleEndian.AppendUint16(b, packVersion)
	b = append(b, byte(kind), 0)
	b = binary.LittleEndian.AppendUint32(b, 0) // flags
	b = append(b, ref.session[:]...)
	b = binary.LittleEndian.AppendUint32(b, ref.n)
	p.buf = append(b, make([]byte, packHeaderSize-len(b))...)
}

// packRoom is the memory of a full pack of the default size, its table included.
const packRoom = defaultPackSize + defaultPackSize/16

// grow makes room for need bytes, in few large steps up to what a full pack
// takes: the many small ones of append would copy everything several times over.
func (p *pack) grow(need int) {
	size := max(256<<10, 4*cap(p.buf), need)
	switch {
	case need > packRoom: // packs of another size
		size = need + need/4
	case size > packRoom:
		size = packRoom
	}
	p.buf = append(make([]byte, 0, size), p.buf...)
}

// add appends an object and returns its entry.
func (p *pack) add(e tableEntry, payload []byte) tableEntry {
	if need := len(p.buf) + frameHeaderSize + len(payload); need > cap(p.buf) {
		p.grow(need)
	}
	e.off, e.stored = uint32(len(p.buf)), uint32(len(payload))
	p.buf = append(e.appendFrame(p.buf), payload...)
	p.table = append(p.table, e)
	return e
}

// finish appends table and trailer: p.buf is then the whole file.
func (p *pack) finish() {
	body := len(p.buf)
	bodySum := Sum(p.buf)
	for _, e := range p.table {
		p.buf = e.appendBinary(p.buf)
	}
	tableSum := Sum(p.buf[body:])
	p.buf = append(p.buf, bodySum[:]...)
	p.buf = append(p.buf, tableSum[:]...)
	p.buf = binary.LittleEndian.AppendUint64(p.buf, uint64(body))
	p.buf = binary.LittleEndian.AppendUint32(p.buf, uint32(len(p.table)))
	p.buf = binary.LittleEndian.AppendUint16(p.buf, packVersion)
	p.buf = append(p.buf, make([]byte, 10)...)
	p.buf = append(p.buf, packEndMagic...)
}

// packTrailer is the end of a pack.
//
//	off size
//	0   32   BLAKE3 of header and frames
//	32  32   BLAKE3 of the table
//	64  8    offset of the table
//	72  4    number of entries
//	76  2    version, 1
//	78  10   zeros
//	88  8    magic "blkbakPE"
type packTrailer struct {
	bodySum, tableSum ID
	table             int64
	count             int64
}

func parsePackTrailer(name string, size int64, b []byte) (t packTrailer, err error) {
	c := binread.New(name, size-packTrailerSize, b)
	copy(t.bodySum[:], c.Bytes(32))
	copy(t.tableSum[:], c.Bytes(32))
	table := c.Uint64()
	t.count = int64(c.Uint32())
	version := c.Uint16()
	rest, magic := c.Bytes(10), c.Bytes(8)
	if err := c.Done(); err != nil {
		return t, err
	}
	switch {
	case string(magic) != packEndMagic:
		return t, blkbak.Corruptf(name, size-8, "no pack ends here")
	case version != packVersion:
		return t, blkbak.Corruptf(name, size-20, "version %d, this program knows %d", version, packVersion)
	case [10]byte(rest) != [10]byte{}:
		return t, blkbak.Corruptf(name, size-18, "bytes in use that this program does not know")
	case t.count > maxPackEntries:
		return t, blkbak.Corruptf(name, size-24, "table of %d entries, the limit is %d", t.count, maxPackEntries)
	case size > maxPack || table > maxPack || int64(table)+t.count*tableEntrySize+packTrailerSize != size || table < packHeaderSize:
		return t, blkbak.Corruptf(name, size-32, "table of %d entries at %d in a pack of %d bytes", t.count, table, size)
	}
	t.table = int64(table)
	return t, nil
}

// readPackTable reads and checks the table of a pack, and nothing else of it.
func readPackTable(name string, r io.ReaderAt, size int64) (packTrailer, []tableEntry, error) {
	if size < packHeaderSize+packTrailerSize {
		return packTrailer{}, nil, blkbak.Corruptf(name, -1, "%d bytes are too few for a pack", size)
	}
	var end [packTrailerSize]byte
	if err := readFull(name, r, end[:], size-packTrailerSize); err != nil {
		return packTrailer{}, nil, err
	}
	t, err := parsePackTrailer(name, size, end[:])
	if err != nil {
		return t, nil, err
	}
	b := make([]byte, t.count*tableEntrySize) // at most 12 MiB, and what the file has
	if err := readFull(name, r, b, t.table); err != nil {
		return t, nil, err
	}
	if Sum(b) != t.tableSum {
		return t, nil, blkbak.Corruptf(name, t.table, "checksum of the table does not match")
	}
	list, err := parsePackTable(name, t, b)
	return t, list, err
}

// parsePackTable decodes the table and holds it to the rule that frames follow
// each other without gaps.
func parsePackTable(name string, t packTrailer, b []byte) ([]tableEntry, error) {
	list := make([]tableEntry, t.count)
	c := binread.New(name, t.table, b)
	next := int64(packHeaderSize)
	for i := range list {
		e := &list[i]
		at := c.Off()
		copy(e.id[:], c.Bytes(32))
		e.off, e.stored, e.plain = c.Uint32(), c.Uint32(), c.Uint32()
		e.codec, e.kind = c.Uint8(), Kind(c.Uint8())
		flags := c.Uint16()
		if flags != 0 || int64(e.off) != next || e.plain == 0 || e.plain > MaxObject || e.stored > MaxObject {
			return nil, blkbak.Corruptf(name, at, "entry %d does not describe an object", i)
		}
		next += e.frameLen()
	}
	if err := c.Done(); err != nil {
		return nil, err
	}
	if next != t.table {
		return nil, blkbak.Corruptf(name, next, "objects end here, the table begins at %d", t.table)
	}
	return list, nil
}

// checkPackHeader compares the first bytes of a pack with its name.
func checkPackHeader(name string, ref packRef, b []byte) error {
	var want pack
	if len(b) < packHeaderSize {
		return blkbak.Corruptf(name, -1, "%d bytes are too few for a pack", len(b))
	}
	want.start(ref, Kind(b[10]))
	for i, x := range want.buf {
		if b[i] != x {
			return blkbak.Corruptf(name, int64(i), "header is not that of this pack")
		}
	}
	return nil
}
