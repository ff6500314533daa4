package image

import (
	"math/rand/v2"
	"testing"

	"github.com/blkbak/blkbak/chunkstore"
)

// TestResizeIsCanonical goes from each size to each other one, with changes
// before, at and after the edge.
func TestResizeIsCanonical(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, from := range edgeSizes {
		for _, fill := range []int{0, 2, 400} {
			m := newStore()
			old := newDisk(from)
			old.scribble(r, fill)
			parent, _ := build(t, m, old, chunkstore.ID{}, old.all())
			for _, to := range edgeSizes {
				for _, n := range []int{0, 1, 10} {
					d := old.resized(to)
					changed := d.scribble(r, n)
					root, _ := build(t, m, d, parent, changed)
					if want := flatRoot(to, testChunk, d.names(t, m)); root != want {
						t.Fatalf("%d to %d, fill %d, changes %v: root %v, want %v", from, to, fill, changed, root, want)
					}
				}
			}
		}
	}
}

// TestResizeCost: another size costs the path to the end of the smaller one,
// down to what stays as it is, and no chunk is read that keeps its length.
func TestResizeCost(t *testing.T) {
	const chunk, leaf, mid = int64(64 << 10), 64, 64 * 64
	for _, c := range []struct{ from, to, read, written int64 }{ // sizes in chunks
		{mid, 1 << 24, 1, 2},         // the old top node becomes a child as it is
		{mid - 1, mid, 2, 2},         // the last leaf is longer
		{mid - 1, mid + 1, 3, 3},     // the same, and a level more; the old top node is read again as a child
		{mid - leaf, mid, 1, 1},      // the last leaf was full
		{1<<24 - 17, 1 << 25, 5, 5},  // 4 levels to 5
		{1 << 24, 1<<24 - 17, 4, 4},  // the last leaf is shorter
		{1 << 24, 1<<24 - mid, 2, 2}, // cut between subtrees: the top has two levels on this path
		{1 << 24, mid, 3, 0},         // cut to what was a subtree
		{1 << 24, leaf, 4, 0},
		{1 << 24, 1, 4, 1},
		{1 << 24, 0, 1, 1},
		{0, 1 << 24, 1, 1},
	} {
		m := newStore()
		b := newBuilder(t, m, c.from*chunk, chunk, chunkstore.ID{})
		edge := min(c.from, c.to)
		for i := int64(0); i < c.from; i++ {
			if i == 0 || i >= edge-2*leaf && i < edge+leaf {
				set(t, b, i, fakeName(i))
			}
		}
		parent, _ := finish(t, b)
		m.reset()
		_, stats := finish(t, newBuilder(t, m, c.to*chunk, chunk, parent))
		if stats.NodesRead != c.read || stats.NodesWritten != c.written || m.got != int(c.read) {
			t.Errorf("%d to %d chunks: %+v, %d gets", c.from, c.to, stats, m.got)
		}
	}
}
