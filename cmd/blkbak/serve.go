package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
	"github.com/blkbak/blkbak/nbdserver"
)

func serveCommand(a *app) *cli.Command {
	var listen textsFlag
	cache := int64(256 << 20)
	return &cli.Command{
		Name:      "serve",
		Category:  groupMain,
		Usage:     "serve restore points as network block devices",
		ArgsUsage: "[POINT|VOLUME...]",
		Flags: []cli.Flag{
			listen.flag("listen", "listen on `ADDRESS`: unix:PATH or tcp:HOST:PORT; may be given several times. Default unix:$XDG_RUNTIME_DIR/blkbak.sock"),
			sizeFlag(&cache, "cache", "keep up to `SIZE` of decompressed chunks in memory"),
		},
		Description: `
Serves the points that are named, all points of the volumes that are named, or
without arguments every point, read-only. An export's name is a point named as
anywhere else, by its ID or as VOLUME@latest; the latter follows new points. A
lone export is also the default one. Ends on SIGINT or SIGTERM, after requests
that are under way.

There is no encryption and no password: listen on a unix socket, which only its
owner may use, or on the loopback address.

Examples:
  blkbak serve --listen unix:/run/blkbak.sock
  nbd-client -unix /run/blkbak.sock -N vg/data@latest /dev/nbd0
  blkbak serve vg/data@latest --listen tcp:127.0.0.1:10809
  qemu-img convert nbd://127.0.0.1:10809 -O qcow2 disk.qcow2`,
		Action: func(c *cli.Context) error {
			addrs := listen.values
			if len(addrs) == 0 {
				addrs = []string{"unix:" + defaultSocket()}
			}
			return a.withCatalog(c, func(store *chunkstore.Store, cat *catalog.Catalog) error {
				ex, err := newExports(store, cat, c.Args().Slice(), cache)
				if err != nil {
					return err
				}
				srv, err := nbdserver.New(nbdserver.Options{Exports: ex, Logger: a.log})
				if err != nil {
					return err
				}
				return a.serve(c.Context, srv, addrs)
			})
		},
	}
}

func defaultSocket() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run"
		if os.Geteuid() != 0 {
			dir = os.TempDir()
		}
	}
	return filepath.Join(dir, "blkbak.sock")
}

// serve runs until ctx ends, which is how a server is meant to end.
func (a *app) serve(ctx context.Context, srv *nbdserver.Server, addrs []string) error {
	var listeners []net.Listener
	for _, addr := range addrs {
		l, err := nbdserver.Listen(addr)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return fmt.Errorf("listen on %s: %w", addr, err)
		}
		a.notef("listening on %s", nbdserver.URI(l.Addr(), ""))
		listeners = append(listeners, l)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			if err := srv.Serve(ctx, l); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// exports offers restore points to the server.
type exports struct {
	store *chunkstore.Store
	cache *image.Cache
	only  []string // what was named on the command line, resolved; empty is everything
}

func newExports(store *chunkstore.Store, cat *catalog.Catalog, names []string, cache int64) (*exports, error) {
	ex := &exports{store: store, cache: image.NewCache(image.CacheOptions{ChunkBytes: cache})}
	for _, n := range names {
		if _, err := cat.Find(n); err == nil {
			ex.only = append(ex.only, n)
			continue
		} else if v, verr := cat.ResolveVolume(n); verr == nil {
			ex.only = append(ex.only, v)
		} else {
			return nil, err
		}
	}
	return ex, nil
}

// offered lists the points to be served as they are now.
func (ex *exports) offered(cat *catalog.Catalog) []catalog.Point {
	if len(ex.only) == 0 {
		return cat.Points("")
	}
	var list []catalog.Point
	for _, n := range ex.only {
		if p, err := cat.Find(n); err == nil {
			list = append(list, p)
		} else {
			list = append(list, cat.Points(n)...)
		}
	}
	return list
}

func (ex *exports) List(ctx context.Context) ([]nbdserver.Info, error) {
	cat, err := catalog.Load(ctx, ex.store)
	if err != nil {
		return nil, err
	}
	var list []nbdserver.Info
	for _, p := range ex.offered(cat) {
		list = append(list, nbdserver.Info{Name: p.ID.String(),
			Description: fmt.Sprintf("%s at %s", p.Volume, p.Time.Format("2006-01-02T15:04:05Z07:00"))})
	}
	return list, nil
}

func (ex *exports) Open(ctx context.Context, name string) (*nbdserver.Export, error) {
	cat, err := catalog.Load(ctx, ex.store)
	if err != nil {
		return nil, err
	}
	p, err := ex.find(cat, name)
	if err != nil {
		return nil, err
	}
	im, err := image.Open(ctx, ex.store, p.Root, ex.cache)
	if err != nil {
		return nil, err
	}
	return &nbdserver.Export{Info: nbdserver.Info{Name: name, Description: p.Volume}, Size: im.Size(), Image: exportImage{im}}, nil
}

func (ex *exports) find(cat *catalog.Catalog, name string) (catalog.Point, error) {
	offered := ex.offered(cat)
	if name == "" {
		if len(offered) == 1 {
			return offered[0], nil
		}
		return catalog.Point{}, fmt.Errorf("default export: %w: there are %d exports", blkbak.ErrNotFound, len(offered))
	}
	p, err := cat.Find(name)
	if err != nil {
		// What is no point and what makes no sense is all the same to a client.
		return p, fmt.Errorf("%w: %w", blkbak.ErrNotFound, err)
	}
	for _, o := range offered {
		if o.ID == p.ID {
			return p, nil
		}
	}
	return p, fmt.Errorf("point %v is not served: %w", p.ID, blkbak.ErrNotFound)
}

// exportImage is an image as the server wants it.
type exportImage struct{ *image.Image }

func (im exportImage) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	return im.ReadContext(ctx, p, off)
}

func (im exportImage) AppendRuns(ctx context.Context, dst []nbdserver.Run, off, n int64, limit int) ([]nbdserver.Run, error) {
	for run, err := range im.Extents(ctx, off, n) {
		if err != nil {
			return dst, err
		}
		dst = append(dst, nbdserver.Run{Len: run.Len, Zero: run.Zero})
		if limit--; limit == 0 {
			break
		}
	}
	return dst, nil
}
