package nbdserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

const (
	// flushBytes and flushPieces are when gathered replies go out, even though more
	// could be answered. One writev takes at most 1024 pieces.
	flushBytes  = 256 << 10
	flushPieces = 1000
	// headerBlock is how much room for headers is made at a time.
	headerBlock = 4096
	// maxStatus is how many extents one answer to BLOCK_STATUS holds; the client
	// asks again for the rest.
	maxStatus = 8192
	// statusCharge covers the runs and their encoded form.
	statusCharge = ownShare
)

// errEmptyRun: a Mapper broke its contract.
var errEmptyRun = errors.New("image returned an empty run")

// zeros is what runs of zeros are sent from.
var zeros [64 << 10]byte

// batch gathers replies, headers and data by reference, to be sent in one go. A
// request is either in it whole or not at all. The reader of a connection has one,
// and every request that is answered elsewhere has one while it lasts.
type batch struct {
	c     *conn
	vec   [][]byte // what to send
	out   net.Buffers
	hdr   []byte // block that headers are appended to; vec refers into it
	bytes int    // sum of vec
	bufs  []*buffer
	held  grant

	pieces []Piece // scratch
	runs   []Run
}

var batches = sync.Pool{New: func() any { return &batch{hdr: make([]byte, 0, headerBlock)} }}

func newBatch(c *conn) *batch {
	b := batches.Get().(*batch)
	b.c = c
	return b
}

// free sends what is left and gives b back.
func (b *batch) free() {
	b.flush()
	b.c = nil
	batches.Put(b)
}

func (b *batch) full() bool { return b.bytes >= flushBytes || len(b.vec) >= flushPieces }

// flush sends everything and gives back the memory it occupied. An error of the
// connection ends the connection; there is nobody here to tell.
func (b *batch) flush() {
	if len(b.vec) > 0 {
		b.c.write(b)
	}
	clear(b.vec)
	b.vec, b.hdr, b.bytes = b.vec[:0], b.hdr[:0], 0
	for i, buf := range b.bufs {
		buf.free()
		b.bufs[i] = nil
	}
	b.bufs = b.bufs[:0]
	if b.held != (grant{}) {
		b.c.acct.release(b.held)
		b.held = grant{}
	}
}

// header returns room to append n bytes to; seal adds what was appended.
func (b *batch) header(n int) []byte {
	if cap(b.hdr)-len(b.hdr) < n {
		b.hdr = make([]byte, 0, max(n, headerBlock)) // vec keeps the old block alive
	}
	return b.hdr[len(b.hdr):]
}

func (b *batch) seal(p []byte) {
	b.hdr = b.hdr[:len(b.hdr)+len(p)]
	b.data(p)
}

func (b *batch) data(p []byte) {
	b.vec = append(b.vec, p)
	b.bytes += len(p)
}

func (b *batch) zeros(n int64) {
	for n > 0 {
		k := min(n, int64(len(zeros)))
		b.data(zeros[:k])
		n -= k
	}
}

// ok answers a request that has nothing to return. That may be a simple reply
// even where replies are structured.
func (b *batch) ok(req request) {
	b.seal(appendSimple(b.header(simpleReplySize), req.cookie, 0))
}

// fail answers req with an error, and words for people where the form has room.
func (b *batch) fail(req request, e errno, msg string) {
	if !b.c.structured {
		b.seal(appendSimple(b.header(simpleReplySize), req.cookie, e))
		return
	}
	n := 4 + 2 + len(msg)
	p := appendChunk(b.header(structuredHeaderSize+n), req.cookie, chunkFlagDone, chunkError, uint32(n))
	p = binary.BigEndian.AppendUint32(p, uint32(e))
	p = binary.BigEndian.AppendUint16(p, uint16(len(msg)))
	b.seal(append(p, msg...))
}

// pin answers a READ from memory, false if that is not possible.
func (b *batch) pin(req request) bool {
	if b.c.pinner == nil {
		return false
	}
	defer b.forget()
	var ok bool
	if b.pieces, ok = b.c.pinner.Pin(b.pieces, int64(req.off), int64(req.length)); !ok {
		return false
	}
	if err := covers(b.pieces, int64(req.length)); err != nil {
		b.c.readFailed(b, req, err)
		return true
	}
	b.content(req)
	return true
}

// forget drops the pieces, so that scratch keeps no image data alive. What is to
// be sent is in b.vec by now.
func (b *batch) forget() {
	clear(b.pieces)
	b.pieces = b.pieces[:0]
}

// covers guards against an Image that breaks its contract: what it returned goes
// out behind a header that promises n bytes.
func covers(pieces []Piece, n int64) error {
	for _, p := range pieces {
		n -= p.Len()
	}
	if n != 0 {
		return fmt.Errorf("image returned %d bytes too few", n)
	}
	return nil
}

// load answers a READ by reading. All of it is in memory before the first byte is
// sent: behind a header that says success there is no way to report an error.
func (b *batch) load(ctx context.Context, req request) {
	defer b.forget()
	if err := b.gather(ctx, int64(req.off), int64(req.length)); err != nil {
		b.c.readFailed(b, req, err)
		return
	}
	b.content(req)
}

// gather fills b.pieces with the n bytes at off.
func (b *batch) gather(ctx context.Context, off, n int64) error {
	b.runs = append(b.runs[:0], Run{Len: n})
	if b.c.mapper != nil {
		var err error
		// Past the limit, what is left is read as if it were data.
		if b.runs, err = b.c.mapper.AppendRuns(ctx, b.runs[:0], off, n, flushPieces); err != nil {
			return err
		}
	}
	var space []byte // for the data that is left, made when first needed
	for i, end := 0, off+n; off < end; i++ {
		run := Run{Len: end - off}
		if i < len(b.runs) {
			run = b.runs[i]
		}
		run.Len = min(run.Len, end-off)
		if run.Len <= 0 {
			return errEmptyRun
		}
		if run.Zero {
			b.pieces = append(b.pieces, Piece{Zeros: run.Len})
		} else {
			if space == nil {
				buf := newBuffer(int(end - off))
				b.bufs = append(b.bufs, buf)
				space = buf.data
			}
			p := space[:run.Len]
			space = space[run.Len:]
			if err := b.c.readAt(ctx, p, off); err != nil {
				return err
			}
			b.pieces = append(b.pieces, Piece{Data: p})
		}
		off += run.Len
	}
	return nil
}

// readAt fills p, or says why not.
func (c *conn) readAt(ctx context.Context, p []byte, off int64) (err error) {
	var n int
	if c.ctxReader != nil {
		n, err = c.ctxReader.ReadAtContext(ctx, p, off)
	} else {
		n, err = c.exp.Image.ReadAt(p, off)
	}
	switch {
	case n == len(p) && (err == nil || err == io.EOF):
		return nil
	case err == nil:
		return io.ErrUnexpectedEOF
	}
	return err
}

// content answers a READ with b.pieces, which are as long as the request.
func (b *batch) content(req request) {
	switch {
	case !b.c.structured:
		b.seal(appendSimple(b.header(simpleReplySize), req.cookie, 0))
		b.send(b.pieces)
	case req.flags&cmdFlagDF != 0:
		b.chunk(req, req.off, b.pieces, int64(req.length), chunkFlagDone, allZero(b.pieces))
	default:
		b.chunks(req)
	}
}

// chunks sends each stretch of zeros as a hole and each of data as one chunk.
func (b *batch) chunks(req request) {
	off, left := req.off, b.pieces
	for len(left) > 0 {
		hole, n, k := left[0].Data == nil, int64(0), 0
		for k < len(left) && (left[k].Data == nil) == hole {
			n += left[k].Len()
			k++
		}
		var flags uint16
		if k == len(left) {
			flags = chunkFlagDone
		}
		b.chunk(req, off, left[:k], n, flags, hole)
		off, left = off+uint64(n), left[k:]
	}
}

// chunk appends one chunk for pieces, which are n bytes at off.
//
//	hole: header, u64 offset, u32 length
//	data: header, u64 offset, bytes
func (b *batch) chunk(req request, off uint64, pieces []Piece, n int64, flags uint16, hole bool) {
	typ, length := chunkOffsetData, uint32(8+n)
	if hole {
		typ, length = chunkOffsetHole, 12
	}
	p := appendChunk(b.header(structuredHeaderSize+12), req.cookie, flags, typ, length)
	p = binary.BigEndian.AppendUint64(p, off)
	if hole {
		b.seal(binary.BigEndian.AppendUint32(p, uint32(n)))
		return
	}
	b.seal(p)
	b.send(pieces)
}

func (b *batch) send(pieces []Piece) {
	for _, p := range pieces {
		if p.Data != nil {
			b.data(p.Data)
		} else {
			b.zeros(p.Zeros)
		}
	}
}

func allZero(pieces []Piece) bool {
	for _, p := range pieces {
		if p.Data != nil {
			return false
		}
	}
	return true
}

// status answers BLOCK_STATUS for base:allocation: a chunk of the context's id and
// u32 pairs of length and state. The client's length is a hint, so what does not
// fit is left for its next request.
func (b *batch) status(ctx context.Context, req request) {
	limit := maxStatus
	if req.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	b.runs = append(b.runs[:0], Run{Len: int64(req.length)})
	if m := b.c.mapper; m != nil {
		var err error
		b.runs, err = m.AppendRuns(ctx, b.runs[:0], int64(req.off), int64(req.length), limit)
		if err != nil {
			b.c.readFailed(b, req, err)
			return
		}
	}
	buf := newBuffer(maxStatus * 8)
	b.bufs = append(b.bufs, buf)
	ext := appendExtents(buf.data[:0], b.runs, int64(req.length), limit)
	if len(ext) == 0 {
		b.c.readFailed(b, req, errEmptyRun)
		return
	}
	p := appendChunk(b.header(structuredHeaderSize+4), req.cookie, chunkFlagDone, chunkBlockStatus, uint32(4+len(ext)))
	b.seal(binary.BigEndian.AppendUint32(p, allocationID))
	b.data(ext)
}

// appendExtents encodes at most limit runs that make up at most n bytes, equal
// neighbours joined.
func appendExtents(p []byte, runs []Run, n int64, limit int) []byte {
	start := len(p)
	var length int64
	for i, r := range runs {
		if r.Len <= 0 {
			break
		}
		length += min(r.Len, n)
		n -= min(r.Len, n)
		if i+1 < len(runs) && runs[i+1].Zero == r.Zero && n > 0 {
			continue
		}
		if length == 0 || (len(p)-start)/8 == limit {
			break
		}
		state := uint32(0)
		if r.Zero {
			state = stateHole | stateZero
		}
		p = binary.BigEndian.AppendUint32(p, uint32(length))
		p = binary.BigEndian.AppendUint32(p, state)
		length = 0
	}
	return p
}
