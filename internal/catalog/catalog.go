package catalog

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// Outcomes is where points are read from: a chunkstore.Store.
type Outcomes interface {
	Outcomes(ctx context.Context) ([]chunkstore.Outcome, error)
}

// Catalog is the restore points of a repository. Safe for concurrent use.
type Catalog struct {
	points  []Point // by volume, then in order
	bodies  map[blkbak.PointID]chunkstore.ID
	damaged []error
}

// Load reads all points. One that cannot be read does not hide the others: see
// Damaged.
func Load(ctx context.Context, src Outcomes) (*Catalog, error) {
	list, err := src.Outcomes(ctx)
	if err != nil {
		return nil, err
	}
	c := &Catalog{bodies: make(map[blkbak.PointID]chunkstore.ID)}
	for _, o := range list {
		switch {
		case o.Err != nil:
			c.damaged = append(c.damaged, o.Err)
		case len(o.Body) > 0: // other outcomes made no point
			p, err := Decode(o.Session, o.Body)
			if err != nil {
				c.damaged = append(c.damaged, err)
				continue
			}
			c.points = append(c.points, p)
			c.bodies[p.ID] = chunkstore.Sum(o.Body)
		}
	}
	slices.SortFunc(c.points, func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Number, b.Number), a.Time.Compare(b.Time),
			cmp.Compare(a.ID.String(), b.ID.String()))
	})
	return c, nil
}

// Damaged lists what is wrong with points that could not be read.
func (c *Catalog) Damaged() []error { return c.damaged }

// Points returns the points of all volumes, or of one, oldest first. The slice
// belongs to the catalog.
func (c *Catalog) Points(volume string) []Point {
	if volume == "" {
		return c.points
	}
	lo, _ := slices.BinarySearchFunc(c.points, volume, func(p Point, v string) int { return cmp.Compare(p.Volume, v) })
	hi := lo
	for hi < len(c.points) && c.points[hi].Volume == volume {
		hi++
	}
	return c.points[lo:hi:hi]
}

// Volumes lists the names of all volumes, sorted.
func (c *Catalog) Volumes() []string {
	var list []string
	for _, p := range c.points {
		if len(list) == 0 || list[len(list)-1] != p.Volume {
			list = append(list, p.Volume)
		}
	}
	return list
}

// Latest is the newest point of a volume.
func (c *Catalog) Latest(volume string) (Point, bool) {
	l := c.Points(volume)
	if len(l) == 0 {
		return Point{}, false
	}
	return l[len(l)-1], true
}

// Previous is the point before p in its volume.
func (c *Catalog) Previous(p Point) (Point, bool) { return c.beside(p, -1) }

// Next is the point after p in its volume.
func (c *Catalog) Next(p Point) (Point, bool) { return c.beside(p, +1) }

func (c *Catalog) beside(p Point, step int) (Point, bool) {
	l := c.Points(p.Volume)
	i := slices.IndexFunc(l, func(q Point) bool { return q.ID == p.ID })
	if i < 0 || i+step < 0 || i+step >= len(l) {
		return Point{}, false
	}
	return l[i+step], true
}

// Follow makes p the successor of the volume's newest point.
func (c *Catalog) Follow(p Point) Point {
	p.Number = 1
	if last, ok := c.Latest(p.Volume); ok {
		p.Number, p.Parent, p.Previous = last.Number+1, last.ID, c.bodies[last.ID]
	}
	return p
}

// CheckHistory reports each point that does not follow the one before it. A
// parent that is gone is no fault: points are forgotten.
func (c *Catalog) CheckHistory() []error {
	var errs []error
	for _, p := range c.points {
		if sum, ok := c.bodies[p.Parent]; ok && sum != p.Previous {
			errs = append(errs, blkbak.Corruptf("point "+p.ID.String(), -1, "its parent %v is not what it was", p.Parent))
		}
	}
	return errs
}

// ResolveVolume finds the volume that a user names: the whole name, or the end
// of it after a slash where only one volume ends so ("vg/data" for
// "host/vg/data").
func (c *Catalog) ResolveVolume(name string) (string, error) {
	var found []string
	for _, v := range c.Volumes() {
		if v == name {
			return v, nil
		}
		if strings.HasSuffix(v, "/"+name) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", blkbak.WithHint(fmt.Errorf("volume %q: %w", name, blkbak.ErrNotFound), "blkbak list shows what there is")
	}
	return "", blkbak.WithHint(fmt.Errorf("volume %q could be any of %s: %w", name, strings.Join(found, ", "), blkbak.ErrUsage),
		"write the whole name")
}

// Find returns the point that name means:
//
//	ID                  a prefix of at least 4 hex digits that only one point has
//	VOLUME@latest       VOLUME@oldest
//	VOLUME@~N           N before the latest
//	VOLUME@TIME         the newest not after TIME, RFC 3339 or a prefix of it
//	VOLUME@tag:K=V      the newest with that tag
func (c *Catalog) Find(name string) (Point, error) {
	at := strings.LastIndex(name, "@")
	if at < 0 {
		return c.findID(name)
	}
	volume, err := c.ResolveVolume(name[:at])
	if err != nil {
		return Point{}, err
	}
	p, ok, err := selectPoint(c.Points(volume), name[at+1:])
	if err != nil {
		return p, fmt.Errorf("point %q: %w", name, err)
	}
	if !ok {
		return p, blkbak.WithHint(fmt.Errorf("point %q: %w", name, blkbak.ErrNotFound), "blkbak list %s shows what there is", volume)
	}
	return p, nil
}

func (c *Catalog) findID(prefix string) (Point, error) {
	var found []Point
	for _, p := range c.points {
		if strings.HasPrefix(p.ID.String(), prefix) {
			found = append(found, p)
		}
	}
	switch {
	case len(prefix) < 4 || strings.Trim(prefix, "0123456789abcdef") != "":
		return Point{}, blkbak.WithHint(fmt.Errorf("point %q: %w", prefix, blkbak.ErrUsage),
			"name a point by 4 or more digits of its ID, or as VOLUME@latest, VOLUME@~1, VOLUME@2026-01-31")
	case len(found) == 0:
		return Point{}, blkbak.WithHint(fmt.Errorf("point %q: %w", prefix, blkbak.ErrNotFound), "blkbak list shows what there is")
	case len(found) > 1:
		return Point{}, blkbak.WithHint(fmt.Errorf("point %q: %w: %d points begin so", prefix, blkbak.ErrUsage, len(found)), "write more digits")
	}
	return found[0], nil
}

// selectPoint applies what stands after the "@" to a volume's points.
func selectPoint(l []Point, sel string) (Point, bool, error) {
	newest := func(ok func(Point) bool) (Point, bool, error) {
		for _, p := range slices.Backward(l) {
			if ok(p) {
				return p, true, nil
			}
		}
		return Point{}, false, nil
	}
	nth := func(i int) (Point, bool, error) {
		if i < 0 || i >= len(l) {
			return Point{}, false, nil
		}
		return l[i], true, nil
	}
	switch {
	case sel == "latest":
		return nth(len(l) - 1)
	case sel == "oldest":
		return nth(0)
	case strings.HasPrefix(sel, "~"):
		n, err := strconv.ParseUint(sel[1:], 10, 31)
		if err != nil {
			return Point{}, false, fmt.Errorf("%w: want a number after ~", blkbak.ErrUsage)
		}
		return nth(len(l) - 1 - int(n))
	case strings.HasPrefix(sel, "tag:"):
		k, v, err := ParseTag(sel[len("tag:"):])
		if err != nil {
			return Point{}, false, err
		}
		return newest(func(p Point) bool { got, ok := p.Tags[k]; return ok && got == v })
	}
	end, err := parseTime(sel)
	if err != nil {
		return Point{}, false, err
	}
	return newest(func(p Point) bool { return p.Time.Before(end) })
}

// parseTime returns the first moment that is after everything s means: a day
// ends with the day, a minute with the minute. Without an offset it is local.
func parseTime(s string) (time.Time, error) {
	for _, f := range []struct {
		layout string
		step   func(time.Time) time.Time
	}{
		{time.RFC3339Nano, func(t time.Time) time.Time { return t.Add(time.Millisecond) }},
		{"2006-01-02T15:04Z07:00", func(t time.Time) time.Time { return t.Add(time.Minute) }},
		{"2006-01-02T15:04:05", func(t time.Time) time.Time { return t.Add(time.Second) }},
		{"2006-01-02T15:04", func(t time.Time) time.Time { return t.Add(time.Minute) }},
		{"2006-01-02T15", func(t time.Time) time.Time { return t.Add(time.Hour) }},
		{"2006-01-02", func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }},
		{"2006-01", func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }},
	} {
		if t, err := time.ParseInLocation(f.layout, s, time.Local); err == nil {
			if f.layout == time.RFC3339Nano && !strings.Contains(s, ".") {
				return t.Add(time.Second), nil
			}
			return f.step(t), nil
		}
	}
	return time.Time{}, blkbak.WithHint(fmt.Errorf("%q: %w", s, blkbak.ErrUsage),
		"after the @ stands latest, oldest, ~N, tag:KEY=VALUE or a time such as 2026-01-31T23:00")
}
