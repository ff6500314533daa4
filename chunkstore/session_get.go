package chunkstore

import (
	"context"
	"maps"
	"slices"
)

// Get reads an object, written by this session or before. What is not in an index
// segment yet is looked for in the packs at hand.
func (w *Session) Get(ctx context.Context, id ID, dst []byte) ([]byte, error) {
	plain, places, err := w.lookUp(id, dst)
	if plain != nil || err != nil {
		return plain, err
	}
	// What lies in files is read without keeping writers waiting.
	for _, l := range places {
		if plain, err := w.store.readAt(ctx, l, id, dst); err == nil {
			return plain, nil
		}
	}
	return w.store.Get(ctx, id, dst)
}

// lookUp returns the object if it is in memory, or else the places in files where
// this session put it or took it over, if it did.
func (w *Session) lookUp(id ID, dst []byte) (plain []byte, places []location, err error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if _, ok := w.fresh[id]; !ok {
		for _, s := range w.segments {
			places = s.find(id, places)
		}
		return nil, places, nil
	}
	hasID := func(e tableEntry) bool { return e.id == id }
	for _, p := range slices.AppendSeq([]*pack{w.written}, maps.Values(w.packs)) {
		if p == nil {
			continue
		}
		if i := slices.IndexFunc(p.table, hasID); i >= 0 {
			e := p.table[i]
			start := int64(e.off) + frameHeaderSize
			plain, err = e.object(p.ref.name(), dst, p.buf[start:start+int64(e.stored)])
			return plain, nil, err
		}
	}
	for _, in := range w.pending {
		if i := slices.IndexFunc(in.table, hasID); i >= 0 {
			e := in.table[i]
			places = append(places, location{in.ref, int64(e.off), e.frameLen()})
		}
	}
	return nil, places, nil
}
