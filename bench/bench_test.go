package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/check"
	"github.com/blkbak/blkbak/internal/engine"
	"github.com/blkbak/blkbak/internal/image"
)

// denseSize is that of the image with files in it.
const denseSize = 512 << 20

// world is a directory with a repository, an engine for it and an image.
type world struct {
	*testing.B
	dir    string
	store  *chunkstore.Store
	engine *engine.Engine
	image  string
}

// newWorld makes one, without the image.
func newWorld(b *testing.B) *world {
	w := &world{B: b, dir: b.TempDir()}
	w.image = filepath.Join(w.dir, "image")
	w.fresh()
	return w
}

// denseWorld makes one with an image full of files.
func denseWorld(b *testing.B) *world {
	w := newWorld(b)
	ext4(b, w.image, denseSize)
	return w
}

// fresh makes the repository new.
func (w *world) fresh() {
	repo := filepath.Join(w.dir, "repo")
	if w.store != nil {
		w.store.Close()
	}
	if err := os.RemoveAll(repo); err != nil {
		w.Fatal(err)
	}
	if _, err := chunkstore.Init(w.Context(), repo, 0); err != nil {
		w.Fatal(err)
	}
	var err error
	if w.store, err = chunkstore.Open(w.Context(), repo, chunkstore.Options{}); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { w.store.Close() })
	w.engine = engine.New(engine.Options{Store: w.store, StateDir: filepath.Join(w.dir, "state"), RepoDir: repo, Host: "bench"})
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// snapshot makes a point of the image, with the exception store cow if one is given.
func (w *world) snapshot(cow string) catalog.Point {
	p, _, err := w.engine.Snapshot(w.Context(), engine.Request{Source: w.image, Volume: "v", COW: cow})
	if err != nil {
		w.Fatal(err)
	}
	return p
}

func (w *world) restore(p catalog.Point, target string, force bool) engine.Restored {
	r, err := w.engine.Restore(w.Context(), engine.RestoreRequest{Point: p, Target: target, Force: force})
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// newNodes counts the nodes of a point that the one before does not have.
func (w *world) newNodes(before, p catalog.Point) int {
	seen := make(map[chunkstore.ID]bool)
	count := func(root chunkstore.ID) (n int) {
		for o, err := range image.Objects(w.Context(), w.store, root, func(id chunkstore.ID) bool { return seen[id] }) {
			if err != nil {
				w.Fatal(err)
			}
			seen[o.ID] = true
			if o.Kind == chunkstore.KindNode {
				n++
			}
		}
		return n
	}
	count(before.Root)
	return count(p.Root)
}

func BenchmarkFullSnapshot(b *testing.B) {
	w := denseWorld(b)
	b.SetBytes(denseSize)
	b.ReportAllocs()
	var p catalog.Point
	for b.Loop() {
		b.StopTimer()
		w.fresh()
		b.StartTimer()
		p = w.snapshot("")
	}
	b.ReportMetric(float64(p.Stats.Read), "read-B/op")
	b.ReportMetric(float64(p.Stats.Stored), "stored-B/op")
}

// BenchmarkScan reads everything of an image that has not changed.
func BenchmarkScan(b *testing.B) {
	w := denseWorld(b)
	w.snapshot("")
	b.SetBytes(denseSize)
	b.ReportAllocs()
	for b.Loop() {
		if p := w.snapshot(""); p.Stats.ChunksNew != 0 {
			b.Fatalf("%d chunks are new", p.Stats.ChunksNew)
		}
	}
}

// BenchmarkNoChange takes exception stores that list nothing.
func BenchmarkNoChange(b *testing.B) {
	for _, size := range []int64{1 << 30, 1 << 40} {
		b.Run(fmt.Sprintf("GiB=%d", size>>30), func(b *testing.B) {
			w := newWorld(b)
			sparse(b, w.image, size)
			change(b, w.image, "", Scattered(size, 1000, 1), 1)
			w.snapshot("")
			change(b, w.image, w.path("cow"), nil, 2)
			b.ReportAllocs()
			for b.Loop() {
				if p := w.snapshot(w.path("cow")); p.Stats.Read != 0 || p.Stats.ChunksNew != 0 {
					b.Fatalf("%d bytes read, %d chunks new", p.Stats.Read, p.Stats.ChunksNew)
				}
			}
		})
	}
}

// BenchmarkIncrement changes k chunks of a device: what it costs follows k, and
// the size only by the height of the tree.
func BenchmarkIncrement(b *testing.B) {
	for _, gib := range []int64{1, 16, 256, 1024} {
		for _, k := range []int{1, 100, 10_000} {
			if int64(k) > gib<<30/chunkstore.DefaultChunkSize/2 {
				continue // most of the device: no increment
			}
			b.Run(fmt.Sprintf("GiB=%d/changed=%d", gib, k), func(b *testing.B) { benchIncrement(b, gib<<30, k) })
		}
	}
}

func benchIncrement(b *testing.B, size int64, k int) {
	w := newWorld(b)
	sparse(b, w.image, size)
	changes := Scattered(size, k, 1)
	change(b, w.image, "", changes, 1)
	p := w.snapshot("")
	var before catalog.Point
	b.ReportAllocs()
	for seed := uint64(2); b.Loop(); seed++ {
		b.StopTimer()
		before = p
		change(b, w.image, w.path("cow"), changes, seed)
		b.StartTimer()
		p = w.snapshot(w.path("cow"))
	}
	if p.Stats.ChunksNew != int64(k) {
		b.Fatalf("%d chunks are new, not %d", p.Stats.ChunksNew, k)
	}
	b.ReportMetric(float64(p.Stats.Read), "read-B/op")
	b.ReportMetric(float64(p.Stats.ChunksNew), "chunks/op")
	b.ReportMetric(float64(w.newNodes(before, p)), "nodes/op")
	b.ReportMetric(float64(p.Stats.Stored), "stored-B/op")
}

func BenchmarkRestore(b *testing.B) {
	w := denseWorld(b)
	p := w.snapshot("")
	b.SetBytes(denseSize)
	b.ReportAllocs()
	for b.Loop() {
		w.restore(p, w.path("target"), false)
		b.StopTimer()
		if err := os.Remove(w.path("target")); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkRestoreInPlace takes back a day.
func BenchmarkRestoreInPlace(b *testing.B) {
	w := denseWorld(b)
	p := w.snapshot("")
	data, size := dataOf(b, w.image)
	changes := Day(data, size/Block/100, 1)
	b.SetBytes(denseSize)
	b.ReportAllocs()
	for seed := uint64(1); b.Loop(); seed++ {
		b.StopTimer()
		change(b, w.image, "", changes, seed)
		b.StartTimer()
		if r := w.restore(p, w.image, true); r.Written == 0 || r.Written > int64(len(changes))*64*Block {
			b.Fatalf("%d bytes written", r.Written)
		}
	}
}

func BenchmarkCheckReadData(b *testing.B) {
	w := denseWorld(b)
	w.snapshot("")
	b.ReportAllocs()
	for b.Loop() {
		r, err := check.Run(b.Context(), w.store, check.Options{ReadData: true})
		if err != nil || !r.OK {
			b.Fatal(err, r)
		}
		b.SetBytes(r.Bytes)
	}
}
