package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/lvm"
)

// LVM is what a run needs of the logical volume manager; lvm.Tools has it.
type LVM interface {
	Volume(ctx context.Context, name string) (lvm.Volume, error)
	Volumes(ctx context.Context, vg string) ([]lvm.Volume, error)
	Group(ctx context.Context, vg string) (lvm.Group, error)
	Metadata(ctx context.Context, vg string) ([]byte, error)
	Status(ctx context.Context, dmName string) (cow.Status, error)
	CreateSnapshot(ctx context.Context, s lvm.Spec) error
	Remove(ctx context.Context, name string) error
	Retag(ctx context.Context, name string, remove, add []string) error
}

// Keys of the tags on the snapshots that a run makes. People read them, and by
// the first two a run knows what it may remove; which snapshot is the base goes
// by UUIDs.
const (
	tagRepo   = "repo"
	tagVolume = "volume"
	tagPoint  = "point"
)

// cycle is one run on a classic LVM volume.
type cycle struct {
	*Engine
	req   Request
	lv    lvm.Volume
	state string
	read  read

	base    lvm.Volume // what can say what changed since base.Parent; zero for none
	journal journal    // what base stands for
	stale   []lvm.Volume
	next    lvm.Volume // the new snapshot
	cowSize int64      // of it
}

func (e *Engine) snapshotLV(ctx context.Context, req Request, lv lvm.Volume, start time.Time) (catalog.Point, Plan, error) {
	fail := func(err error) (catalog.Point, Plan, error) { return catalog.Point{}, Plan{}, err }
	if req.COW != "" || req.Freeze {
		return fail(fmt.Errorf("--cow goes with an image file and --freeze with a device, not with volume %s: %w", lv.FullName(), blkbak.ErrUsage))
	}
	if err := snapshottable(lv); err != nil {
		return fail(err)
	}
	volume := req.Volume
	if volume == "" {
		volume = e.Host + "/" + lv.FullName()
	}
	lock, err := e.lockVolume(volume)
	if err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	c := &cycle{Engine: e, req: req, lv: lv, state: e.volumeState(volume)}
	c.read = read{start: start, tags: req.Tags, id: blkbak.SourceID{
		Kind: "lvm", Host: e.Host, Path: lv.FullName(), VGUUID: lv.VGUUID, LVUUID: lv.UUID}}
	if c.read.history, err = e.history(ctx, volume); err != nil {
		return fail(err)
	}
	plan, err := c.prepare(ctx)
	if err != nil || req.DryRun {
		return catalog.Point{}, plan, err
	}
	p, err := c.run(ctx)
	plan.Mode = c.read.mode
	return p, plan, err
}

// snapshottable tells why a volume cannot take part in the cycle.
func snapshottable(lv lvm.Volume) error {
	switch {
	case lv.Kind == lvm.KindSnapshot:
		return blkbak.WithHint(fmt.Errorf("volume %s is itself a snapshot, of %s: %w", lv.FullName(), lv.Origin, blkbak.ErrUsage),
			"name the origin, %s/%s", lv.VG, lv.Origin)
	case lv.Kind == lvm.KindThin:
		return fmt.Errorf("volume %s is thin: only classic volumes have an exception store: %w", lv.FullName(), errors.ErrUnsupported)
	case lv.Path == "" || lv.Kind == lvm.KindThinPool:
		return fmt.Errorf("volume %s is internal to LVM: %w", lv.FullName(), blkbak.ErrUsage)
	case !lv.Active:
		return blkbak.WithHint(fmt.Errorf("volume %s is not active: %w", lv.FullName(), blkbak.ErrBusy), "lvchange -ay %s", lv.FullName())
	case lv.Merging:
		return blkbak.WithHint(fmt.Errorf("a snapshot is being merged into volume %s: %w", lv.FullName(), blkbak.ErrBusy), "wait until lvs shows no merge")
	}
	return nil
}

// prepare finds out what is there and what is to be done, and changes nothing.
func (c *cycle) prepare(ctx context.Context) (Plan, error) {
	group, err := c.LVM.Volumes(ctx, c.lv.VG)
	if err != nil {
		return Plan{}, err
	}
	snapshots := slices.DeleteFunc(group, func(v lvm.Volume) bool {
		return v.Kind != lvm.KindSnapshot && !v.HalfMade() || v.Kind == lvm.KindSnapshot && v.OriginUUID != c.lv.UUID
	})
	plan := Plan{Volume: c.read.volume, Source: c.lv.FullName(), Size: c.lv.Size, ToRead: c.lv.Size}
	if c.read.any {
		plan.Parent = c.read.latest.ID
	}
	c.read.mode, plan.Reason = c.chooseBase(snapshots)
	plan.Mode = c.read.mode
	for _, s := range snapshots {
		if c.owns(s) && s.UUID != c.base.UUID {
			c.stale = append(c.stale, s)
			plan.Actions = append(plan.Actions, fmt.Sprintf("remove %s, left behind by an earlier run", s.FullName()))
		}
	}
	if err := c.checkRoom(ctx, &plan); err != nil {
		return plan, err
	}
	if c.base.UUID != "" {
		plan.Actions = append(plan.Actions, fmt.Sprintf("read the exception table of %s and remove it", c.base.FullName()))
		if u, err := c.status(ctx, c.base); err == nil {
			plan.ToRead = min(u.Allocated-u.Metadata+blkbak.ExtentBytes(c.journal.Extents), c.lv.Size)
		}
	}
	return plan, nil
}

// checkRoom chooses the size of the new snapshot, and refuses a run for which the
// volume group has no room.
func (c *cycle) checkRoom(ctx context.Context, plan *Plan) error {
	g, err := c.LVM.Group(ctx, c.lv.VG)
	if err != nil {
		return err
	}
	for _, s := range c.stale {
		g.Free += s.Size
	}
	c.cowSize = c.req.COWSize
	switch {
	case c.cowSize != 0:
	case c.base.UUID != "":
		c.cowSize = c.base.Size // as big as the one that it replaces
	default:
		if c.cowSize, err = lvm.DefaultCOWSize(c.lv.Size, cmp.Or(c.req.COWChunk, cow.DefaultChunk), g); err != nil {
			return err
		}
	}
	if c.cowSize > g.Free {
		return blkbak.WithHint(fmt.Errorf("volume group %s has %d bytes free, the snapshot wants %d: %w", c.lv.VG, g.Free, c.cowSize, blkbak.ErrNoSpace),
			"extend the group with vgextend, or take a smaller --cow-size")
	}
	plan.Actions = append(plan.Actions, fmt.Sprintf("create a snapshot of %s with room for %d changed bytes", c.lv.FullName(), c.cowSize))
	return nil
}

// run is the cycle of the package comment.
func (c *cycle) run(ctx context.Context) (catalog.Point, error) {
	for _, s := range c.stale {
		c.Logger.Warn("removing a snapshot that an earlier run left behind", "snapshot", s.FullName())
		c.discard(ctx, s)
	}
	if err := c.createNext(ctx); err != nil {
		return catalog.Point{}, err
	}
	p, err := c.fromNext(ctx)
	if err != nil {
		return p, errors.Join(err, c.abandon(ctx))
	}
	// The point is durable. What follows keeps house; the next run does it if
	// this one cannot.
	if err := c.removeJournal(c.state); err != nil {
		c.Logger.Warn("journal not removed", "err", err)
	}
	tag, err := lvm.Tag(tagPoint, p.ID.String())
	if err == nil {
		err = c.LVM.Retag(ctx, c.next.FullName(), nil, []string{tag})
	}
	if err != nil {
		c.Logger.Warn("snapshot not tagged with its point", "snapshot", c.next.FullName(), "err", err)
	}
	return p, nil
}

func (c *cycle) createNext(ctx context.Context) error {
	repo, err := lvm.Tag(tagRepo, c.Store.Config().ID.String())
	if err != nil {
		return err
	}
	volume, err := lvm.Tag(tagVolume, c.read.volume)
	if err != nil {
		return err
	}
	spec := lvm.Spec{VG: c.lv.VG, Origin: c.lv.Name, Name: c.lv.Name + "-blkbak-" + blkbak.NewPointID().String()[:8],
		Size: c.cowSize, ChunkSize: c.req.COWChunk, Tags: []string{repo, volume}}
	name := spec.VG + "/" + spec.Name
	begin := c.Now()
	if err := c.LVM.CreateSnapshot(ctx, spec); err != nil {
		err = fmt.Errorf("snapshot %s: %w", c.lv.FullName(), err)
		if rerr := c.removeSnapshot(ctx, name); !errors.Is(rerr, blkbak.ErrNotFound) {
			err = errors.Join(err, rerr) // half-made, and perhaps not removed
		}
		return err
	}
	// Writers stood still for a part of this: it is the upper bound that can be
	// measured from outside.
	c.read.frozen, c.read.time = c.Now().Sub(begin), c.Now()
	if c.next, err = c.LVM.Volume(ctx, name); err != nil {
		return errors.Join(err, c.removeSnapshot(ctx, name))
	}
	c.read.id.SnapshotUUID = c.next.UUID
	return nil
}

// fromNext makes the point out of the new snapshot.
func (c *cycle) fromNext(ctx context.Context) (catalog.Point, error) {
	if c.read.mode == blkbak.ModeCOW {
		if err := c.takeOver(ctx); err != nil {
			return catalog.Point{}, err
		}
	}
	if c.read.mode != blkbak.ModeCOW {
		// What the journal says is about a base that is not used any more.
		if err := c.removeJournal(c.state); err != nil {
			return catalog.Point{}, err
		}
	}
	dev, err := c.open(c.next.Path)
	if err != nil {
		return catalog.Point{}, err
	}
	defer dev.Close()
	if dev.Size() != c.lv.Size {
		return catalog.Point{}, blkbak.WithHint(fmt.Errorf("volume %s was resized from %d to %d bytes in the middle of the run: %w",
			c.lv.FullName(), c.lv.Size, dev.Size(), blkbak.ErrBusy), "run it again")
	}
	c.read.src = dev
	if content, err := blockdev.Probe(dev); err == nil {
		c.read.id.FSType, c.read.id.FSUUID = content.Type, content.UUID
	}
	text, err := c.LVM.Metadata(ctx, c.lv.VG)
	if err != nil {
		c.read.warnings = append(c.read.warnings, "the volume group's metadata is not in the point: "+err.Error())
	}
	c.read.lvmText = string(text)
	c.read.finish = func(r *read) error {
		// Reading a snapshot that overflowed fails; the check is for what may
		// have been read in the same moment.
		_, err := c.status(ctx, c.next)
		if errors.Is(err, blkbak.ErrNeedsFull) {
			err = blkbak.WithHint(fmt.Errorf("%w: %v", blkbak.ErrNoSpace, err), "give the snapshot more room with --cow-size")
		}
		return err
	}
	return c.commit(ctx, c.read)
}

// takeOver reads what the base lists, and makes the new snapshot the base. If
// the base cannot vouch for its table, the run goes on and reads everything.
func (c *cycle) takeOver(ctx context.Context) error {
	extents, err := c.readBase(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.read.mode = blkbak.ModeScan
		c.read.warnings = append(c.read.warnings, fmt.Sprintf("everything is read and compared by hash: %v", err))
		c.Logger.Warn("base snapshot not usable", "snapshot", c.base.FullName(), "err", err)
		c.read.parent = &c.read.latest
		c.discard(ctx, c.base)
		return nil
	}
	c.read.extents = blkbak.MergeExtents(append(extents, c.journal.Extents...))
	err = c.writeJournal(c.state, journal{Origin: c.lv.UUID, Size: c.lv.Size, Base: c.next.UUID,
		Parent: c.journal.Parent, Extents: c.read.extents})
	if err != nil {
		return err
	}
	c.discard(ctx, c.base)
	return nil
}

// abandon cleans up after a failed run: a new snapshot that became the base is
// kept, for it goes on recording what changes; any other only costs its origin.
func (c *cycle) abandon(ctx context.Context) error {
	if j, ok, err := readJournal(c.state); ok && err == nil && j.Base == c.next.UUID {
		return nil
	}
	return c.removeSnapshot(ctx, c.next.FullName())
}

// discard removes a snapshot that is of no more use. One that stays, since
// somebody has it mounted perhaps, costs its origin but makes no point wrong:
// the run goes on with a warning, and the next one tries again.
func (c *cycle) discard(ctx context.Context, s lvm.Volume) {
	if err := c.removeSnapshot(ctx, s.FullName()); err != nil && !errors.Is(err, blkbak.ErrNotFound) {
		c.Logger.Warn("snapshot not removed", "snapshot", s.FullName(), "err", err)
		c.read.warnings = append(c.read.warnings, fmt.Sprintf("an old snapshot could not be removed: %v", err))
	}
}

// removeSnapshot deletes a snapshot of ours, also when the run is being cancelled.
func (c *cycle) removeSnapshot(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return c.LVM.Remove(ctx, name)
}
