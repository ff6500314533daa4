package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
)

func cowCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:     "cow",
		Category: groupSource,
		Usage:    "read the exception store of a classic LVM snapshot",
		Description: `
The exception store is where the kernel lists the chunks of a volume that were
written since a snapshot of it was made. DEV is its device, for LVM
/dev/mapper/VG-SNAPSHOT-cow, or a copy of it in a file. A device is read past
the page cache, which may hold an older state of it, and only ever read.`,
		Subcommands: []*cli.Command{
			cowInfoCommand(a),
			cowDumpCommand(a),
			cowHintsCommand(a),
		},
	}
}

func cowInfoCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "say what an exception store is and how much it lists",
		ArgsUsage: "DEV",
		Description: `
Ends with exit code 7 when the store cannot be the base of an increment because
the snapshot was dropped or the store never had a header.

Examples:
  blkbak cow info /dev/mapper/vg-snap-cow
  blkbak cow info cow.img --json`,
		Action: func(c *cli.Context) error {
			return withStore(c, cow.Options{Inspect: true}, func(dev *blockdev.Device, s *cow.Store) error {
				info := cowInfo{Device: dev.Path(), Size: dev.Size(), cowSummary: summarize(s)}
				for e := range s.All() {
					info.Extents++
					info.Bytes += e.Len
				}
				return a.print(info, info.write)
			})
		},
	}
}

func cowDumpCommand(a *app) *cli.Command {
	var originSize int64
	return &cli.Command{
		Name:      "dump",
		Usage:     "list the extents that were written since the snapshot",
		ArgsUsage: "DEV",
		Flags:     []cli.Flag{originFlag(&originSize)},
		Description: `
Prints offset and length of each in bytes, sorted and merged. The list of a
store that is marked invalid lacks changes: it is printed all the same, with
exit code 7.

Examples:
  blkbak cow dump /dev/mapper/vg-snap-cow
  blkbak cow dump cow.img --json --origin-size 20G`,
		Action: func(c *cli.Context) error {
			opts := cow.Options{OriginSize: originSize, Inspect: true}
			return withStore(c, opts, func(_ *blockdev.Device, s *cow.Store) error {
				if a.global.json {
					return writeDump(a.stdout, summarize(s), s.All())
				}
				return cow.WriteExtentHints(a.stdout, s.All())
			})
		},
	}
}

func cowHintsCommand(a *app) *cli.Command {
	var originSize, grain int64
	format := "rbd-json"
	return &cli.Command{
		Name:      "hints",
		Usage:     "tell another backup program what to read",
		ArgsUsage: "DEV",
		Flags: []cli.Flag{
			choiceFlag(&format, "format", "print as `FORMAT`: rbd-json, extents, bitmap", "rbd-json", "extents", "bitmap"),
			originFlag(&originSize),
			sizeFlag(&grain, "grain", "let a bit of the bitmap stand for `SIZE` bytes instead of a chunk"),
		},
		Description: `
rbd-json is what "rbd diff --format json" prints, which Benji and backy2 take.
extents is a line of offset and length in bytes for each run. bitmap is binary,
without a header: bit i%8 of byte i/8, counted from the least significant, is
chunk i; with --origin-size it covers the whole volume, otherwise it ends with
the last bit that is set. Nothing is printed from a store that lacks changes.

Examples:
  blkbak cow hints /dev/mapper/vg-snap-cow > hints.json
  blkbak cow hints --format extents cow.img
  blkbak cow hints --format bitmap --grain 64KiB --origin-size 20G cow.img > map`,
		Action: func(c *cli.Context) error {
			if err := checkHints(a, c, format); err != nil {
				return err
			}
			return withStore(c, cow.Options{OriginSize: originSize}, func(_ *blockdev.Device, s *cow.Store) error {
				switch format {
				case "extents":
					return cow.WriteExtentHints(a.stdout, s.All())
				case "bitmap":
					if grain == 0 {
						grain = s.Header.ChunkSize()
					}
					return cow.WriteBitmapHints(a.stdout, s.All(), grain, originSize)
				}
				return cow.WriteRBDHints(a.stdout, s.All())
			})
		},
	}
}

// checkHints refuses flags that do not go together.
func checkHints(a *app, c *cli.Context, format string) error {
	if a.global.json && format != "rbd-json" {
		return usagef("cow hints: --format %s is no JSON", format)
	}
	if c.IsSet("grain") && format != "bitmap" {
		return usagef("cow hints: --grain goes with --format bitmap")
	}
	if f, ok := a.stdout.(*os.File); ok && format == "bitmap" {
		if _, terminal := terminalWidth(f); terminal {
			return hintf(usagef("cow hints: a bitmap is not for terminals"), "send it to a file with >")
		}
	}
	return nil
}

func originFlag(p *int64) cli.Flag {
	return sizeFlag(p, "origin-size", "the volume has `SIZE` bytes: refuse what lies beyond, cut the last chunk")
}

// withStore reads the store of the command's DEV and hands it to use. A store
// that is not to be trusted is an error, after use has shown it.
func withStore(c *cli.Context, opts cow.Options, use func(*blockdev.Device, *cow.Store) error) (err error) {
	dev, err := openSource(c.Args().First())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	s, err := cow.Read(c.Context, dev, dev.Size(), opts)
	if err != nil {
		if opts.Inspect && errors.Is(err, blkbak.ErrNeedsFull) {
			s = &cow.Store{} // it has no header, which is shown as what it is
			return errors.Join(use(dev, s), fmt.Errorf("read %s: %w", dev.Path(), err))
		}
		return fmt.Errorf("read %s: %w", dev.Path(), err)
	}
	if err := use(dev, s); err != nil {
		return err
	}
	if err := s.Header.Validate(); err != nil {
		return fmt.Errorf("read %s: %w", dev.Path(), err)
	}
	return nil
}

// openSource opens a device past the page cache, which the kernel does not keep
// up to date for an exception store, and a file through it.
func openSource(path string) (*blockdev.Device, error) {
	info, err := os.Stat(path)
	direct := err == nil && info.Mode()&os.ModeDevice != 0 // other errors are Open's to tell
	return blockdev.Open(path, blockdev.Options{Direct: direct})
}

// cowSummary is the head of what is printed about a store.
type cowSummary struct {
	Valid      bool   `json:"valid"`
	Version    uint32 `json:"version"`
	ChunkBytes int64  `json:"chunk_bytes"`
	Exceptions int64  `json:"exceptions"`
	Areas      int64  `json:"areas"`
}

func summarize(s *cow.Store) cowSummary {
	return cowSummary{
		Valid:      s.Header.Validate() == nil,
		Version:    s.Header.Version,
		ChunkBytes: s.Header.ChunkSize(),
		Exceptions: s.Exceptions,
		Areas:      s.Areas,
	}
}

// cowInfo is the document of `cow info --json`.
type cowInfo struct {
	Device string `json:"device"`
	Size   int64  `json:"size"`
	cowSummary
	Extents int64 `json:"extents"` // their number
	Bytes   int64 `json:"bytes"`   // their sum
}

func (i cowInfo) write(w io.Writer) {
	state := "valid"
	switch {
	case i.Version == 0:
		state = "no header: fresh, or of a transient snapshot"
	case !i.Valid:
		state = "invalid: changes are missing"
	}
	fmt.Fprintf(w, "device      %s, %s\n", printable(i.Device), humanSize(i.Size))
	fmt.Fprintf(w, "state       %s\n", state)
	if i.Version == 0 {
		return
	}
	fmt.Fprintf(w, "version     %d\n", i.Version)
	fmt.Fprintf(w, "chunk       %s\n", formatSize(i.ChunkBytes))
	fmt.Fprintf(w, "exceptions  %d in %d areas\n", i.Exceptions, i.Areas)
	fmt.Fprintf(w, "written     %s in %d extents\n", humanSize(i.Bytes), i.Extents)
}

// writeDump prints the document of `cow dump --json` as it goes: a table of
// scattered chunks may have more extents than memory should hold.
func writeDump(w io.Writer, head cowSummary, extents iter.Seq[blkbak.Extent]) error {
	text, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	out.Write(text[:len(text)-len("\n}")])
	out.WriteString(",\n  \"extents\": [")
	sep := "\n    "
	for e := range extents {
		fmt.Fprintf(out, "%s[%d,%d]", sep, e.Off, e.Len)
		sep = ",\n    "
	}
	if sep[0] == ',' {
		out.WriteString("\n  ")
	}
	out.WriteString("]\n}\n")
	return out.Flush()
}
