package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
)

// listedPoint is what list prints of a point with --json.
type listedPoint struct {
	Point     blkbak.PointID    `json:"point"`
	Volume    string            `json:"volume"`
	Time      time.Time         `json:"time"`
	Size      int64             `json:"size"`
	Root      chunkstore.ID     `json:"root"`
	Parent    blkbak.PointID    `json:"parent"`
	Mode      blkbak.Mode       `json:"mode"`
	Tags      map[string]string `json:"tags"`
	Changed   int64             `json:"bytes_changed"`
	Stored    int64             `json:"bytes_stored"`
	Exclusive int64             `json:"bytes_exclusive"`
}

func listCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "list",
		Category:  groupMain,
		Usage:     "list restore points",
		ArgsUsage: "[VOLUME]",
		Description: `
Shows the points of all volumes, or of one, oldest first. CHANGED is what
differs from the point before; EXCLUSIVE is what no neighbour has at the same
place: about what would be free if the point was gone. Both count bytes of the
volume, before compression.

Examples:
  blkbak list
  blkbak list vg/data --json`,
		Action: func(c *cli.Context) error {
			return a.withCatalog(c, func(store *chunkstore.Store, cat *catalog.Catalog) error {
				volume := c.Args().First()
				if volume != "" {
					var err error
					if volume, err = cat.ResolveVolume(volume); err != nil {
						return err
					}
				}
				list := []listedPoint{}
				for _, p := range cat.Points(volume) {
					exclusive, err := exclusiveBytes(c.Context, store, cat, p)
					if err != nil {
						return fmt.Errorf("compare point %v with its neighbours: %w", p.ID, err)
					}
					list = append(list, listedPoint{p.ID, p.Volume, p.Time, p.Size, p.Root, p.Parent, p.Mode, p.Tags,
						p.Stats.Changed, p.Stats.Stored, exclusive})
				}
				return a.print(list, func(w io.Writer) { a.writeList(w, list) })
			})
		},
	}
}

func (a *app) writeList(w io.Writer, list []listedPoint) {
	t := newTable("POINT", "VOLUME", "TIME", "AGE", ">SIZE", ">CHANGED", ">EXCLUSIVE", ">STORED", "MODE", "TAGS")
	for _, p := range list {
		t.add(p.Point.String(), p.Volume, p.Time.Local().Format("2006-01-02 15:04:05"), a.age(p.Time), humanSize(p.Size),
			humanSize(p.Changed), humanSize(p.Exclusive), humanSize(p.Stored), string(p.Mode), tagText(p.Tags))
	}
	t.write(w)
}

func tagText(tags map[string]string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, k+"="+tags[k])
	}
	return strings.Join(list, " ")
}

// exclusiveBytes counts the bytes of p that differ from both neighbours in its
// volume, and are not zeros.
func exclusiveBytes(ctx context.Context, store *chunkstore.Store, cat *catalog.Catalog, p catalog.Point) (int64, error) {
	im, err := image.Open(ctx, store, p.Root, nil)
	if err != nil {
		return 0, err
	}
	own := []blkbak.Extent{{Off: 0, Len: p.Size}}
	prev, hasPrev := cat.Previous(p)
	next, hasNext := cat.Next(p)
	for _, n := range []struct {
		catalog.Point
		ok bool
	}{{prev, hasPrev}, {next, hasNext}} {
		if !n.ok || n.ChunkSize != p.ChunkSize {
			continue
		}
		diff, err := collect(image.Diff(ctx, store, n.Root, p.Root))
		if err != nil {
			return 0, err
		}
		own = blkbak.IntersectExtents(own, diff)
	}
	var n int64
	for _, e := range own {
		for run, err := range im.Extents(ctx, e.Off, e.Len) {
			if err != nil {
				return 0, err
			}
			if !run.Zero {
				n += run.Len
			}
		}
	}
	return n, nil
}

// collect gathers a sequence, or returns its error.
func collect[T any](seq func(yield func(T, error) bool)) ([]T, error) {
	out := []T{}
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
