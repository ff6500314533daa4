package nbdserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/blkbak/blkbak"
)

// Options say what to serve and within which limits. Every zero value but that of
// Exports is replaced by the default named here.
type Options struct {
	Exports Exports
	Logger  *slog.Logger // nil discards

	// MaxConns is how many connections may be open at once; more are closed as
	// they come. Default 256.
	MaxConns int
	// MaxInFlight is how many requests of one connection may be read from slow
	// images at the same time. Default 16.
	MaxInFlight int
	// Memory is the most that replies may occupy, in bytes, on top of 256 KiB for
	// each connection; at least 32 MiB, the largest request. Default 128 MiB.
	// One connection gets at most a quarter of it, or 32 MiB if that is more.
	Memory int64

	// HandshakeTimeout bounds the time until a client has chosen an export.
	// Default 10 s. After that a client may be idle for as long as it likes.
	HandshakeTimeout time.Duration
	// StallTimeout is how long a client that does not take its replies, or takes
	// less than 256 KiB in that time, may keep memory from another connection that
	// waits for it. Default 10 s.
	StallTimeout time.Duration
	// DrainTimeout is how long outstanding requests may take when the server stops
	// or the client says good-bye. Default 10 s.
	DrainTimeout time.Duration
}

func (o Options) withDefaults() (Options, error) {
	def := func(v, d int64) int64 {
		if v == 0 {
			return d
		}
		return v
	}
	o.MaxConns = int(def(int64(o.MaxConns), 256))
	o.MaxInFlight = int(def(int64(o.MaxInFlight), 16))
	o.Memory = def(o.Memory, 128<<20)
	o.HandshakeTimeout = time.Duration(def(int64(o.HandshakeTimeout), int64(10*time.Second)))
	o.StallTimeout = time.Duration(def(int64(o.StallTimeout), int64(10*time.Second)))
	o.DrainTimeout = time.Duration(def(int64(o.DrainTimeout), int64(10*time.Second)))
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{blkbak.ErrUsage}, args...)...))
		}
	}
	check(o.Exports != nil, "nothing to export")
	check(o.MaxConns > 0, "at most %d connections", o.MaxConns)
	check(o.MaxInFlight > 0, "at most %d requests in flight", o.MaxInFlight)
	check(o.Memory >= maxRequest, "memory limit %d is below %d, the largest request", o.Memory, maxRequest)
	check(min(o.HandshakeTimeout, o.StallTimeout, o.DrainTimeout) > 0, "negative timeout")
	return o, errors.Join(errs...)
}

// Server serves exports to any number of connections, which share its limits. It
// is safe for concurrent use.
type Server struct {
	opt    Options
	budget budget

	mu    sync.Mutex
	conns int
}

// New makes a server.
func New(opt Options) (*Server, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("nbd server: %w", err)
	}
	return &Server{opt: opt, budget: budget{free: opt.Memory}}, nil
}

// Serve accepts connections from l, which it closes, until ctx ends. Then it
// refuses new requests, finishes outstanding ones, and returns nil when all
// connections are closed. Several listeners may be served at the same time.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()

	for pause := time.Duration(0); ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept nbd connection: %w", err)
		default: // out of descriptors, say: what holds them will let go
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.opt.Logger.Warn("accept nbd connection", "err", err, "dur", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() {
			if err := s.ServeConn(ctx, nc); err != nil {
				s.opt.Logger.Info("nbd connection ended", "client", clientName(nc), "err", err)
			}
		})
	}
}

// ServeConn serves one connection, which it closes, until the client leaves or ctx
// ends. It returns nil when the client left as the protocol wants it or ctx ended.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	defer nc.Close()
	if !s.enter() {
		return fmt.Errorf("more than %d nbd connections: %w", s.opt.MaxConns, blkbak.ErrBusy)
	}
	defer s.leave()
	tune(nc)
	c := newConn(ctx, s, nc)
	defer c.close()
	return c.run()
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns >= s.opt.MaxConns {
		return false
	}
	s.conns++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}

// tune sets what a request-and-reply protocol wants from its sockets. A refusal
// costs speed only.
func tune(nc net.Conn) {
	switch nc := nc.(type) {
	case *net.TCPConn:
		nc.SetNoDelay(true)
		nc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}) // finds dead hosts, as idle is allowed
	case *net.UnixConn:
		nc.SetWriteBuffer(1 << 20) // default 208 KiB: less than one batch of replies
	}
}

func clientName(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" {
		return a.String()
	}
	return "local"
}
