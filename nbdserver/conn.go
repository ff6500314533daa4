package nbdserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// readAhead is how much of the client's requests is taken in one system call.
	readAhead = 64 << 10
	// drainGrace is how long a stopping server still answers new requests, with an
	// error, so that clients learn why.
	drainGrace = 200 * time.Millisecond
	// stallBytes within Options.StallTimeout is too slow when others wait.
	stallBytes = 256 << 10
)

// conn is one connection. Its reader, the goroutine that run is called in, decodes
// requests and answers what needs no waiting; the rest goes to goroutines.
type conn struct {
	srv *Server
	nc  net.Conn
	br  *bufio.Reader
	log *slog.Logger

	ctx     context.Context // ends when nobody is left to answer
	cancel  context.CancelCauseFunc
	unwatch func() bool
	wg      sync.WaitGroup // requests in goroutines
	slots   chan struct{}  // one for each of them
	acct    account
	replies *batch // the reader's
	pace    pace

	wmu sync.Mutex // held while replies are written

	draining atomic.Bool // the server stops; no new requests
	mu       sync.Mutex  // orders drain and begin, and guards timer
	timer    *time.Timer // kills the connection when finishing takes too long

	// What was negotiated; constant after the handshake.
	exp        *Export
	pinner     Pinner
	mapper     Mapper
	ctxReader  ContextReader
	structured bool
	allocation bool // base:allocation was asked for
}

func newConn(ctx context.Context, s *Server, nc net.Conn) *conn {
	c := &conn{
		srv:   s,
		nc:    nc,
		br:    bufio.NewReaderSize(nc, readAhead),
		log:   s.opt.Logger.With("client", clientName(nc)),
		slots: make(chan struct{}, s.opt.MaxInFlight),
		acct:  account{b: &s.budget, own: ownShare, limit: max(s.opt.Memory/4, maxRequest)},
	}
	// Draining must not take the context away from requests that are to finish.
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.replies = newBatch(c)
	nc.SetDeadline(time.Now().Add(s.opt.HandshakeTimeout))
	c.unwatch = context.AfterFunc(ctx, c.drain)
	return c
}

// close waits for everything that c started. The connection is of no use any more.
func (c *conn) close() {
	c.unwatch()
	c.kill(net.ErrClosed)
	c.wg.Wait()
	c.replies.free()
	if c.exp != nil && c.exp.Release != nil {
		c.exp.Release()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}

// kill ends the connection at once.
func (c *conn) kill(err error) {
	c.cancel(err)
	c.nc.Close()
}

// drain makes the reader stop soon.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining.Store(true)
	c.nc.SetReadDeadline(time.Now().Add(drainGrace))
	c.limit()
}

// limit gives what is outstanding some time to finish. c.mu is held.
func (c *conn) limit() {
	if c.timer == nil {
		c.timer = time.AfterFunc(c.srv.opt.DrainTimeout, func() { c.kill(errDrain) })
	}
}

var (
	errDrain = errors.New("outstanding requests took too long")
	errMagic = errors.New("request without its magic number")
	errStall = errors.New("client does not take its replies")
)

// run serves the connection to its end.
func (c *conn) run() error {
	err := c.handshake()
	if err == nil {
		c.log.Debug("nbd export opened", "export", c.exp.Name)
		err = c.transmit()
		if err == nil || errors.Is(err, errMagic) || c.drained(err) {
			c.finish()
		}
	}
	switch {
	case c.ctx.Err() != nil: // then err is only what followed from it
		err = context.Cause(c.ctx)
	case errors.Is(err, errHangup) || c.drained(err):
		err = nil
	}
	return err
}

// drained tells whether the reader gave up because the server stops.
func (c *conn) drained(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && c.draining.Load()
}

// finish sends what is outstanding when no more requests come.
func (c *conn) finish() {
	c.mu.Lock()
	c.limit()
	c.mu.Unlock()
	c.replies.flush()
	c.wg.Wait()
}

// begin ends the time limit of the handshake.
func (c *conn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc.SetWriteDeadline(time.Time{})
	if !c.draining.Load() { // which has set a read deadline of its own
		c.nc.SetReadDeadline(time.Time{})
	}
	c.pinner, _ = c.exp.Image.(Pinner)
	c.mapper, _ = c.exp.Image.(Mapper)
	c.ctxReader, _ = c.exp.Image.(ContextReader)
}

// transmit reads requests until the client disconnects, which is no error.
func (c *conn) transmit() error {
	for {
		if c.br.Buffered() < requestSize || c.replies.full() {
			c.replies.flush()
		}
		p, err := c.br.Peek(requestSize)
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		req, ok := parseRequest(p)
		c.br.Discard(requestSize)
		if !ok {
			return errMagic
		}
		if req.typ == cmdDisc {
			return nil
		}
		if err := c.dispatch(req); err != nil {
			return err
		}
	}
}

// dispatch answers req, or has it answered. An error ends the connection.
func (c *conn) dispatch(req request) error {
	if req.typ == cmdWrite {
		if err := c.skip(int64(req.length)); err != nil {
			return err
		}
	}
	b := c.replies
	e, msg := c.check(req)
	switch {
	case e != 0:
		b.fail(req, e, msg)
	case req.typ == cmdFlush:
		b.ok(req) // nothing is ever written
	case req.typ == cmdBlockStatus:
		return c.serve(req, statusCharge)
	default:
		return c.serve(req, charge(int(req.length)))
	}
	return nil
}

// skip reads past the payload of a request that is going to be refused.
func (c *conn) skip(n int64) error {
	if int64(c.br.Buffered()) < n {
		c.replies.flush()
	}
	if _, err := io.CopyN(io.Discard, c.br, n); err != nil {
		return fmt.Errorf("read payload: %w", err)
	}
	return nil
}

// check says what is wrong with req, as an error and in words.
func (c *conn) check(req request) (errno, string) {
	var allowed uint16
	switch req.typ {
	case cmdWrite, cmdTrim, cmdWriteZeroes:
		return ePERM, "the export is read-only"
	case cmdRead:
		if c.structured {
			allowed = cmdFlagDF
		}
	case cmdBlockStatus:
		if !c.allocation {
			return eINVAL, "no metadata context was negotiated"
		}
		allowed = cmdFlagReqOne
	case cmdFlush:
	default:
		return eINVAL, "unknown command"
	}
	size := uint64(c.exp.Size)
	switch {
	case req.flags&^allowed != 0:
		return eINVAL, "unknown or unsuitable command flag"
	case req.typ == cmdFlush && (req.off != 0 || req.length != 0):
		return eINVAL, "flush of a range"
	case req.typ == cmdFlush:
	case req.length == 0:
		return eINVAL, "length is zero"
	case req.typ == cmdRead && req.length > maxRequest:
		return eINVAL, "length exceeds the maximum block size"
	case req.off > size || uint64(req.length) > size-req.off:
		return eINVAL, "range exceeds the export"
	}
	if c.draining.Load() {
		return eSHUTDOWN, "the server is shutting down"
	}
	return 0, ""
}

// serve answers a request for which n bytes of memory may be needed: here when the
// answer is in memory or the image is quick, else in a goroutine. While there is no
// memory or too much is in flight, nothing more is read from the client.
func (c *conn) serve(req request, n int64) error {
	b := c.replies
	g, ok := c.acct.try(n)
	if !ok {
		b.flush() // it may hold what is missing
		if g, ok = c.acct.wait(c.ctx, n); !ok {
			return context.Cause(c.ctx)
		}
	}
	if req.typ == cmdRead && b.pin(req) {
		b.held.add(g)
		return nil
	}
	if c.ctxReader == nil && c.pace.quick() {
		b.held.add(g)
		c.work(b, req)
		return nil
	}
	select {
	case c.slots <- struct{}{}:
	default:
		b.flush()
		select {
		case c.slots <- struct{}{}:
		case <-c.ctx.Done():
			c.acct.release(g)
			return context.Cause(c.ctx)
		}
	}
	c.wg.Go(func() {
		nb := newBatch(c)
		nb.held.add(g)
		c.work(nb, req)
		nb.free()
		<-c.slots
	})
	return nil
}

// work answers req into b from the image, and keeps the pace.
func (c *conn) work(b *batch, req request) {
	start := time.Now()
	n := int64(req.length)
	if req.typ == cmdRead {
		b.load(c.ctx, req)
	} else {
		b.status(c.ctx, req)
		n = 1 << 20 // a full answer is as much work
	}
	c.pace.note(time.Since(start), n)
}

// readFailed answers req after its data could not be had. Only this one request
// fails: the rest of the image may be fine.
func (c *conn) readFailed(b *batch, req request, err error) {
	if c.ctx.Err() == nil {
		c.log.Warn("read for nbd client", "export", c.exp.Name, "off", req.off, "len", req.length, "err", err)
	}
	b.fail(req, eIO, "read failed, the server's log says why")
}

// write sends b. It returns when all of it is sent or the connection is dead.
func (c *conn) write(b *batch) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	b.out = b.vec
	for c.ctx.Err() == nil {
		c.nc.SetWriteDeadline(time.Now().Add(c.srv.opt.StallTimeout))
		n, err := b.out.WriteTo(c.nc)
		if err == nil {
			return
		}
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded):
			c.kill(fmt.Errorf("send replies: %w", err))
		case n < stallBytes && c.acct.wanted():
			c.kill(errStall)
		}
		// Otherwise it may take as long as it likes: nobody else is worse off.
	}
}

// pace learns whether an image that says nothing of itself answers faster than handing a request to another
// goroutine would take. It starts out hopeful, and one slow answer costs it eight
// requests that go to goroutines, up to 64.
type pace struct{ debt atomic.Int32 }

func (p *pace) quick() bool { return p.debt.Load() == 0 }

// note records that n bytes took d. Slow is what cannot be memory: more than 50 µs
// and 1 ns a byte.
func (p *pace) note(d time.Duration, n int64) {
	debt := p.debt.Load()
	switch {
	case d > 50*time.Microsecond+time.Duration(n):
		p.debt.Store(min(debt+8, 64))
	case debt > 0:
		p.debt.Store(debt - 1)
	}
}
