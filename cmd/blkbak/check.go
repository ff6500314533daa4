package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/check"
)

func checkCommand(a *app) *cli.Command {
	var o check.Options
	return &cli.Command{
		Name:     "check",
		Category: groupRepository,
		Usage:    "verify the repository",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "read-data", Destination: &o.ReadData, Usage: "read and decode every stored byte"},
		},
		Description: `
Looks at every file of the repository and at every restore point: that tables
and checksums are right, that the index agrees with the packs, and that every
chunk that a point needs is there. With --read-data it also reads every chunk
and compares it with its name. Names the points that damage affects. Changes
nothing.

Ends with exit code 4 when anything is wrong.

Examples:
  blkbak check
  blkbak check --read-data --json`,
		Action: func(c *cli.Context) error {
			store, err := a.openStore(c.Context, false)
			if err != nil {
				return err
			}
			defer store.Close()
			bar := a.Progress("checking", 0)
			o.Progress = bar.Add
			rep, err := check.Run(c.Context, store, o)
			bar.Done()
			if err != nil {
				return err
			}
			if err := a.print(rep, func(w io.Writer) { writeReport(w, rep) }); err != nil || rep.OK {
				return err
			}
			return hintf(fmt.Errorf("%d problems: %w", len(rep.Errors), blkbak.ErrCorrupt),
				"points that are not named above restore whole; an index that is damaged or missing is made anew by: blkbak repair")
		},
	}
}

func writeReport(w io.Writer, r check.Report) {
	for _, e := range r.Errors {
		fmt.Fprintf(w, "%s: %s\n", e.Kind, printable(e.Text))
		for _, p := range e.Points {
			fmt.Fprintf(w, "  affects point %v\n", p)
		}
	}
	fmt.Fprintf(w, "%d points, %d objects in %d packs", r.Points, r.Objects, r.Packs)
	if r.Bytes > 0 {
		fmt.Fprintf(w, ", %s read and verified", humanSize(r.Bytes))
	}
	if r.OK {
		fmt.Fprint(w, ": all good")
	}
	fmt.Fprintln(w)
}

func repairCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:     "repair",
		Category: groupRepository,
		Usage:    "make a damaged or missing index anew",
		Description: `
Makes the index of every pack that no sound index lists, from the packs alone,
and drops index files that are damaged. Stored data is never changed.

Example:
  blkbak repair && blkbak check`,
		Action: func(c *cli.Context) error {
			store, err := a.openStore(c.Context, false)
			if err != nil {
				return err
			}
			defer store.Close()
			n, err := store.RebuildIndex(c.Context)
			if err != nil {
				return err
			}
			doc := struct {
				Packs int `json:"packs_indexed"`
			}{n}
			return a.print(doc, func(w io.Writer) { fmt.Fprintf(w, "indexed %d packs\n", n) })
		},
	}
}
