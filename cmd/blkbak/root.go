package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/engine"
)

func rootCommand(a *app) *cli.Command {
	chunk := int64(chunkstore.DefaultChunkSize)
	return &cli.Command{
		Name:      "root",
		Category:  groupMain,
		Usage:     "compute the root that a restore point of a device would have",
		ArgsUsage: "DEV",
		Flags: []cli.Flag{
			sizeFlag(&chunk, "chunk-size", "the repository's chunk `SIZE`"),
		},
		Description: `
Reads all of a device or image file and prints the root of its image tree.
Equal bytes have equal roots, however they were stored: when this is the root
that "show" prints of a point, the device holds what the point holds. No
repository is needed.

Examples:
  blkbak root disk.img
  blkbak root /dev/mapper/vg-data --json`,
		Action: func(c *cli.Context) error {
			dev, err := blockdev.Open(c.Args().First(), blockdev.Options{})
			if err != nil {
				return err
			}
			defer dev.Close()
			bar := a.Progress("reading", dev.Size())
			root, err := engine.Root(c.Context, dev, chunk, bar.Add)
			bar.Done()
			if err != nil {
				return err
			}
			doc := struct {
				Root      chunkstore.ID `json:"root"`
				Size      int64         `json:"size"`
				ChunkSize int64         `json:"chunk_size"`
			}{root, dev.Size(), chunk}
			return a.print(doc, func(w io.Writer) { fmt.Fprintln(w, root) })
		},
	}
}
