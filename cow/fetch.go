package cow

import (
	"context"
	"io"
	"unsafe"
)

// pageSize is the alignment that direct I/O asks for at most.
const pageSize = 4096

// alignedBuffer makes a buffer of n bytes that begins on a page boundary, as
// direct I/O wants it. The heap does not move, so it stays there.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (pageSize - 1)
	return b[skip : skip+n : skip+n]
}

// fetcher reads pieces in parallel and hands them over in order.
type fetcher struct {
	r       io.ReaderAt
	piece   int64 // bytes
	workers int   // pieces in flight at most
	slots   []slot
}

// slot is a place for a piece on its way.
type slot struct {
	buf   []byte
	asked int64      // the piece whose turn it was when this one was asked for
	done  chan error // holds one
}

// fetch reads pieces 0, 1, ... and calls visit with each in order, until visit
// says that it needs no more or fails, or pieces run out. Piece i lies at offset
// at(i). While it is piece next's turn only pieces below limit(next) are asked
// for; limit is above next as long as there are more. A piece that is never
// visited cannot fail. When fetch returns nothing is in flight.
func (f *fetcher) fetch(ctx context.Context, at, limit func(int64) int64,
	visit func(i, asked int64, buf []byte) (more bool, err error)) error {
	if f.slots == nil {
		f.slots = make([]slot, f.workers)
	}
	var next, launched int64
	defer func() {
		for ; next < launched; next++ {
			<-f.slots[next%int64(f.workers)].done
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		for end := min(limit(next), next+int64(f.workers)); launched < end; launched++ {
			s := &f.slots[launched%int64(f.workers)]
			if s.buf == nil {
				s.buf, s.done = alignedBuffer(int(f.piece)), make(chan error, 1)
			}
			s.asked = next
			off := at(launched)
			go func() { s.done <- readFull(f.r, s.buf, off) }()
		}
		if next == launched {
			return nil
		}
		s := &f.slots[next%int64(f.workers)]
		err, i := <-s.done, next
		next++
		if err != nil {
			return err
		}
		if more, err := visit(i, s.asked, s.buf); err != nil || !more {
			return err
		}
	}
}
