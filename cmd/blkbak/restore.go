package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/engine"
)

func restoreCommand(a *app) *cli.Command {
	var req engine.RestoreRequest
	return &cli.Command{
		Name:      "restore",
		Category:  groupMain,
		Usage:     "put a restore point into a file or onto a device",
		ArgsUsage: "POINT",
		Flags: []cli.Flag{
			textFlag(&req.Target, "to", "restore to `TARGET`: a file, a device, or - for standard output"),
			&cli.BoolFlag{Name: "force", Destination: &req.Force, Usage: "write over a target that exists"},
			&cli.BoolFlag{Name: "verify", Destination: &req.Verify, Usage: "read the target back and compare"},
		},
		Description: `
A new file gets its name when it is complete. Into a file or device that exists
(--force) only what differs is written. A device that is in use is refused.
` + pointNames + `

Examples:
  blkbak restore vg/data@latest --to data.img
  blkbak restore 3f2a --to /dev/vg/data --force --verify
  blkbak restore vg/data@~1 --to - | ssh host dd of=/dev/sdx bs=1M`,
		Action: func(c *cli.Context) error {
			if err := need(c, "to"); err != nil {
				return err
			}
			stream := req.Target == "-"
			if stream && (req.Verify || a.global.json) {
				return usagef("restore: neither --verify nor --json goes with --to -")
			}
			return a.withCatalog(c, func(store *chunkstore.Store, cat *catalog.Catalog) error {
				var err error
				if req.Point, err = cat.Find(c.Args().First()); err != nil {
					return err
				}
				if stream {
					req.Stream = a.stdout
				}
				e, err := a.engine(store)
				if err != nil {
					return err
				}
				done := a.showProgress(e)
				res, err := e.Restore(c.Context, req)
				done()
				if err != nil || stream {
					return err
				}
				return a.print(res, func(w io.Writer) {
					fmt.Fprintf(w, "restored %v to %s: %s written, %s made holes, %s there already\n", res.Point, printable(res.Target),
						humanSize(res.Written), humanSize(res.Zeroed), humanSize(res.Same))
					if res.Verified {
						fmt.Fprintln(w, "verified: the target holds what the point holds")
					}
				})
			})
		},
	}
}
