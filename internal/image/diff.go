package image

import (
	"context"
	"fmt"
	"iter"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// Diff lists the extents in which the images with roots a and b differ, in
// ascending order, none touching another. They are whole chunks, so bytes that
// are equal may be among them; bytes that differ are never left out. Where one
// image is longer, all that the other one lacks is listed, zeros included.
// Images of different chunk sizes cannot be compared.
//
// Subtrees that both have are not read, so the work is in proportion to what
// differs. An error is the last thing that is yielded.
func Diff(ctx context.Context, get Getter, a, b chunkstore.ID) iter.Seq2[blkbak.Extent, error] {
	return func(yield func(blkbak.Extent, error) bool) {
		if a == b {
			return
		}
		d := differ{ctx: ctx, get: get, yield: yield}
		ok, err := d.run(a, b)
		if ok && d.flush() && err != nil {
			yield(blkbak.Extent{}, err)
		}
	}
}

// differ walks two trees side by side.
type differ struct {
	ctx     context.Context
	get     Getter
	yield   func(blkbak.Extent, error) bool
	geo     [2]geometry
	common  int64 // bytes that both images have
	pending blkbak.Extent
	buf     [maxLevels][2]loaded
}

// loaded is the node that was read last on some level.
type loaded struct {
	id  chunkstore.ID
	raw []byte
}

// pair is a node in the same place of both trees, nil where all is zeros.
type pair [2][]byte

func (p pair) name(side, slot int) chunkstore.ID {
	if p[side] == nil {
		return chunkstore.ID{}
	}
	return nameAt(p[side], slot)
}

// run returns false once the consumer has had enough, and true with an error.
func (d *differ) run(a, b chunkstore.ID) (bool, error) {
	var nodes pair
	for side, root := range [2]chunkstore.ID{a, b} {
		var err error
		if nodes[side], d.geo[side], err = loadTop(d.ctx, d.get, root); err != nil {
			return true, err
		}
	}
	if d.geo[0].chunkLog2 != d.geo[1].chunkLog2 {
		return true, fmt.Errorf("images with chunks of %d and of %d bytes cannot be compared: %w",
			d.geo[0].chunkSize(), d.geo[1].chunkSize(), blkbak.ErrUsage)
	}
	d.common = min(d.geo[0].size, d.geo[1].size)

	// The shorter tree is on the left edge of the taller one.
	level := min(d.geo[0].top(), d.geo[1].top())
	for side := range nodes {
		for l := d.geo[side].top(); l > level && nodes[side] != nil; l-- {
			var err error
			if nodes[side], err = d.load(side, l-1, 0, nodes.name(side, 0)); err != nil {
				return true, err
			}
		}
	}
	if ok, err := d.compare(level, 0, nodes); !ok || err != nil {
		return ok, err
	}
	return d.add(blkbak.Extent{Off: d.common, Len: max(d.geo[0].size, d.geo[1].size) - d.common}), nil
}

// compare lists what differs below node i of level. It returns like run.
func (d *differ) compare(level uint8, i int64, nodes pair) (bool, error) {
	if err := d.ctx.Err(); err != nil {
		return true, err
	}
	for slot := range fanout {
		child := i<<fanoutLog2 + int64(slot)
		off := child << (int(d.geo[0].chunkLog2) + fanoutLog2*int(level))
		if off >= d.common {
			break
		}
		a, b := nodes.name(0, slot), nodes.name(1, slot)
		if a == b {
			continue
		}
		if level == 0 {
			if !d.add(blkbak.Extent{Off: off, Len: min(d.geo[0].chunkSize(), d.common-off)}) {
				return false, nil
			}
			continue
		}
		var below pair
		for side, id := range [2]chunkstore.ID{a, b} {
			var err error
			if below[side], err = d.load(side, level-1, child, id); err != nil {
				return true, err
			}
		}
		if ok, err := d.compare(level-1, child, below); !ok || err != nil {
			return ok, err
		}
	}
	return true, nil
}

// load returns node i of level, in the buffer of its level. Devices repeat
// themselves, so the node may be there already.
func (d *differ) load(side int, level uint8, i int64, id chunkstore.ID) ([]byte, error) {
	if id.IsZero() {
		return nil, nil
	}
	e, want := d.geo[side].node(level, i)
	buf := &d.buf[level][side]
	if buf.id == id && checkInner(buf.raw, want) == nil {
		return buf.raw, nil
	}
	raw, err := loadInner(d.ctx, d.get, id, e, want, buf.raw)
	if err != nil {
		return nil, err
	}
	*buf = loaded{id, raw}
	return raw, nil
}

// add joins e to the pending extent, or yields that one when they do not touch.
func (d *differ) add(e blkbak.Extent) bool {
	if e.Len == 0 {
		return true
	}
	if d.pending.Len > 0 && d.pending.End() == e.Off {
		d.pending.Len += e.Len
		return true
	}
	ok := d.flush()
	d.pending = e
	return ok
}

// flush yields the pending extent.
func (d *differ) flush() bool {
	e := d.pending
	d.pending = blkbak.Extent{}
	return e.Len == 0 || d.yield(e, nil)
}
