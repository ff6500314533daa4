package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
)

// shownPoint is what show prints with --json: the point as it is kept, and what
// it takes to compute.
type shownPoint struct {
	catalog.Point
	Exclusive int64 `json:"bytes_exclusive"`
	Data      int64 `json:"bytes_data"` // not zeros
}

func showCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "show",
		Category:  groupMain,
		Usage:     "show all that is known of a restore point",
		ArgsUsage: "POINT",
		Description: pointNames + `

Examples:
  blkbak show 3f2a
  blkbak show vg/data@latest --json`,
		Action: func(c *cli.Context) error {
			return a.withCatalog(c, func(store *chunkstore.Store, cat *catalog.Catalog) error {
				p, err := cat.Find(c.Args().First())
				if err != nil {
					return err
				}
				s := shownPoint{Point: p}
				if s.Exclusive, err = exclusiveBytes(c.Context, store, cat, p); err != nil {
					return err
				}
				im, err := image.Open(c.Context, store, p.Root, nil)
				if err != nil {
					return err
				}
				runs, err := collect(im.Extents(c.Context, 0, p.Size))
				if err != nil {
					return err
				}
				for _, r := range runs {
					if !r.Zero {
						s.Data += r.Len
					}
				}
				return a.print(s, func(w io.Writer) { a.writePoint(w, s) })
			})
		},
	}
}

// pointNames is the part of a help text that says how points are named.
const pointNames = `
POINT is an ID or the first 4 or more digits of one, or a volume's name and
after an @ one of: latest, oldest, ~N (N before the latest), tag:KEY=VALUE (the
newest with it), or a time such as 2026-01-31T23:00 (the newest not after it).`

func (a *app) writePoint(w io.Writer, s shownPoint) {
	parent := s.Parent.String()
	if s.Parent.IsZero() {
		parent = "none"
	}
	for _, l := range [][2]string{
		{"point", s.ID.String()},
		{"volume", fmt.Sprintf("%s, number %d", s.Volume, s.Number)},
		{"time", s.Time.Local().Format("2006-01-02 15:04:05 -0700") + ", " + a.age(s.Time)},
		{"size", fmt.Sprintf("%s (%d bytes), %s of it not zeros", humanSize(s.Size), s.Size, humanSize(s.Data))},
		{"root", s.Root.String()},
		{"parent", parent},
		{"mode", string(s.Mode)},
		{"source", fmt.Sprintf("%s %s on %s", s.Source.Kind, s.Source.Path, s.Source.Host)},
		{"holds", s.Source.FSType + " " + s.Source.FSUUID},
		{"changed", humanSize(s.Stats.Changed)},
		{"exclusive", humanSize(s.Exclusive)},
		{"read", humanSize(s.Stats.Read)},
		{"stored", fmt.Sprintf("%s in %d new chunks, %d known", humanSize(s.Stats.Stored), s.Stats.ChunksNew, s.Stats.ChunksReused)},
		{"took", fmt.Sprintf("%.2f s, writers held off for %.3f s at most", s.Stats.Seconds, s.Stats.FreezeSeconds)},
		{"made by", s.Program},
		{"tags", tagText(s.Tags)},
	} {
		if v := printable(l[1]); v != "" && v != " " {
			fmt.Fprintf(w, "%-10s %s\n", l[0], v)
		}
	}
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "%-10s %s\n", "warning", printable(warning))
	}
}

// diffResult is what diff prints with --json.
type diffResult struct {
	From    blkbak.PointID  `json:"from"`
	To      blkbak.PointID  `json:"to"`
	Extents []blkbak.Extent `json:"extents"`
	Bytes   int64           `json:"bytes"`
}

func diffCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Category:  groupMain,
		Usage:     "list the extents in which two restore points differ",
		ArgsUsage: "POINT POINT",
		Description: `
Prints offset and length of each in bytes, sorted and merged, in whole chunks.
The points may be of different volumes. Only what differs is looked at.
` + pointNames + `

Examples:
  blkbak diff vg/data@~1 vg/data@latest
  blkbak diff --json 3f2a 9c41`,
		Action: func(c *cli.Context) error {
			return a.withCatalog(c, func(store *chunkstore.Store, cat *catalog.Catalog) error {
				from, err := cat.Find(c.Args().Get(0))
				if err != nil {
					return err
				}
				to, err := cat.Find(c.Args().Get(1))
				if err != nil {
					return err
				}
				extents, err := collect(image.Diff(c.Context, store, from.Root, to.Root))
				if err != nil {
					return err
				}
				res := diffResult{from.ID, to.ID, extents, blkbak.ExtentBytes(extents)}
				return a.print(res, func(w io.Writer) {
					for _, e := range extents {
						fmt.Fprintln(w, e.Off, e.Len)
					}
				})
			})
		},
	}
}
