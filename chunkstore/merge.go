package chunkstore

import (
	"container/heap"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/atomicfile"
)

// The merged cache is a segment that was made of others and says which. It lies
// in the cache directory, and nothing but speed depends on it.

func (s *Store) mergedPath() string {
	return filepath.Join(s.cache, "index-"+s.config.ID.String())
}

// openMerged opens the merged segment in the cache if all that it was made of is
// among names.
func (s *Store) openMerged(names []string) *segment {
	if s.cache == "" {
		return nil
	}
	o, err := openLocal(s.mergedPath())
	if err != nil {
		return nil
	}
	seg, err := mapSegment(s.mergedPath(), o)
	if err == nil && o.Size() <= verifyLimit {
		err = seg.check()
	}
	if err != nil || len(without(seg.sourceNames(), names)) > 0 {
		o.Close()
		return nil
	}
	return seg
}

// dropMerged removes the merged cache, which was found damaged.
func (s *Store) dropMerged() {
	if err := os.Remove(s.mergedPath()); err != nil {
		s.report(fmt.Errorf("damaged index cache not removed: %w", err))
	}
}

// sourceNames are the files that a merged segment was made of.
func (s *segment) sourceNames() (names []string) {
	_ = guarded(s.name, func() { names = strings.Split(string(s.sources), "\n") })
	return names
}

// wantsMerge tells whether v, which reads n segments one by one, is better off
// with those merged into what is merged already.
func (v *view) wantsMerge(n int) bool {
	if n <= smallSegments || len(v.damaged) > 0 {
		return false
	}
	entries := 0
	for _, s := range v.segments {
		entries += s.count()
	}
	return n > manySegments || v.merged == nil || v.merged.count() < entries/8*7
}

// mergeSegments writes v's segments as one into the cache and makes v use it,
// closing those that old does not share. If it fails, v is as good as before.
func (s *Store) mergeSegments(v, old *view) error {
	if s.cache == "" {
		return nil
	}
	err := os.MkdirAll(s.cache, 0o700)
	if err == nil {
		sweepTemp(s.cache)
		err = atomicfile.ReplaceFrom(s.mergedPath(), 0o600, func(w io.Writer) (err error) {
			if ferr := guarded("index", func() { err = v.writeMerged(w) }); ferr != nil {
				return ferr
			}
			return err
		})
	}
	if err != nil {
		s.report(fmt.Errorf("index cache not written: %w", err))
		return nil
	}
	merged := s.openMerged(v.names)
	if merged == nil {
		return nil // another process was faster, and knows of other files
	}
	before := &view{segments: v.segments}
	v.segments, v.merged = []*segment{merged}, merged
	return before.closeBut(old)
}

// writeMerged encodes one segment out of all of v's.
func (v *view) writeMerged(w io.Writer) error {
	var packs []packRef
	number := make(map[packRef]uint32)
	var runs []mergeRun
	total := 0
	for _, s := range v.segments {
		run := mergeRun{segment: s, renumber: make([]uint32, s.packCount())}
		for i := range run.renumber {
			ref := s.pack(uint32(i))
			n, ok := number[ref]
			if !ok {
				n = uint32(len(packs))
				number[ref] = n
				packs = append(packs, ref)
			}
			run.renumber[i] = n
		}
		for i := range s.count() {
			if int(entryPack(s.entry(i))) >= len(run.renumber) {
				return blkbak.Corruptf(s.name, -1, "entry %d names no pack", i)
			}
		}
		total += s.count()
		runs = append(runs, run)
	}
	return writeSegment(w, []byte(strings.Join(v.names, "\n")), packs, total, mergeRuns(runs))
}

// mergeRun is a segment on its way into a merged one.
type mergeRun struct {
	*segment
	renumber []uint32 // its pack numbers in the merged segment
	next     int
}

func (r *mergeRun) head() indexEntry {
	e := indexEntry(r.entry(r.next))
	e.setPack(r.renumber[entryPack(e[:])])
	return e
}

// mergeRuns yields the entries of all runs in order.
func mergeRuns(runs []mergeRun) iter.Seq[indexEntry] {
	return func(yield func(indexEntry) bool) {
		var h runHeap
		for _, r := range runs {
			if r.next = 0; r.count() > 0 {
				h = append(h, heapRun{r.head(), r})
			}
		}
		heap.Init(&h)
		for len(h) > 0 {
			top := &h[0]
			if !yield(top.entry) {
				return
			}
			if top.run.next++; top.run.next == top.run.count() {
				heap.Pop(&h)
				continue
			}
			top.entry = top.run.head()
			heap.Fix(&h, 0)
		}
	}
}

type heapRun struct {
	entry indexEntry
	run   mergeRun
}

type runHeap []heapRun

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return compareEntries(h[i].entry, h[j].entry) < 0 }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(x any)        { *h = append(*h, x.(heapRun)) }
func (h *runHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
