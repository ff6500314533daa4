package lvm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/blkbak/blkbak"
)

// Spec says what snapshot to make.
type Spec struct {
	VG, Origin string
	Name       string
	// Size of the exception store in bytes, a multiple of 512; LVM rounds it up
	// to extents and down to what can be of use. 0 makes a thin snapshot, of a
	// thin volume.
	Size int64
	// ChunkSize in bytes, a power of two from 4 KiB to 512 KiB; 0 is LVM's 4 KiB.
	// Not for thin snapshots.
	ChunkSize int64
	// Tags beside Mark, which every snapshot gets. They are set in the commit
	// that makes the volume: there is no moment without them.
	Tags []string
	// ReadOnly keeps everybody from writing to the snapshot, so that its table
	// says only what changed in the origin.
	ReadOnly bool
}

func (s Spec) args() ([]string, error) {
	err := errors.Join(checkName("group", s.VG), checkName("volume", s.Origin), checkName("volume", s.Name))
	if s.Size < 0 || s.Size%sector != 0 {
		err = errors.Join(err, fmt.Errorf("snapshot size %d: not a multiple of %d: %w", s.Size, sector, blkbak.ErrUsage))
	}
	c := s.ChunkSize
	if c != 0 && (c < 4<<10 || c > 512<<10 || c&(c-1) != 0 || s.Size == 0) {
		err = errors.Join(err, fmt.Errorf("snapshot chunk size %d: want a power of two from 4 KiB to 512 KiB, and not for a thin snapshot: %w", c, blkbak.ErrUsage))
	}
	// -y: a signature that happens to lie where the store will be is wiped
	// without a question.
	args := []string{"-s", "-y", "-n", s.Name, "--addtag", Mark}
	for _, tag := range s.Tags {
		err = errors.Join(err, checkTag(tag))
		args = append(args, "--addtag", tag)
	}
	if s.Size > 0 {
		args = append(args, "-L", bytesArg(s.Size))
	} else {
		// Thin snapshots are skipped at activation unless one says so.
		args = append(args, "-kn", "-ay")
	}
	if c > 0 {
		args = append(args, "-c", bytesArg(c))
	}
	if s.ReadOnly {
		args = append(args, "-pr")
	}
	return append(args, s.VG+"/"+s.Origin), err
}

// CreateSnapshot makes a snapshot. LVM suspends the origin meanwhile, and the
// kernel freezes a filesystem mounted from it: the snapshot is consistent.
//
// When it fails, a half-made volume may be left (see Volume.HalfMade): look for
// the name with Volume, and Remove it before another try.
func (t *Tools) CreateSnapshot(ctx context.Context, s Spec) error {
	args, err := s.args()
	if err != nil {
		return err
	}
	if _, err := t.change(ctx, "lvcreate", args...); err != nil {
		err = fmt.Errorf("snapshot %s/%s as %s: %w", s.VG, s.Origin, s.Name, err)
		if errors.Is(err, blkbak.ErrNoSpace) {
			err = blkbak.WithHint(err, "give the group %s more room with vgextend, or ask for less with --cow-size", s.VG)
		}
		return err
	}
	return nil
}

// owned looks a volume up and refuses it unless it is ours.
func (t *Tools) owned(ctx context.Context, verb, name string) (Volume, error) {
	v, err := t.Volume(ctx, name)
	if err != nil {
		return Volume{}, fmt.Errorf("%s %s: %w", verb, name, err)
	}
	if !v.Tagged(Mark) {
		return Volume{}, fmt.Errorf("%s %s: it does not carry the tag %s: %w", verb, name, Mark, blkbak.ErrUsage)
	}
	if v.HasSnapshots {
		return Volume{}, fmt.Errorf("%s %s: it is the origin of snapshots: %w", verb, name, blkbak.ErrUsage)
	}
	return v, nil
}

// only selects v and nothing else, even when its name is another's by now.
func only(v Volume) string { return fmt.Sprintf(`lv_uuid="%s" && lv_tags={"%s"}`, v.UUID, Mark) }

// Remove removes a volume that CreateSnapshot made, whole or half-made.
func (t *Tools) Remove(ctx context.Context, name string) error {
	v, err := t.owned(ctx, "remove", name)
	if err != nil {
		return err
	}
	out, err := t.change(ctx, "lvremove", "-f", "-S", only(v), v.FullName())
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	// A selection of nothing is no error to LVM.
	if !strings.Contains(string(out), "successfully removed") {
		return fmt.Errorf("remove %s: gone meanwhile: %w", name, blkbak.ErrNotFound)
	}
	return nil
}

// Retag removes and adds tags of a volume that CreateSnapshot made, in one
// metadata commit. Mark stays.
func (t *Tools) Retag(ctx context.Context, name string, remove, add []string) error {
	v, err := t.owned(ctx, "tag", name)
	if err != nil {
		return err
	}
	var args []string
	for _, tag := range remove {
		if err := checkTag(tag); err != nil {
			return err
		}
		if tag == Mark {
			return fmt.Errorf("tag %s: %s must stay: %w", name, Mark, blkbak.ErrUsage)
		}
		args = append(args, "--deltag", tag)
	}
	for _, tag := range add {
		if err := checkTag(tag); err != nil {
			return err
		}
		args = append(args, "--addtag", tag)
	}
	if len(args) == 0 {
		return nil
	}
	if _, err := t.change(ctx, "lvchange", append(args, "-S", only(v), v.FullName())...); err != nil {
		return fmt.Errorf("tag %s: %w", name, err)
	}
	return nil
}

// Rename gives a volume that CreateSnapshot made another name in its group.
func (t *Tools) Rename(ctx context.Context, name, to string) error {
	if err := checkName("volume", to); err != nil {
		return err
	}
	v, err := t.owned(ctx, "rename", name)
	if err != nil {
		return err
	}
	if _, err := t.change(ctx, "lvrename", v.VG, v.Name, to); err != nil {
		return fmt.Errorf("rename %s to %s: %w", name, to, err)
	}
	return nil
}

// minCOW is the least DefaultCOWSize gives: below it, a busy minute fills a
// store.
const minCOW = 64 << 20

// MaxCOWSize is the size at which an exception store can never overflow,
// whatever is written to the origin: the header, every chunk of the origin, a
// metadata area for every chunk/16 of them, and the area after a full one.
func MaxCOWSize(originSize, chunkSize int64) int64 {
	n := (originSize + chunkSize - 1) / chunkSize
	return (1 + n + n/(chunkSize/16) + 1) * chunkSize
}

// DefaultCOWSize proposes a size for the exception store of the first snapshot
// of a volume; later ones take the size of the one they replace.
//
// It is 15 % of the origin: the store must hold what changes between two runs,
// which is a few percent a day for most servers, and several times that after an
// upgrade or a restore; an overflow costs a full scan, room costs nothing. It is
// at least 64 MiB, never more than can be of use, and never more than half of
// what is free: at the next run two snapshots exist for a moment. When that is
// less than 64 MiB there is no room, and the error matches blkbak.ErrNoSpace.
func DefaultCOWSize(originSize, chunkSize int64, g Group) (int64, error) {
	if originSize <= 0 || chunkSize < 4<<10 || g.ExtentSize <= 0 {
		return 0, fmt.Errorf("default snapshot size: origin %d, chunk %d, extent %d: %w", originSize, chunkSize, g.ExtentSize, blkbak.ErrUsage)
	}
	extents := func(n int64) int64 { return (n + g.ExtentSize - 1) / g.ExtentSize * g.ExtentSize }
	most := extents(MaxCOWSize(originSize, chunkSize))
	least := min(extents(minCOW), most)
	want := min(max(extents(originSize/100*15), least), most)
	if room := g.Free / 2 / g.ExtentSize * g.ExtentSize; want > room {
		want = room
	}
	if want < least {
		err := fmt.Errorf("snapshot in group %s: %d bytes free, want %d: %w", g.Name, g.Free, 2*least, blkbak.ErrNoSpace)
		return 0, blkbak.WithHint(err, "give the group %s more room with vgextend, or ask for less with --cow-size", g.Name)
	}
	return want, nil
}
