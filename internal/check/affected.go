package check

import (
	"context"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/image"
)

// affected adds to every error about an object the points that need it and cannot
// have it, because no other copy of it is good.
func (c *checker) affected(ctx context.Context, points []catalog.Point) error {
	for id := range c.bad {
		if _, err := c.store.Get(ctx, id, nil); err == nil {
			delete(c.bad, id)
		} else if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	s := search{checker: c, whole: make(map[chunkstore.ID]bool), above: make(map[chunkstore.ID]bool)}
	for _, p := range points {
		if err := s.point(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// search finds bad objects below many roots and reads each node about once.
type search struct {
	*checker
	whole map[chunkstore.ID]bool // nodes with nothing bad at or below them
	above map[chunkstore.ID]bool // nodes with something bad at or below them

	visited map[chunkstore.ID]bool // nodes of this point
	path    []image.Object         // the nodes from the root to where the walk is
}

func (s *search) point(ctx context.Context, p catalog.Point) error {
	s.visited, s.path = make(map[chunkstore.ID]bool), nil
	seen := func(id chunkstore.ID) bool {
		if s.visited[id] && s.above[id] {
			s.mark() // what is below has been counted, what is above here has not
		}
		return s.visited[id] || s.whole[id]
	}
	for o, err := range image.Objects(ctx, s.store, p.Root, seen) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			continue // in bad
		}
		s.enter(o)
		i, bad := s.bad[o.ID]
		if !bad {
			continue
		}
		s.mark()
		pts := &s.report.Errors[i].Points
		if n := len(*pts); n == 0 || (*pts)[n-1] != p.ID {
			*pts = append(*pts, p.ID)
		}
	}
	for id := range s.visited {
		if !s.above[id] {
			s.whole[id] = true
		}
	}
	return nil
}

// enter moves the path to o, which comes in the order of a walk from the top.
func (s *search) enter(o image.Object) {
	contains := func(a, b blkbak.Extent) bool { return a.Off <= b.Off && b.End() <= a.End() }
	for n := len(s.path); n > 0 && !contains(s.path[n-1].Extent, o.Extent); n-- {
		s.path = s.path[:n-1]
	}
	if o.Kind == chunkstore.KindNode {
		s.visited[o.ID] = true
		s.path = append(s.path, o)
	}
}

// mark notes that something is bad at the end of the path. The path may go past
// that by a node beside it, which is then looked at more often than it need be.
func (s *search) mark() {
	for _, o := range s.path {
		s.above[o.ID] = true
	}
}
