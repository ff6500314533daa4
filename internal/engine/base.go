package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
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
	j, ok, err := readJournal(c.state)
	if err != nil {
		c.Logger.Warn("journal not used", "err", err)
	}
	scan := func(format string, args ...any) (blkbak.Mode, string) {
		c.base, c.journal = lvm.Volume{}, journal{}
		c.read.parent = &c.read.latest
		reason := fmt.Sprintf(format, args...)
		c.read.warnings = append(c.read.warnings, "everything is read and compared by hash: "+reason)
		return blkbak.ModeScan, reason
	}
	// The latest point was read from a snapshot: if that still exists, it is the
	// base, and nothing changed between them. Else an interrupted run may have
	// left a journal for the snapshot that it had made.
	byUUID := func(uuid string) int {
		return slices.IndexFunc(snapshots, func(s lvm.Volume) bool { return uuid != "" && s.UUID == uuid })
	}
	latest := c.read.latest
	if i := byUUID(latest.Source.SnapshotUUID); i >= 0 {
		c.base = snapshots[i]
		c.journal = journal{Origin: latest.Source.LVUUID, Size: latest.Size, Base: c.base.UUID, Parent: latest.ID}
	} else if i := byUUID(j.Base); ok && i >= 0 {
		c.base, c.journal = snapshots[i], j
	} else {
		return scan("the snapshot %s that the latest point was read from is gone", orNone(latest.Source.SnapshotUUID))
	}
	parent, ok := c.read.point(c.journal.Parent)
	switch name := c.base.FullName(); {
	case !ok:
		return scan("point %v, which snapshot %s goes with, is gone", c.journal.Parent, name)
	case c.journal.Origin != c.lv.UUID:
		return scan("snapshot %s goes with another volume than %s", name, c.lv.FullName())
	case c.journal.Size != c.lv.Size || parent.Size != c.lv.Size:
		return scan("the volume was resized from %d to %d bytes", parent.Size, c.lv.Size)
	case c.base.Merging:
		return scan("snapshot %s is being merged", name)
	case !c.base.Valid:
		return scan("snapshot %s overflowed", name)
	}
	c.read.parent = &parent
	return blkbak.ModeCOW, "snapshot " + c.base.FullName() + " lists what changed since point " + parent.ID.String()
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
	usage, err := c.usage(ctx, c.base)
	if err != nil {
		return nil, err
	}
	dev, err := blockdev.Open(c.base.COWPath(), blockdev.Options{Direct: true})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	s, err := cow.Read(ctx, dev, dev.Size(), cow.Options{OriginSize: c.lv.Size, Areas: usage.Metadata/c.base.ChunkSize - 1})
	if err != nil {
		return nil, fmt.Errorf("exception store of %s: %w", c.base.FullName(), err)
	}
	if _, err := c.usage(ctx, c.base); err != nil {
		return nil, err
	}
	return s.Extents(), nil
}

// usage asks how a snapshot fares. One that lost anything is an error.
func (c *cycle) usage(ctx context.Context, s lvm.Volume) (lvm.Usage, error) {
	u, err := c.LVM.Usage(ctx, dmName(s))
	switch {
	case err != nil:
		return u, err
	case u.Failed != "":
		return u, fmt.Errorf("snapshot %s: the kernel says %q: %w", s.FullName(), u.Failed, blkbak.ErrNeedsFull)
	case u.Target != cow.TargetSnapshot || s.ChunkSize <= 0:
		return u, fmt.Errorf("snapshot %s is a %q: %w", s.FullName(), u.Target, blkbak.ErrNeedsFull)
	}
	return u, nil
}
