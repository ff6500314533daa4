package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/blkbak/blkbak"
)

// RebuildIndex makes an index of every pack that no sound segment lists whole,
// from the packs alone. Then it drops segments that are of no use: those that are
// damaged, that name packs which are gone, or whose session's outcome is gone. It
// returns the number of packs indexed.
//
// So what a lost pack held is no longer taken for stored, and is stored again
// when it is met the next time.
func (s *Store) RebuildIndex(ctx context.Context) (int, error) {
	w, err := s.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	old, err := s.examineIndex(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, f := range old.packs {
		done, err := w.indexPack(ctx, f.Name, old.listed)
		if err != nil {
			return n, err
		}
		if done {
			n++
		}
	}
	if n > 0 || len(old.useless) > 0 {
		// Nothing is dropped before what replaces it counts.
		if err := w.Commit(ctx, nil); err != nil {
			return 0, err
		}
	}
	for _, name := range old.useless {
		if err := s.backend.Remove(ctx, name); err != nil {
			return n, err
		}
	}
	return n, s.Refresh(ctx)
}

// indexState is what RebuildIndex finds.
type indexState struct {
	packs   []Entry
	listed  map[packRef]int // the most entries that one sound segment has of a pack
	useless []string
}

func (s *Store) examineIndex(ctx context.Context) (st indexState, err error) {
	s.refresh.Lock()
	files, err := s.listIndex(ctx)
	s.refresh.Unlock()
	if err != nil {
		return st, err
	}
	// Packs are listed after the index: then a pack that is not in the list, but
	// in the index, is gone, and not one that was written in the meantime.
	if st.packs, err = s.backend.List(ctx, "packs"); err != nil {
		return st, err
	}
	st.listed = make(map[packRef]int)
	there := make(map[string]bool, len(st.packs))
	for _, f := range st.packs {
		there[f.Name] = true
	}
	for _, name := range files.visible {
		if slices.Contains(files.orphans, name) {
			st.useless = append(st.useless, name)
			continue
		}
		count, err := s.countEntries(ctx, name)
		if err != nil && !errors.Is(err, blkbak.ErrCorrupt) {
			return st, err
		}
		sound := err == nil
		for ref := range count {
			sound = sound && there[ref.name()]
		}
		if !sound {
			st.useless = append(st.useless, name)
			continue
		}
		for ref, n := range count {
			st.listed[ref] = max(st.listed[ref], n)
		}
	}
	return st, nil
}

// countEntries returns the number of entries that a segment has of each pack.
func (s *Store) countEntries(ctx context.Context, name string) (map[packRef]int, error) {
	seg, err := openSegment(ctx, s.backend, name)
	if err != nil {
		return nil, err
	}
	defer seg.close()
	if err := seg.check(); err != nil {
		return nil, err
	}
	byNumber := make([]int, seg.packCount())
	count := make(map[packRef]int, len(byNumber))
	err = guarded(name, func() {
		for i := range seg.count() {
			byNumber[entryPack(seg.entry(i))]++
		}
		for i, n := range byNumber {
			count[seg.pack(uint32(i))] += n
		}
	})
	return count, err
}

// indexPack takes a pack into the session's next segment as if the session had
// written it, unless it is listed already.
func (w *Session) indexPack(ctx context.Context, name string, listed map[packRef]int) (bool, error) {
	ref, err := parsePackName(name)
	if err != nil {
		return false, nil // not ours: check names it
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Contains(w.dead, ref.session) {
		return false, nil // adopted when the session began
	}
	table, err := packTable(ctx, w.store.backend, ref)
	switch {
	case errors.Is(err, blkbak.ErrCorrupt):
		w.store.report(fmt.Errorf("pack not indexed: %w", err))
		return false, nil
	case errors.Is(err, blkbak.ErrNotFound):
		return false, nil // removed since the listing
	case err != nil:
		return false, fmt.Errorf("index %s: %w", name, err)
	case len(table) == 0 || len(table) <= listed[ref]:
		return false, nil
	}
	return true, w.list(ctx, indexed{ref, table})
}
