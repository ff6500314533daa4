package engine

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/lvm"
)

// owns tells whether a run for this volume and repository made s.
func (c *cycle) owns(s lvm.Volume) bool {
	repo, _ := s.TagValue(tagRepo)
	volume, _ := s.TagValue(tagVolume)
	return s.Tagged(lvm.Mark) && repo == c.Store.Config().ID.String() && volume == c.read.volume
}

func dmName(v lvm.Volume) string { return lvm.DMName(v.VG, v.Name, "") }

// chooseBase finds the snapshot that can say what changed since a point that the
// repository has. Where there is none it says why everything has to be read;
// where there should be one, that reason is a warning.
func (c *cycle) chooseBase(snapshots []lvm.Volume) (blkbak.Mode, string) {
	switch {
	case !c.read.any:
		return blkbak.ModeFull, "the volume has no restore point yet"
	case c.req.Full:
		return blkbak.ModeFull, "a full read was asked for"
	}
	// The latest point was read from a snapshot: if that still exists, it is the
	// base, and nothing changed between them. Else an interrupted run may have
	// left a journal for the snapshot that it had made. Both are facts for ever:
	// the snapshot's UUID is never used again, and what it froze never changes.
	latest := c.read.latest
	facts := []journal{{Origin: latest.Source.LVUUID, Size: latest.Size, Base: latest.Source.SnapshotUUID, Parent: latest.ID}}
	if j, ok, err := readJournal(c.state); err != nil {
		c.Logger.Warn("journal not used", "err", err)
	} else if ok {
		facts = append(facts, j)
	}
	reason := fmt.Sprintf("the snapshot %s that the latest point was read from is gone", orNone(latest.Source.SnapshotUUID))
	for _, j := range facts {
		i := slices.IndexFunc(snapshots, func(s lvm.Volume) bool {
			return s.Kind == lvm.KindSnapshot && s.UUID == j.Base && j.Base != ""
		})
		if i < 0 {
			continue
		}
		parent, why := c.vouches(snapshots[i], j)
		if why == "" {
			c.base, c.journal, c.read.parent = snapshots[i], j, &parent
			return blkbak.ModeCOW, "snapshot " + c.base.FullName() + " lists what changed since point " + parent.ID.String()
		}
		reason = why
	}
	c.read.parent = &c.read.latest
	c.read.warnings = append(c.read.warnings, "everything is read and compared by hash: "+reason)
	return blkbak.ModeScan, reason
}

// vouches returns the point that changes are relative to if s, which j is about,
// can be the base; or else why it cannot.
func (c *cycle) vouches(s lvm.Volume, j journal) (parent catalog.Point, why string) {
	parent, ok := c.read.point(j.Parent)
	switch name := s.FullName(); {
	case !ok:
		why = fmt.Sprintf("point %v, which snapshot %s goes with, is gone", j.Parent, name)
	case j.Origin != c.lv.UUID:
		why = fmt.Sprintf("snapshot %s goes with another volume than %s", name, c.lv.FullName())
	case j.Size != c.lv.Size || parent.Size != c.lv.Size:
		why = fmt.Sprintf("the volume was resized from %d to %d bytes", parent.Size, c.lv.Size)
	case s.Merging:
		why = fmt.Sprintf("snapshot %s is being merged", name)
	case !s.Valid:
		why = fmt.Sprintf("snapshot %s overflowed", name)
	}
	return parent, why
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// readBase reads the base's exception table. The base's state is looked at
// before and after: what was listed by a snapshot that is whole afterwards is
// everything that changed.
func (c *cycle) readBase(ctx context.Context) ([]blkbak.Extent, error) {
	status, err := c.status(ctx, c.base)
	if err != nil {
		return nil, err
	}
	dev, err := c.open(c.base.COWPath())
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	s, err := cow.Read(ctx, dev, dev.Size(), cow.Options{OriginSize: c.lv.Size, Areas: status.Areas(c.base.ChunkSize)})
	if err != nil {
		return nil, fmt.Errorf("exception store of %s: %w", c.base.FullName(), err)
	}
	if _, err := c.status(ctx, c.base); err != nil {
		return nil, err
	}
	return wholeChunks(s.All(), c.read.parent.ChunkSize, c.lv.Size), nil
}

// wholeChunks collects extents, widened to chunks of the given size and cut at
// the end of the device. A busy volume's table has many small extents in few
// chunks: they never exist as a list.
func wholeChunks(extents iter.Seq[blkbak.Extent], chunk, size int64) []blkbak.Extent {
	var out []blkbak.Extent
	for e := range extents {
		start := e.Off / chunk * chunk
		end := min((e.End()+chunk-1)/chunk*chunk, size)
		out = blkbak.AppendExtent(out, blkbak.Extent{Off: start, Len: end - start})
	}
	return out
}

// status asks how a snapshot fares. One that lost anything is an error.
func (c *cycle) status(ctx context.Context, s lvm.Volume) (cow.Status, error) {
	st, err := c.LVM.Status(ctx, dmName(s))
	if err == nil {
		err = st.Usable()
	}
	if err != nil {
		err = fmt.Errorf("snapshot %s: %w", s.FullName(), err)
	}
	return st, err
}
