package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/blkbak/blkbak"
)

// Problem is one thing that is wrong with a repository's files.
type Problem struct {
	Kind   string // "config", "pack", "object", "index", "point", "session", "stray"
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
	v := verifier{Store: s, VerifyOptions: o, unusable: make(map[packRef]bool)}
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
	sum      Summary
	unusable map[packRef]bool // reported already
}

// badPack reports a pack, once.
func (v *verifier) badPack(ref packRef, err error) {
	if !v.unusable[ref] {
		v.unusable[ref] = true
		v.Report(Problem{Kind: "pack", File: ref.name(), Err: err})
	}
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
			v.badPack(ref, err)
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
	if err := readFull(ref.name(), o, h[:], 0); err != nil {
		return err
	}
	return checkPackHeader(ref.name(), ref, h[:])
}

// packBody reads a pack front to back: header, every object, and the checksum
// over them.
func (v *verifier) packBody(ref packRef, o Object, trailer packTrailer, table []tableEntry) error {
	name, h := ref.name(), newHash()
	var b, plain []byte
	bad, err := 0, v.packHeader(ref, o)
	if err != nil {
		bad++ // and the objects behind it may be good all the same
		v.badPack(ref, err)
	}
	b = make([]byte, packHeaderSize)
	if err := readFull(name, o, b, 0); err != nil {
		return err
	}
	h.Write(b)
	for _, want := range table {
		b = slices.Grow(b[:0], int(want.frameLen()))[:want.frameLen()]
		err := readFull(name, o, b, int64(want.off))
		if err == nil {
			h.Write(b)
			plain, err = want.checkFrame(name, b, plain)
		}
		if err != nil {
			bad++
			v.Report(Problem{Kind: "object", File: name, Object: want.id, Err: fmt.Errorf("object %v: %w", want.id, err)})
		}
		v.sum.Bytes += int64(len(b))
		if v.Progress != nil {
			v.Progress(int64(len(b)))
		}
	}
	if bad == 0 && ID(h.Sum(nil)) != trailer.bodySum {
		return blkbak.Corruptf(name, -1, "checksum of the pack does not match")
	}
	return nil
}

// checkFrame decodes a frame, in plain's memory where it can, and compares it
// with its table entry.
func (e tableEntry) checkFrame(name string, frame, plain []byte) ([]byte, error) {
	got, payload, err := parseFrame(name, int64(e.off), frame)
	got.id = e.id
	if err == nil && got != e {
		err = blkbak.Corruptf(name, int64(e.off), "object and table disagree")
	}
	if err != nil {
		return plain, err
	}
	out, err := e.object(name, plain, payload)
	if err != nil {
		return plain, err
	}
	return out, nil
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
		if !isIndexName(f.Name) {
			v.Report(Problem{Kind: "stray", File: f.Name, Err: fmt.Errorf("%s: not the name of an index segment", f.Name)})
			continue
		}
		if err := v.indexFile(ctx, f.Name); err != nil && !errors.Is(err, blkbak.ErrNotFound) {
			v.Report(Problem{Kind: "index", File: f.Name, Err: err})
		}
	}
	return nil
}

func isIndexName(name string) bool {
	session, n, _ := strings.Cut(strings.TrimPrefix(name, "idx/"), "-")
	_, err := blkbak.ParsePointID(session)
	num, nerr := strconv.ParseUint(n, 10, 32)
	return err == nil && nerr == nil && strconv.FormatUint(num, 10) == n
}

func (v *verifier) indexFile(ctx context.Context, name string) error {
	seg, err := openSegment(ctx, v.backend, name)
	if err != nil {
		return err
	}
	defer seg.close()
	if err := seg.check(); err != nil {
		return err
	}
	ferr := guarded(name, func() {
		byPack := make([][]int, seg.packCount())
		for i := range seg.count() {
			n := entryPack(seg.entry(i))
			byPack[n] = append(byPack[n], i)
		}
		for n, entries := range byPack {
			if err = v.indexedPack(ctx, seg, seg.pack(uint32(n)), entries); err != nil {
				return
			}
		}
	})
	return errors.Join(err, ferr)
}

// indexedPack compares what a segment says of one pack with the pack's own table.
func (v *verifier) indexedPack(ctx context.Context, seg *segment, ref packRef, entries []int) error {
	if v.unusable[ref] {
		return nil // nothing to compare with
	}
	table, err := packTable(ctx, v.backend, ref)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		v.badPack(ref, fmt.Errorf("%s, of which %s lists %d objects: %w", ref.name(), seg.name, len(entries), err))
		return nil
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
	if len(entries) < len(table) {
		return blkbak.Corruptf(seg.name, -1, "lists %d of the %d objects of %s", len(entries), len(table), ref.name())
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

// sessionFiles looks at the markers, in which nothing but a changed bit can be
// wrong, and for sessions whose outcome was lost.
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
		var what uint16
		if err == nil {
			what, _, err = unseal(f.Name, b)
		}
		if err == nil && what != sealSession {
			err = blkbak.Corruptf(f.Name, 10, "not the marker of a session")
		}
		if err != nil {
			v.Report(Problem{Kind: "session", File: f.Name, Err: err})
		}
	}
	v.refresh.Lock()
	index, err := v.listIndex(ctx)
	v.refresh.Unlock()
	lost := ""
	for _, name := range index.orphans {
		session, _, _ := strings.Cut(strings.TrimPrefix(name, "idx/"), "-")
		if session != lost {
			v.Report(Problem{Kind: "point", File: "points/" + session,
				Err: blkbak.Corruptf("points/"+session, -1, "is gone, and %s is of this session", name)})
		}
		lost = session
	}
	return err
}
