package chunkstore

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/atomicfile"
)

// view is the index as it was when it was loaded: the segments of committed
// sessions. It does not change.
type view struct {
	segments []*segment
	names    []string // of what is in segments, sorted; a merged cache counts as its sources
	damaged  []error  // segments that could not be used
	merged   bool     // one of the segments is the merged cache
	older    *view    // a view that this one replaced, kept mapped
}

// smallSegments is how many segments a view reads one by one. Beyond it they are
// merged into a file of the cache directory, so that the cost of a lookup does
// not grow with the number of runs.
const smallSegments = 12

// verifyLimit is the size up to which a segment's checksum is worth its time at
// every start.
const verifyLimit = 1 << 20

func (s *Store) loadView(ctx context.Context) (*view, error) {
	visible, err := visibleSegments(ctx, s.backend)
	if err != nil {
		return nil, err
	}
	v := &view{names: visible}
	rest := visible
	if merged := s.openMerged(visible); merged != nil {
		v.segments, v.merged = append(v.segments, merged), true
		rest = without(visible, strings.Split(string(merged.sources), "\n"))
	}
	for _, name := range rest {
		seg, err := openSegment(ctx, s.backend, name)
		switch {
		case errors.Is(err, blkbak.ErrCorrupt):
			// What it lists is not found until the index is made anew; nothing
			// wrong is read.
			s.report(fmt.Errorf("index segment not used: %w", err))
			v.damaged = append(v.damaged, err)
			continue
		case err != nil:
			return nil, errors.Join(err, v.close())
		}
		v.segments = append(v.segments, seg)
	}
	if len(rest) > smallSegments && len(v.damaged) == 0 {
		s.mergeSegments(v)
	}
	return v, nil
}

// visibleSegments lists the segments that count: those of committed sessions. A
// session whose outcome cannot be read counts as committed, because points made
// later may rest on its objects.
func visibleSegments(ctx context.Context, b Backend) ([]string, error) {
	outcomes, err := readOutcomes(ctx, b)
	if err != nil {
		return nil, err
	}
	committed := make(map[string]bool)
	for _, o := range outcomes {
		committed[o.Session.String()] = o.Committed || o.Err != nil
	}
	files, err := b.List(ctx, "idx")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		session, _, _ := strings.Cut(strings.TrimPrefix(f.Name, "idx/"), "-")
		if committed[session] {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// without returns the members of the sorted list a that are not in b.
func without(a, b []string) []string {
	skip := make(map[string]bool, len(b))
	for _, x := range b {
		skip[x] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(x string) bool { return skip[x] })
}

func openSegment(ctx context.Context, b Backend, name string) (*segment, error) {
	o, err := b.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	seg, err := mapSegment(name, o)
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return seg, nil
}

func mapSegment(name string, o Object) (*segment, error) {
	var b []byte
	var err error
	if m, ok := o.(mapper); ok {
		b, err = m.Map()
	} else {
		b = make([]byte, o.Size())
		_, err = o.ReadAt(b, 0)
	}
	if err != nil {
		return nil, err
	}
	seg, err := parseSegment(name, b)
	if err != nil {
		return nil, err
	}
	if len(b) <= verifyLimit {
		if err := seg.verify(b); err != nil {
			return nil, err
		}
	}
	seg.obj = o
	return seg, nil
}

func (s *Store) mergedPath() string {
	return filepath.Join(s.cache, "index-"+s.config.ID.String())
}

// openMerged opens the merged segment in the cache if all that it was made of is
// still visible.
func (s *Store) openMerged(visible []string) *segment {
	if s.cache == "" {
		return nil
	}
	f, err := os.Open(s.mergedPath())
	if err != nil {
		return nil
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil
	}
	o := &localFile{File: f, size: st.Size()}
	seg, err := mapSegment("cached index", o)
	if err != nil || len(without(strings.Split(string(seg.sources), "\n"), visible)) > 0 {
		o.Close()
		return nil
	}
	return seg
}

// mergeSegments writes v's segments as one into the cache and makes v use it. It
// is a matter of speed alone: if it fails, v is as good as before.
func (s *Store) mergeSegments(v *view) {
	if s.cache == "" {
		return
	}
	err := os.MkdirAll(s.cache, 0o700)
	if err == nil {
		err = atomicfile.ReplaceFrom(s.mergedPath(), 0o600, v.writeMerged)
	}
	if err != nil {
		s.report(fmt.Errorf("index cache not written: %w", err))
		return
	}
	if seg := s.openMerged(v.names); seg != nil {
		for _, old := range v.segments {
			old.close()
		}
		v.segments = []*segment{seg}
		v.merged = true
	}
}

// writeMerged encodes one segment out of all of v's.
func (v *view) writeMerged(w io.Writer) error {
	var packs []packRef
	number := make(map[packRef]uint32)
	var runs []mergeRun
	total := 0
	for _, s := range v.segments {
		run := mergeRun{segment: s, renumber: make([]uint32, len(s.packs)/indexPackSize)}
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

func (v *view) find(id ID, out []location) []location {
	for _, s := range v.segments {
		out = s.find(id, out)
	}
	return out
}

func (v *view) has(id ID) bool {
	return slices.ContainsFunc(v.segments, func(s *segment) bool { return s.has(id) })
}

func (v *view) same(o *view) bool { return slices.Equal(v.names, o.names) }

func (v *view) close() error {
	var err error
	for ; v != nil; v = v.older {
		for _, s := range v.segments {
			err = errors.Join(err, s.close())
		}
	}
	return err
}
