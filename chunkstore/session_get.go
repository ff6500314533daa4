package chunkstore

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/blkbak/blkbak"
)

// Get reads an object, written by this session or before. What is not in an index
// segment yet is looked for in the packs at hand.
func (w *Session) Get(ctx context.Context, id ID, dst []byte) ([]byte, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if _, ok := w.fresh[id]; ok {
		return w.getFresh(ctx, id, dst)
	}
	var places []location
	for _, s := range w.segments {
		places = s.find(id, places)
	}
	for _, l := range places {
		if plain, err := w.store.readAt(ctx, l, id, dst); err == nil {
			return plain, nil
		}
	}
	return w.store.Get(ctx, id, dst)
}

func (w *Session) getFresh(ctx context.Context, id ID, dst []byte) ([]byte, error) {
	hasID := func(e tableEntry) bool { return e.id == id }
	inMemory := slices.AppendSeq([]*pack{w.written}, maps.Values(w.packs))
	for _, p := range inMemory {
		if p == nil {
			continue
		}
		if i := slices.IndexFunc(p.table, hasID); i >= 0 {
			e := p.table[i]
			start := int64(e.off) + frameHeaderSize
			return e.object(p.ref.name(), dst, p.buf[start:start+int64(e.stored)])
		}
	}
	for _, in := range w.pending {
		if i := slices.IndexFunc(in.table, hasID); i >= 0 {
			e := in.table[i]
			return w.store.readAt(ctx, location{in.ref, int64(e.off), e.frameLen()}, id, dst)
		}
	}
	return nil, fmt.Errorf("object %v: %w", id, blkbak.ErrNotFound)
}
