package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/blkbak/blkbak"
)

// Problem is one thing that is wrong with a repository's files.
type Problem struct {
	Kind   string // "config", "pack", "object", "index", "point", "stray"
	File   string
	Object ID // for a damaged object
	Err    error
}

// Summary counts what Verify looked at.
type Summary struct {
	Packs   int64 `json:"packs"`
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"` // read and verified
}

// VerifyOptions say how deep Verify looks.
type VerifyOptions struct {
	ReadData bool              // read and decode every object, not only tables
	Report   func(Problem)     // called for each problem, from one goroutine
	Progress func(bytes int64) // called as bytes are verified, or nil
}

// Verify holds every file of the repository against what it must be: packs
// against their tables, index segments against the packs that they name. It goes
// by the files alone, not by the index that reading uses. The error is for what
// kept it from looking, not for what it found.
func (s *Store) Verify(ctx context.Context, o VerifyOptions) (Summary, error) {
	v := verifier{Store: s, VerifyOptions: o}
	if _, err := readConfig(ctx, s.backend); err != nil {
		v.Report(Problem{Kind: "config", File: "config", Err: err})
	}
	for _, check := range []func(context.Context) error{v.packFiles, v.indexFiles, v.pointFiles, v.sessionFiles} {
		if err := check(ctx); err != nil {
			return v.sum, err
		}
	}
	return v.sum, nil
}

type verifier struct {
	*Store
	VerifyOptions
	sum Summary
}

func (v *verifier) packFiles(ctx context.Context) error {
	files, err := v.backend.List(ctx, "packs")
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		ref, err := parsePackName(f.Name)
		if err != nil {
			v.Report(Problem{Kind: "stray", File: f.Name, Err: err})
			continue
		}
		if err := v.packFile(ctx, ref); err != nil && !errors.Is(err, blkbak.ErrNotFound) {
			v.Report(Problem{Kind: "pack", File: f.Name, Err: err})
		}
	}
	return nil
}

func (v *verifier) packFile(ctx context.Context, ref packRef) error {
	o, err := v.backend.Open(ctx, ref.name())
	if err != nil {
		return err
	}
	defer o.Close()
	v.sum.Packs++
	trailer, table, err := readPackTable(ref.name(), o, o.Size())
	if err != nil {
		return err
	}
	v.sum.Objects += int64(len(table))
	if !v.ReadData {
		return v.packHeader(ref, o)
	}
	return v.packBody(ref, o, trailer, table)
}

func (v *verifier) packHeader(ref packRef, o Object) error {
	var h [packHeaderSize]byte
	if _, err := o.ReadAt(h[:], 0); err != nil {
		return err
	}
	return checkPackHeader(ref.name(), ref, h[:])
}

// packBody reads a pack front to back: header, every object, and the checksum
// over them.
func (v *verifier) packBody(ref packRef, o Object, trailer packTrailer, table []tableEntry) error {
	name, h := ref.name(), newHash()
	if err := v.packHeader(ref, o); err != nil {
		return err
	}
	b := make([]byte, packHeaderSize)
	if _, err := o.ReadAt(b, 0); err != nil {
		return err
	}
	h.Write(b)
	var plain []byte
	for _, want := range table {
		b = slices.Grow(b[:0], int(want.frameLen()))[:want.frameLen()]
		if _, err := o.ReadAt(b, int64(want.off)); err != nil {
			return &blkbak.FormatError{Format: name, Off: int64(want.off), Msg: "object " + want.id.String(), Err: err}
		}
		h.Write(b)
		got, payload, err := parseFrame(name, int64(want.off), b)
		got.id = want.id
		if err == nil && got != want {
			err = blkbak.Corruptf(name, int64(want.off), "object and table disagree")
		}
		if err == nil {
			plain, err = want.object(name, plain, payload)
		}
		if err != nil {
			v.Report(Problem{Kind: "object", File: name, Object: want.id, Err: err})
		}
		v.sum.Bytes += int64(len(b))
		if v.Progress != nil {
			v.Progress(int64(len(b)))
		}
	}
	if ID(h.Sum(nil)) != trailer.bodySum {
		return blkbak.Corruptf(name, -1, "checksum of the pack does not match")
	}
	return nil
}

func (v *verifier) indexFiles(ctx context.Context) error {
	files, err := v.backend.List(ctx, "idx")
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.indexFile(ctx, f.Name); err != nil && !errors.Is(err, blkbak.ErrNotFound) {
			v.Report(Problem{Kind: "index", File: f.Name, Err: err})
		}
	}
	return nil
}

func (v *verifier) indexFile(ctx context.Context, name string) error {
	o, err := v.backend.Open(ctx, name)
	if err != nil {
		return err
	}
	defer o.Close()
	b := make([]byte, o.Size())
	if _, err := o.ReadAt(b, 0); err != nil {
		return err
	}
	seg, err := parseSegment(name, b)
	if err != nil {
		return err
	}
	if err := seg.verify(b); err != nil {
		return err
	}
	byPack := make([][]int, len(seg.packs)/indexPackSize)
	for i := range seg.count() {
		n := entryPack(seg.entry(i))
		byPack[n] = append(byPack[n], i)
	}
	for n, entries := range byPack {
		if err := v.indexedPack(ctx, seg, seg.pack(uint32(n)), entries); err != nil {
			return err
		}
	}
	return nil
}

// indexedPack compares what a segment says of one pack with the pack's own table.
func (v *verifier) indexedPack(ctx context.Context, seg *segment, ref packRef, entries []int) error {
	o, err := v.backend.Open(ctx, ref.name())
	if err != nil {
		return blkbak.Corruptf(seg.name, -1, "lists %d objects of a pack that cannot be opened: %v", len(entries), err)
	}
	defer o.Close()
	_, table, err := readPackTable(ref.name(), o, o.Size())
	if err != nil {
		return blkbak.Corruptf(seg.name, -1, "lists %d objects of a damaged pack: %v", len(entries), err)
	}
	at := make(map[int64]tableEntry, len(table))
	for _, e := range table {
		at[int64(e.off)] = e
	}
	for _, i := range entries {
		e := seg.entry(i)
		t, ok := at[entryOff(e)]
		if !ok || t.frameLen() != entryLen(e) || [indexIDSize]byte(t.id[:indexIDSize]) != [indexIDSize]byte(e[:indexIDSize]) {
			return blkbak.Corruptf(seg.name, -1, "entry %d does not agree with %s", i, ref.name())
		}
	}
	return nil
}

func (v *verifier) pointFiles(ctx context.Context) error {
	files, err := v.backend.List(ctx, "points")
	if err != nil {
		return err
	}
	for _, f := range files {
		id, err := blkbak.ParsePointID(strings.TrimPrefix(f.Name, "points/"))
		if err != nil {
			v.Report(Problem{Kind: "stray", File: f.Name, Err: err})
			continue
		}
		o := readOutcome(ctx, v.backend, id)
		if o.Err != nil && !errors.Is(o.Err, blkbak.ErrNotFound) {
			v.Report(Problem{Kind: "point", File: f.Name, Err: o.Err})
		}
	}
	return nil
}

// sessionFiles looks at the markers: nothing reads what is in them, but a changed
// bit tells of a medium that is going bad.
func (v *verifier) sessionFiles(ctx context.Context) error {
	files, err := v.backend.List(ctx, "sess")
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := readAll(ctx, v.backend, f.Name, sealMax)
		if errors.Is(err, blkbak.ErrNotFound) {
			continue
		}
		if err == nil {
			_, _, err = unseal(f.Name, b)
		}
		if err != nil {
			v.Report(Problem{Kind: "stray", File: f.Name, Err: err})
		}
	}
	return nil
}

// RebuildIndex makes an index of every pack that no sound segment of a committed
// session lists whole, from the packs alone, and drops segments that are damaged.
// It returns the number of packs indexed.
func (s *Store) RebuildIndex(ctx context.Context) (int, error) {
	w, err := s.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	visible, err := visibleSegments(ctx, s.backend)
	if err != nil {
		return 0, err
	}
	listed := make(map[packRef]int) // entries by pack
	var damaged []string
	for _, name := range visible {
		err := s.countEntries(ctx, name, listed)
		if errors.Is(err, blkbak.ErrCorrupt) {
			damaged = append(damaged, name)
		} else if err != nil {
			return 0, err
		}
	}
	n, err := w.indexUnlisted(ctx, listed)
	if err != nil {
		return 0, err
	}
	if n > 0 || len(damaged) > 0 {
		if err := w.Commit(ctx, nil); err != nil {
			return 0, err
		}
	}
	for _, name := range damaged {
		if err := s.backend.Remove(ctx, name); err != nil {
			return n, err
		}
	}
	return n, s.Refresh(ctx)
}

// countEntries adds the number of entries that a sound segment has of each pack.
func (s *Store) countEntries(ctx context.Context, name string, listed map[packRef]int) error {
	b, err := readAll(ctx, s.backend, name, 1<<40)
	if err != nil {
		return err
	}
	seg, err := parseSegment(name, b)
	if err == nil {
		err = seg.verify(b)
	}
	if err != nil {
		return err
	}
	for i := range seg.count() {
		listed[seg.pack(entryPack(seg.entry(i)))]++
	}
	return nil
}

// indexUnlisted takes packs into the session's next segment as if it had written
// them itself.
func (w *Session) indexUnlisted(ctx context.Context, listed map[packRef]int) (int, error) {
	files, err := w.store.backend.List(ctx, "packs")
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, f := range files {
		ref, err := parsePackName(f.Name)
		if err != nil || slices.ContainsFunc(w.pending, func(in indexed) bool { return in.ref == ref }) {
			continue
		}
		o, err := w.store.backend.Open(ctx, f.Name)
		if err != nil {
			return n, err
		}
		_, table, err := readPackTable(f.Name, o, o.Size())
		o.Close()
		switch {
		case errors.Is(err, blkbak.ErrCorrupt):
			w.store.report(fmt.Errorf("pack not indexed: %w", err))
		case err != nil:
			return n, fmt.Errorf("index %s: %w", f.Name, err)
		case len(table) > listed[ref]:
			w.pending = append(w.pending, indexed{ref, table})
			n++
		}
		if w.pendingEntries() >= w.store.segmentEntries {
			if err := w.writeSegment(ctx); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}
