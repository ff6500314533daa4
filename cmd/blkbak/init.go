package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak/chunkstore"
)

func initCommand(a *app) *cli.Command {
	chunk := int64(chunkstore.DefaultChunkSize)
	return &cli.Command{
		Name:     "init",
		Category: groupRepository,
		Usage:    "make a repository",
		Flags: []cli.Flag{
			sizeFlag(&chunk, "chunk-size", "cut volumes into chunks of `SIZE`, a power of two from 4KiB to 8MiB"),
		},
		Description: `
Makes a repository in the directory that --repo names, which must be empty or
missing. The default directory needs no init: the first snapshot makes it.

Small chunks store less of a scattered change, large ones make a smaller index.

Examples:
  blkbak init --repo /srv/backup
  blkbak --repo /srv/backup init --chunk-size 16KiB`,
		Action: func(c *cli.Context) error {
			dir, _, err := a.global.repository()
			if err != nil {
				return err
			}
			conf, err := chunkstore.Init(c.Context, dir, chunk)
			if err != nil {
				return err
			}
			doc := struct {
				Repository string `json:"repository"`
				chunkstore.Config
			}{dir, conf}
			return a.print(doc, func(w io.Writer) {
				fmt.Fprintf(w, "made repository %v in %s\n", conf.ID, printable(dir))
			})
		},
	}
}
