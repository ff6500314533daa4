package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/blkbak/blkbak"
)

// view is the index as it was when it was loaded: the segments that counted then.
// It does not change. Views that follow each other share their segments.
type view struct {
	names    []string // of the files that count, sorted
	segments []*segment
	merged   *segment // the one of segments that is the merged cache, or nil
	damaged  []error  // files that could not be used
}

// smallSegments is how many segments a view reads one by one before they are
// merged into a file of the cache directory, so that the cost of a lookup does
// not grow with the number of runs. Where the merged file is much larger than
// what it would take in, merging waits for up to manySegments.
const (
	smallSegments = 12
	manySegments  = 64
)

// verifyLimit is the size up to which a segment's checksum is worth its time at
// every start.
const verifyLimit = 1 << 20

// Refresh looks again at what other processes committed.
func (s *Store) Refresh(ctx context.Context) error {
	s.refresh.Lock()
	defer s.refresh.Unlock()
	_, err := s.reload(ctx)
	return err
}

// reconsider does what can make an object readable that was not with the view
// used: someone may have committed it since, and what is cached of the index is
// not above suspicion. It tells whether looking again is worth while.
func (s *Store) reconsider(ctx context.Context, used *view) (bool, error) {
	s.refresh.Lock()
	defer s.refresh.Unlock()
	switch {
	case s.view == nil || used == nil:
		return false, nil
	case s.view != used:
		return true, nil // someone else was here in the meantime
	}
	if m := used.merged; m != nil && !m.trusted {
		// Once for each cached file, or every object that is damaged would cost
		// reading all of it.
		if m.trusted = m.check() == nil; !m.trusted {
			s.dropMerged()
			return true, s.replace(ctx, used.names, &view{})
		}
	}
	return s.reload(ctx)
}

// reload makes the view what it should be now, and tells whether it changed.
// s.refresh is held.
func (s *Store) reload(ctx context.Context) (changed bool, err error) {
	if s.view == nil {
		return false, errClosed
	}
	// A file that goes between the listing and its opening was listed anew by
	// someone who made the index again.
	for range 3 {
		var files indexFiles
		if files, err = s.listIndex(ctx); err != nil {
			return false, err
		}
		if len(s.view.damaged) == 0 && slices.Equal(files.visible, s.view.names) {
			return false, nil
		}
		if err = s.replace(ctx, files.visible, s.view); !errors.Is(err, blkbak.ErrNotFound) {
			break
		}
	}
	return err == nil, err
}

// replace makes the files named the view, with what old has open of them.
// s.refresh is held.
func (s *Store) replace(ctx context.Context, names []string, old *view) error {
	v, err := s.loadView(ctx, names, old)
	if err != nil {
		return err
	}
	return s.swap(v)
}

// swap puts v in the place of the view there is, and unmaps what v does not
// share with it: lookups hold s.mu, so none is at work in the old view then.
func (s *Store) swap(v *view) error {
	s.mu.Lock()
	old := s.view
	s.view = v
	s.mu.Unlock()
	return old.closeBut(v)
}

// indexFiles are the files of the index by what they are worth, sorted.
type indexFiles struct {
	// visible count: their session committed, or its outcome is there and cannot
	// be read, when points made later may rest on its objects.
	visible []string
	// orphans have a session without an outcome and without a marker: the outcome
	// was lost. They are visible as well, for the same reason.
	orphans []string
}

// listIndex looks at which index files count. s.refresh is held.
func (s *Store) listIndex(ctx context.Context) (f indexFiles, err error) {
	// In this order, what is neither marked as open nor has ended was damaged: a
	// session has its marker before it writes, and until it has an outcome.
	files, err := s.backend.List(ctx, "idx")
	if err != nil {
		return f, err
	}
	markers, err := s.backend.List(ctx, "sess")
	if err != nil {
		return f, err
	}
	open := make(map[string]bool, len(markers))
	for _, m := range markers {
		open[strings.TrimPrefix(m.Name, "sess/")] = true
	}
	committed, err := s.committed(ctx)
	if err != nil {
		return f, err
	}
	for _, e := range files {
		session, _, _ := strings.Cut(strings.TrimPrefix(e.Name, "idx/"), "-")
		id, err := blkbak.ParsePointID(session)
		if err != nil {
			continue // not ours: check names it
		}
		ok, ended := committed[id]
		if !ended && !open[session] {
			f.orphans = append(f.orphans, e.Name)
		}
		if ok || !ended && !open[session] {
			f.visible = append(f.visible, e.Name)
		}
	}
	slices.Sort(f.visible)
	slices.Sort(f.orphans)
	return f, nil
}

// committed tells of each session that ended whether what it wrote counts. What
// was read once is not read again: outcomes never change.
func (s *Store) committed(ctx context.Context) (map[blkbak.PointID]bool, error) {
	files, err := s.backend.List(ctx, "points")
	if err != nil {
		return nil, err
	}
	now := make(map[blkbak.PointID]bool, len(files))
	known := make(map[blkbak.PointID]bool, len(files))
	for _, f := range files {
		id, err := blkbak.ParsePointID(strings.TrimPrefix(f.Name, "points/"))
		if err != nil {
			continue // not ours: check names it
		}
		if ok, seen := s.ended[id]; seen {
			now[id], known[id] = ok, ok
			continue
		}
		o := readOutcome(ctx, s.backend, id)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(o.Err, blkbak.ErrNotFound):
			continue // removed since the listing
		case o.Err != nil:
			now[id] = true
		default:
			now[id], known[id] = o.Committed, o.Committed
		}
	}
	s.ended = known
	return now, nil
}

// loadView makes a view of the index files named. What old has open of them is
// shared, and stays open if loadView fails.
func (s *Store) loadView(ctx context.Context, names []string, old *view) (v *view, err error) {
	v = &view{names: names}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.closeBut(old))
		}
	}()
	have := make(map[string]*segment)
	for _, seg := range old.segments {
		have[seg.name] = seg
	}
	rest := names
	use := func(merged *segment) {
		if merged != nil {
			rest, v.merged = without(names, merged.sourceNames()), merged
		}
	}
	if old.merged != nil && len(without(old.merged.sourceNames(), names)) == 0 {
		use(old.merged)
	}
	if v.merged == nil || len(rest) > smallSegments {
		use(s.openMerged(names)) // nobody has opened it yet, or it was made anew
	}
	if v.merged != nil {
		v.segments = append(v.segments, v.merged)
	}
	for _, name := range rest {
		seg := have[name]
		if seg == nil {
			seg, err = openSegment(ctx, s.backend, name)
		}
		switch {
		case errors.Is(err, blkbak.ErrCorrupt):
			// What it lists is not found until the index is made anew; nothing
			// wrong is read.
			s.report(fmt.Errorf("index segment not used: %w", err))
			v.damaged = append(v.damaged, err)
			err = nil
		case err != nil:
			return nil, err
		default:
			v.segments = append(v.segments, seg)
		}
	}
	if v.wantsMerge(len(rest)) {
		return v, s.mergeSegments(v, old)
	}
	return v, nil
}

// without returns the members of the list a that are not in b.
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
	if err == nil && o.Size() <= verifyLimit {
		err = seg.check()
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return seg, nil
}

// maxSegmentRead is the largest segment that is read where it cannot be mapped.
// Sessions write them of about 10 MiB.
const maxSegmentRead = 256 << 20

// mapSegment opens o as a segment and checks its shape. Unless it fails, o
// belongs to the segment.
func mapSegment(name string, o Object) (seg *segment, err error) {
	var b []byte
	if m, ok := o.(mapper); ok {
		b, err = m.Map()
	} else if o.Size() > maxSegmentRead {
		err = blkbak.Corruptf(name, -1, "%d bytes, the limit is %d", o.Size(), maxSegmentRead)
	} else {
		b = make([]byte, o.Size())
		err = readFull(name, o, b, 0)
	}
	if err != nil {
		return nil, err
	}
	if ferr := guarded(name, func() { seg, err = parseSegment(name, b) }); ferr != nil {
		return nil, ferr
	}
	if err != nil {
		return nil, err
	}
	seg.obj = o
	return seg, nil
}

// check is verify for a segment that may not be readable.
func (s *segment) check() (err error) {
	if ferr := guarded(s.name, func() { err = s.verify() }); ferr != nil {
		return ferr
	}
	return err
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

// closeBut closes the segments that are not in keep as well.
func (v *view) closeBut(keep *view) error {
	if v == nil {
		return nil
	}
	var err error
	for _, s := range v.segments {
		if keep == nil || !slices.Contains(keep.segments, s) {
			err = errors.Join(err, s.close())
		}
	}
	return err
}
