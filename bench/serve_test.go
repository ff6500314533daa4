package bench

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/blkbak/blkbak/internal/image"
	"github.com/blkbak/blkbak/nbdserver"
)

// served is an image as the server wants it.
type served struct{ *image.Image }

func (s served) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	return s.ReadContext(ctx, p, off)
}

// BenchmarkServeSequential reads a point from front to back over a unix socket,
// with depth requests of 256 KiB on their way.
func BenchmarkServeSequential(b *testing.B) {
	for _, depth := range []int{1, 8} {
		b.Run("depth="+string(rune('0'+depth)), func(b *testing.B) { benchServe(b, depth) })
	}
}

func benchServe(b *testing.B, depth int) {
	w := denseWorld(b)
	p := w.snapshot("")
	im, err := image.Open(b.Context(), w.store, p.Root, image.NewCache(image.CacheOptions{ChunkBytes: 256 << 20}))
	if err != nil {
		b.Fatal(err)
	}
	srv, err := nbdserver.New(nbdserver.Options{
		Exports: nbdserver.Fixed{{Size: im.Size(), Image: served{im}, Info: nbdserver.Info{Name: "v"}}},
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nbd") // short enough for the address of a socket
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := nbdserver.Listen("unix:" + filepath.Join(dir, "s"))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	c := connect(b, l.Addr(), "v")
	defer c.Close()
	b.SetBytes(256 << 10)
	b.ReportAllocs()
	c.sequential(b, im.Size(), 256<<10, depth)
}

// client is a minimal client of the NBD protocol: fixed newstyle negotiation with
// EXPORT_NAME, then reads with simple replies.
type client struct{ net.Conn }

func connect(b *testing.B, addr net.Addr, export string) client {
	nc, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		b.Fatal(err)
	}
	c := client{nc}
	c.take(b, 18) // "NBDMAGIC", "IHAVEOPT", flags
	hello := binary.BigEndian.AppendUint32(nil, 3)
	hello = append(hello, "IHAVEOPT"...)
	hello = binary.BigEndian.AppendUint32(hello, 1)
	hello = binary.BigEndian.AppendUint32(hello, uint32(len(export)))
	if _, err := c.Write(append(hello, export...)); err != nil {
		b.Fatal(err)
	}
	c.take(b, 10) // size, flags; no zeros, as asked
	return c
}

func (c client) take(b *testing.B, n int) {
	if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
		b.Fatal(err)
	}
}

// sequential makes one request an iteration. depth of them are on their way.
func (c client) sequential(b *testing.B, size int64, length, depth int) {
	reply := make([]byte, 16+length)
	var sent, taken int64
	ask := func() {
		req := binary.BigEndian.AppendUint32(nil, 0x25609513)
		req = binary.BigEndian.AppendUint32(req, 0)
		req = binary.BigEndian.AppendUint64(req, uint64(sent))
		req = binary.BigEndian.AppendUint64(req, uint64(sent*int64(length)%size))
		req = binary.BigEndian.AppendUint32(req, uint32(length))
		if _, err := c.Write(req); err != nil {
			b.Fatal(err)
		}
		sent++
	}
	for b.Loop() {
		for sent < taken+int64(depth) {
			ask()
		}
		if _, err := io.ReadFull(c, reply); err != nil {
			b.Fatal(err)
		}
		if binary.BigEndian.Uint64(reply) != 0x67446698<<32 {
			b.Fatalf("reply %x", reply[:16])
		}
		taken++
	}
}
