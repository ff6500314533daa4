package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/blkbak/blkbak"
)

// adopt takes over the packs of sessions that died. It saves work and nothing
// depends on it: what cannot be taken over is reported and left, so that the
// remains of one run never keep the next from its work.
func (w *Session) adopt(ctx context.Context) error {
	sessions, err := w.store.backend.List(ctx, "sess")
	if err != nil {
		return err
	}
	for _, f := range sessions {
		id, err := blkbak.ParsePointID(strings.TrimPrefix(f.Name, "sess/"))
		if err != nil || id == w.id {
			continue
		}
		if err := w.adoptFrom(ctx, id); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			w.store.report(fmt.Errorf("interrupted run %v not adopted: %w", id, err))
		}
	}
	if len(w.dead) == 0 {
		return nil
	}
	left, err := w.adoptPacks(ctx)
	if err != nil {
		return err
	}
	// The others have nothing that this session would have to commit first.
	w.dead = slices.DeleteFunc(w.dead, func(id blkbak.PointID) bool {
		if left[id] {
			return false
		}
		if err := w.sweep(ctx, id); err != nil {
			w.store.report(fmt.Errorf("marker of interrupted run %v not removed: %w", id, err))
		}
		return true
	})
	return nil
}

// adoptPacks takes over the packs of dead sessions, and returns which of them
// left any.
func (w *Session) adoptPacks(ctx context.Context) (left map[blkbak.PointID]bool, err error) {
	b := w.store.backend
	packs, err := b.List(ctx, "packs")
	if err != nil {
		return nil, err
	}
	left = make(map[blkbak.PointID]bool)
	for _, f := range packs {
		ref, err := parsePackName(f.Name)
		if err != nil || !slices.Contains(w.dead, ref.session) {
			continue
		}
		left[ref.session] = true
		table, err := packTable(ctx, b, ref)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			w.store.report(fmt.Errorf("pack of an interrupted run not used: %w", err))
		default:
			if err := w.adoptPack(ctx, indexed{ref, table}); err != nil {
				return nil, err
			}
		}
	}
	return left, nil
}

// adoptFrom makes sure that the session id never commits, unless it is alive or
// has ended.
func (w *Session) adoptFrom(ctx context.Context, id blkbak.PointID) error {
	b := w.store.backend
	release, err := b.Hold(ctx, "sess/"+id.String())
	if errors.Is(err, blkbak.ErrBusy) || errors.Is(err, blkbak.ErrNotFound) {
		return nil // alive, or ended by now
	}
	if err != nil {
		return err
	}
	// The hold is given back once the session is revoked: a second adopter does
	// no harm, only the same work.
	return errors.Join(w.revoke(ctx, id), release())
}

func (w *Session) revoke(ctx context.Context, id blkbak.PointID) error {
	b := w.store.backend
	err := b.Create(ctx, outcomeName(id), seal(sealRevoked, nil)...)
	if errors.Is(err, blkbak.ErrExists) {
		o, oerr := w.store.Outcome(ctx, id)
		if oerr != nil || o.Committed {
			// It committed and died before it could clear its marker. If the
			// outcome cannot be read, check has to say so, not this run.
			return b.Remove(ctx, "sess/"+id.String())
		}
		err = nil // revoked by an adopter that died in turn
	}
	if err == nil {
		w.dead = append(w.dead, id)
	}
	return err
}

// adoptPack makes the objects of a pack this session's own.
func (w *Session) adoptPack(ctx context.Context, in indexed) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range in.table {
		w.fresh[e.id] = struct{}{}
	}
	return w.list(ctx, in)
}

// packTable reads the table of a pack.
func packTable(ctx context.Context, b Backend, ref packRef) ([]tableEntry, error) {
	o, err := b.Open(ctx, ref.name())
	if err != nil {
		return nil, err
	}
	defer o.Close()
	_, table, err := readPackTable(ref.name(), o, o.Size())
	return table, err
}

func parsePackName(name string) (ref packRef, err error) {
	id, n, _ := strings.Cut(strings.TrimPrefix(name, "packs/"), "-")
	if ref.session, err = blkbak.ParsePointID(id); err != nil {
		return ref, err
	}
	if _, err := fmt.Sscanf(n, "%d", &ref.n); err != nil || ref.name() != name {
		return ref, fmt.Errorf("%s: not the name of a pack", name)
	}
	return ref, nil
}
