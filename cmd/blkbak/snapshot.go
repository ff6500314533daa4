package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/engine"
)

// snapshotResult is what snapshot prints with --json.
type snapshotResult struct {
	Point  blkbak.PointID `json:"point"`
	Volume string         `json:"volume"`
	Root   chunkstore.ID  `json:"root"`
	Parent blkbak.PointID `json:"parent"`
	Size   int64          `json:"size"`
	Mode   blkbak.Mode    `json:"mode"`
	catalog.Stats
	Warnings []string `json:"warnings"`
}

func snapshotCommand(a *app) *cli.Command {
	req := engine.Request{FreezeLimit: time.Minute}
	var tags textsFlag
	return &cli.Command{
		Name:      "snapshot",
		Category:  groupMain,
		Usage:     "make a restore point of a volume, device or image file",
		ArgsUsage: "SOURCE",
		Flags: []cli.Flag{
			textFlag(&req.Volume, "volume", "add the point to volume `NAME`. Default HOST/VG/LV, or HOST and the path"),
			tags.flag("tag", "keep `KEY=VALUE` with the point; may be given several times"),
			&cli.BoolFlag{Name: "full", Destination: &req.Full, Usage: "read everything, whatever is known of what changed"},
			&cli.BoolFlag{Name: "dry-run", Destination: &req.DryRun, Usage: "say what would be done and do nothing"},
			textFlag(&req.COW, "cow", "take what changed from the exception store `COW`, of a snapshot of the image SOURCE"),
			sizeFlag(&req.COWSize, "cow-size", "give the LVM snapshot room for `SIZE` of changes. Default 15 % of the volume, then as before"),
			sizeFlag(&req.COWChunk, "cow-chunk", "let the LVM snapshot copy `SIZE` at a time, 4KiB to 512KiB. Default LVM's"),
			&cli.BoolFlag{Name: "freeze", Destination: &req.Freeze, Usage: "hold off writers of a mounted device while all of it is read"},
			durationFlag(&req.FreezeLimit, "freeze-limit", "let writers go on after `TIME` at the latest, and fail"),
		},
		Description: `
SOURCE is a logical volume (VG/LV or the path of its device), another block
device, or an image file.

Of a classic logical volume the first point takes everything. From then on an
LVM snapshot stays with the volume and lists what changes; the next run makes a
new one, reads just what the old one lists, and removes the old one. A mounted
filesystem is consistent: the kernel holds off its writers while it makes the
snapshot. When the list cannot be trusted (the snapshot overflowed or is gone,
the volume was resized) everything is read and compared by hash; the run says
so, and ends with exit code 3.

An image file is read whole and compared by hash, unless --cow names the
exception store of a snapshot that was taken when the image equalled the
volume's latest point.

Examples:
  blkbak snapshot vg/data
  blkbak snapshot /dev/vg/data --tag why=upgrade
  blkbak snapshot disk.img --volume laptop
  blkbak snapshot disk.img --cow /dev/mapper/vg-snap-cow`,
		Action: func(c *cli.Context) error {
			var err error
			if req.Tags, err = tags.parse(); err != nil {
				return err
			}
			req.Source = c.Args().First()
			return a.snapshot(c, req)
		},
	}
}

func (a *app) snapshot(c *cli.Context, req engine.Request) error {
	store, err := a.openStore(c.Context, !req.DryRun)
	if err != nil {
		return err
	}
	defer store.Close()
	e, err := a.engine(store)
	if err != nil {
		return err
	}
	done := a.showProgress(e)
	p, plan, err := e.Snapshot(c.Context, req)
	done()
	if err != nil {
		return err
	}
	if req.DryRun {
		return a.print(plan, func(w io.Writer) { writePlan(w, plan) })
	}
	if p.Warnings == nil {
		p.Warnings = []string{}
	}
	res := snapshotResult{p.ID, p.Volume, p.Root, p.Parent, p.Size, p.Mode, p.Stats, p.Warnings}
	if err := a.print(res, func(w io.Writer) { a.writeSnapshot(w, p) }); err != nil {
		return err
	}
	if len(p.Warnings) > 0 {
		return warnings(p.Warnings)
	}
	return nil
}

// writeSnapshot is one line: a run from cron is silent with --quiet, and says
// what it did without.
func (a *app) writeSnapshot(w io.Writer, p catalog.Point) {
	if a.global.quiet {
		return
	}
	fmt.Fprintf(w, "%v  %s  %s, %s changed, %s read, %s stored, %.2f s\n", p.ID, printable(p.Volume), p.Mode,
		humanSize(p.Stats.Changed), humanSize(p.Stats.Read), humanSize(p.Stats.Stored), p.Stats.Seconds)
}

func writePlan(w io.Writer, p engine.Plan) {
	fmt.Fprintf(w, "volume   %s\n", printable(p.Volume))
	fmt.Fprintf(w, "source   %s, %s\n", printable(p.Source), humanSize(p.Size))
	fmt.Fprintf(w, "mode     %s: %s\n", p.Mode, printable(p.Reason))
	fmt.Fprintf(w, "to read  %s at most\n", humanSize(p.ToRead))
	for _, act := range p.Actions {
		fmt.Fprintf(w, "would    %s\n", printable(act))
	}
}
