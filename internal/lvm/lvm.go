package lvm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/run"
)

// Time limits. Reports may wait for a lock or a slow disk; changes wait for the
// origin's writes to drain, and are killed only when nothing else can help.
const (
	reportTimeout = 2 * time.Minute
	changeTimeout = 10 * time.Minute
	changeGrace   = time.Minute
)

// Runner runs commands; *run.Runner does.
type Runner interface {
	Run(context.Context, run.Cmd) (run.Result, error)
}

// Tools are the LVM and device-mapper tools of this machine.
type Tools struct{ run Runner }

// New returns the tools, started through r.
func New(r Runner) *Tools { return &Tools{r} }

// report runs a command that only looks.
func (t *Tools) report(ctx context.Context, name string, args ...string) ([]byte, error) {
	res, err := t.run.Run(ctx, run.Cmd{Name: name, Args: args, Timeout: reportTimeout})
	return res.Stdout, classify(err)
}

// change runs a command that changes something, to its end.
func (t *Tools) change(ctx context.Context, name string, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	res, err := t.run.Run(context.WithoutCancel(ctx),
		run.Cmd{Name: name, Args: args, Timeout: changeTimeout, Grace: changeGrace})
	return res.Stdout, classify(err)
}

func lvsArgs(more ...string) []string {
	return append([]string{"-a", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", lvsFields}, more...)
}

// Volumes lists the volumes of a group, or of all groups when vg is "".
func (t *Tools) Volumes(ctx context.Context, vg string) ([]Volume, error) {
	args := lvsArgs()
	if vg != "" {
		if err := checkName("group", vg); err != nil {
			return nil, err
		}
		args = append(args, vg)
	}
	out, err := t.report(ctx, "lvs", args...)
	if err != nil {
		return nil, err
	}
	return parseVolumes(out)
}

// Tagged lists the volumes in all groups that carry tag.
func (t *Tools) Tagged(ctx context.Context, tag string) ([]Volume, error) {
	if err := checkTag(tag); err != nil {
		return nil, err
	}
	out, err := t.report(ctx, "lvs", lvsArgs("-S", `lv_tags={"`+tag+`"}`)...)
	if err != nil {
		return nil, err
	}
	return parseVolumes(out)
}

// Volume looks up one volume by any form of its name that ParseName takes.
func (t *Tools) Volume(ctx context.Context, name string) (Volume, error) {
	vg, lv, err := ParseName(name)
	if err != nil {
		return Volume{}, err
	}
	out, err := t.report(ctx, "lvs", lvsArgs(vg+"/"+lv)...)
	if err != nil {
		return Volume{}, err
	}
	list, err := parseVolumes(out)
	if err != nil {
		return Volume{}, err
	}
	for _, v := range list {
		if v.VG == vg && v.Name == lv {
			return v, nil
		}
	}
	return Volume{}, fmt.Errorf("volume %s/%s: %w", vg, lv, blkbak.ErrNotFound)
}

// Group looks up one volume group.
func (t *Tools) Group(ctx context.Context, vg string) (Group, error) {
	if err := checkName("group", vg); err != nil {
		return Group{}, err
	}
	out, err := t.report(ctx, "vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", vgsFields, vg)
	if err != nil {
		return Group{}, err
	}
	list, err := parseGroups(out)
	if err != nil {
		return Group{}, err
	}
	for _, g := range list {
		if g.Name == vg {
			return g, nil
		}
	}
	return Group{}, fmt.Errorf("volume group %s: %w", vg, blkbak.ErrNotFound)
}

// Metadata returns the volume group's metadata as LVM's own text, from which
// vgcfgrestore can make the group again.
func (t *Tools) Metadata(ctx context.Context, vg string) (text []byte, err error) {
	if err := checkName("group", vg); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "blkbak-lvm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // in the system's temporary directory, and small
	file := filepath.Join(dir, "vg")
	if _, err := t.report(ctx, "vgcfgbackup", "-f", file, vg); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, maxMetadata+1))
	if err == nil && len(text) > maxMetadata {
		err = fmt.Errorf("metadata of volume group %s: more than %d bytes", vg, maxMetadata)
	}
	return text, err
}

// maxMetadata bounds a group's metadata text: LVM's own areas are 1 MiB.
const maxMetadata = 16 << 20

// Status asks the kernel how the snapshot that is the device-mapper device name
// fares. The device's name comes from DMName.
func (t *Tools) Status(ctx context.Context, name string) (cow.Status, error) {
	if name == "" || name[0] == '-' {
		return cow.Status{}, fmt.Errorf("device-mapper name %q: %w", name, blkbak.ErrUsage)
	}
	out, err := t.report(ctx, "dmsetup", "status", name)
	if err != nil {
		return cow.Status{}, err
	}
	targets, err := cow.ParseTargets(string(out))
	if err != nil {
		return cow.Status{}, err
	}
	if len(targets) != 1 {
		return cow.Status{}, fmt.Errorf("device %s has %d targets, a snapshot has one: %w", name, len(targets), blkbak.ErrUsage)
	}
	return targets[0].Status()
}

func bytesArg(n int64) string { return strconv.FormatInt(n, 10) + "b" }
