package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/blkbak/blkbak"
)

// adopt takes over the packs of sessions that died.
func (w *Session) adopt(ctx context.Context) error {
	b := w.store.backend
	sessions, err := b.List(ctx, "sess")
	if err != nil {
		return err
	}
	for _, f := range sessions {
		id, err := blkbak.ParsePointID(strings.TrimPrefix(f.Name, "sess/"))
		if err != nil || id == w.id {
			continue
		}
		release, err := b.Hold(ctx, f.Name)
		if errors.Is(err, blkbak.ErrBusy) || errors.Is(err, blkbak.ErrNotFound) {
			continue // alive, or ended by now
		}
		if err != nil {
			return err
		}
		// The hold is given back when this session has the packs in its hands;
		// a second adopter would do no harm, only the same work.
		err = w.adoptFrom(ctx, id)
		if err = errors.Join(err, release()); err != nil {
			return fmt.Errorf("adopt session %v: %w", id, err)
		}
	}
	if len(w.dead) == 0 {
		return nil
	}
	packs, err := b.List(ctx, "packs")
	if err != nil {
		return err
	}
	for _, f := range packs {
		ref, err := parsePackName(f.Name)
		if err != nil || !slices.Contains(w.dead, ref.session) {
			continue
		}
		if err := w.adoptPack(ctx, ref); err != nil {
			return fmt.Errorf("adopt %s: %w", f.Name, err)
		}
	}
	return nil
}

// adoptFrom makes sure that the dead session id never commits.
func (w *Session) adoptFrom(ctx context.Context, id blkbak.PointID) error {
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

func (w *Session) adoptPack(ctx context.Context, ref packRef) error {
	o, err := w.store.backend.Open(ctx, ref.name())
	if err != nil {
		return err
	}
	defer o.Close()
	_, table, err := readPackTable(ref.name(), o, o.Size())
	if errors.Is(err, blkbak.ErrCorrupt) {
		w.store.report(fmt.Errorf("pack of an interrupted run not used: %w", err))
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range table {
		w.fresh[e.id] = struct{}{}
	}
	w.pending = append(w.pending, indexed{ref, table})
	return nil
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
