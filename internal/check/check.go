package check

import (
	"context"
	"errors"
	"fmt"

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
	Kind   string           `json:"kind"`   // config, pack, object, index, point, history, stray, missing
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
	c := checker{store: store, nodes: make(map[chunkstore.ID]bool), bad: make(map[chunkstore.ID]int), report: Report{Errors: []Error{}}}
	if err := store.Refresh(ctx); err != nil {
		return c.report, err
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
	c.points(cat)
	for _, p := range cat.Points("") {
		if err := c.walk(ctx, p); err != nil {
			return c.report, err
		}
	}
	if len(c.bad) > 0 {
		for _, p := range cat.Points("") {
			if err := c.affected(ctx, p); err != nil {
				return c.report, err
			}
		}
	}
	c.report.OK = len(c.report.Errors) == 0
	return c.report, nil
}

type checker struct {
	store  *chunkstore.Store
	nodes  map[chunkstore.ID]bool // trees below these were walked
	bad    map[chunkstore.ID]int  // objects that cannot be had: their place in Errors
	report Report
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
	c.report.Errors = append(c.report.Errors, e)
}

func (c *checker) problem(p chunkstore.Problem) { c.add(p.Kind, p.File, p.Object, p.Err) }

// points reports what the catalog itself finds wrong. Files that do not unseal
// were reported by the store already.
func (c *checker) points(cat *catalog.Catalog) {
	c.report.Points = len(cat.Points(""))
	for _, err := range cat.Damaged() {
		var f *blkbak.FormatError
		if errors.As(err, &f) && len(f.Format) > 6 && f.Format[:6] == "point " {
			c.add("point", "points/"+f.Format[6:], chunkstore.ID{}, err)
		}
	}
	for _, err := range cat.CheckHistory() {
		c.add("history", "", chunkstore.ID{}, err)
	}
}

// walk sees that every object below a point's root is there. Subtrees that an
// earlier point has too are passed over.
func (c *checker) walk(ctx context.Context, p catalog.Point) error {
	seen := func(id chunkstore.ID) bool { return c.nodes[id] }
	for o, err := range image.Objects(ctx, c.store, p.Root, seen) {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			c.add("object", "", o.ID, err)
		case o.Kind == chunkstore.KindNode:
			c.nodes[o.ID] = true
		case !c.store.Has(o.ID):
			c.add("missing", "", o.ID, fmt.Errorf("object %v: %w", o.ID, blkbak.ErrNotFound))
		}
	}
	return nil
}

// affected adds the point to every error whose object it needs.
func (c *checker) affected(ctx context.Context, p catalog.Point) error {
	visited := make(map[chunkstore.ID]bool)
	for o := range image.Objects(ctx, c.store, p.Root, func(id chunkstore.ID) bool { return visited[id] }) {
		if err := ctx.Err(); err != nil {
			return err
		}
		i, bad := c.bad[o.ID]
		if bad || o.Kind == chunkstore.KindNode {
			visited[o.ID] = true // seen again under another place, it is the same news
		}
		if l := len(c.report.Errors); bad && i < l {
			pts := &c.report.Errors[i].Points
			if n := len(*pts); n == 0 || (*pts)[n-1] != p.ID {
				*pts = append(*pts, p.ID)
			}
		}
	}
	return nil
}
