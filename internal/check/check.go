package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
)

// Options say how deep to look.
type Options struct {
	ReadData bool              // read and decode every object
	Progress func(bytes int64) // called as objects are verified, or nil
}

// Error is one thing that is wrong.
type Error struct {
	Kind   string           `json:"kind"`   // config, pack, object, index, point, history, session, stray, missing
	Object string           `json:"object"` // name of an object, or ""
	File   string           `json:"pack"`   // file of the repository, or ""
	Points []blkbak.PointID `json:"points"` // that cannot be restored whole
	Text   string           `json:"message"`
}

// Report is what was found.
type Report struct {
	OK      bool    `json:"ok"`
	Points  int     `json:"points"`
	Packs   int64   `json:"packs"`
	Objects int64   `json:"objects"`
	Bytes   int64   `json:"bytes"` // read and verified
	Errors  []Error `json:"errors"`
}

// Run checks a repository. The error is for what kept it from looking; what it
// found is in the report.
func Run(ctx context.Context, store *chunkstore.Store, o Options) (Report, error) {
	c := checker{
		store:   store,
		suspect: make(map[string]bool),
		nodes:   make(map[chunkstore.ID]bool),
		bad:     make(map[chunkstore.ID]int),
		report:  Report{Errors: []Error{}},
	}
	sum, err := store.Verify(ctx, chunkstore.VerifyOptions{ReadData: o.ReadData, Progress: o.Progress, Report: c.problem})
	c.report.Packs, c.report.Objects, c.report.Bytes = sum.Packs, sum.Objects, sum.Bytes
	if err != nil {
		return c.report, err
	}
	cat, err := catalog.Load(ctx, store)
	if err != nil {
		return c.report, err
	}
	// The index is read after the points, or those that were committed since
	// would seem to miss their objects.
	if err := store.Refresh(ctx); err != nil {
		return c.report, err
	}
	c.points(cat)
	for _, p := range cat.Points("") {
		if err := c.walk(ctx, p); err != nil {
			return c.report, err
		}
	}
	if len(c.bad) > 0 {
		if err := c.affected(ctx, cat.Points("")); err != nil {
			return c.report, err
		}
	}
	c.report.OK = len(c.report.Errors) == 0
	return c.report, nil
}

type checker struct {
	store   *chunkstore.Store
	suspect map[string]bool        // packs with something wrong: what is in them is read, not taken for granted
	nodes   map[chunkstore.ID]bool // trees below these were walked
	bad     map[chunkstore.ID]int  // objects that cannot be had: their place in Errors
	report  Report
}

// add records an error; each object is reported once.
func (c *checker) add(kind, file string, object chunkstore.ID, err error) {
	e := Error{Kind: kind, File: file, Points: []blkbak.PointID{}, Text: err.Error()}
	if !object.IsZero() {
		if _, known := c.bad[object]; known {
			return
		}
		e.Object = object.String()
		c.bad[object] = len(c.report.Errors)
	}
	if id, perr := blkbak.ParsePointID(strings.TrimPrefix(file, "points/")); kind == "point" && perr == nil {
		e.Points = append(e.Points, id)
	}
	c.report.Errors = append(c.report.Errors, e)
}

// problem takes what the store finds wrong with its files.
func (c *checker) problem(p chunkstore.Problem) {
	if p.Kind == "pack" || p.Kind == "object" {
		c.suspect[p.File] = true
	}
	c.add(p.Kind, p.File, p.Object, p.Err)
}

// points reports what the catalog itself finds wrong. Files that do not unseal
// were reported by the store already.
func (c *checker) points(cat *catalog.Catalog) {
	c.report.Points = len(cat.Points(""))
	for _, err := range cat.Damaged() {
		var f *blkbak.FormatError
		if errors.As(err, &f) {
			if id, ok := strings.CutPrefix(f.Format, "point "); ok {
				c.add("point", "points/"+id, chunkstore.ID{}, err)
			}
		}
	}
	for _, err := range cat.CheckHistory() {
		c.add("history", "", chunkstore.ID{}, err)
	}
}

// walk sees that every object below a point's root is there, and that the tree is
// of the size that the point says. Subtrees that an earlier point has too are
// passed over.
func (c *checker) walk(ctx context.Context, p catalog.Point) error {
	im, err := image.Open(ctx, c.store, p.Root, nil)
	if err == nil && (im.Size() != p.Size || im.ChunkSize() != p.ChunkSize) {
		c.add("point", "points/"+p.ID.String(), chunkstore.ID{}, blkbak.Corruptf("point "+p.ID.String(), -1,
			"says %d bytes in chunks of %d, its map is for %d in chunks of %d", p.Size, p.ChunkSize, im.Size(), im.ChunkSize()))
	}
	seen := func(id chunkstore.ID) bool { return c.nodes[id] }
	for o, err := range image.Objects(ctx, c.store, p.Root, seen) {
		if err == nil && o.Kind == chunkstore.KindData {
			err = c.object(ctx, o.ID)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, blkbak.ErrNotFound):
			c.add("missing", "", o.ID, err)
		case err != nil:
			c.add("object", "", o.ID, err)
		case o.Kind == chunkstore.KindNode:
			c.nodes[o.ID] = true
		}
	}
	return nil
}

// object tells what is wrong with an object, by reading it if all that is known
// of it is that it should be in a pack with something wrong.
func (c *checker) object(ctx context.Context, id chunkstore.ID) error {
	files := c.store.Files(id)
	for _, f := range files {
		if !c.suspect[f] {
			return nil
		}
	}
	if len(files) == 0 {
		return fmt.Errorf("object %v: %w", id, blkbak.ErrNotFound)
	}
	_, err := c.store.Get(ctx, id, nil)
	return err
}
