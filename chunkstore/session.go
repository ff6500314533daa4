package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/blkbak/blkbak"
)

// segmentEntries is how many new objects a session keeps in a map before it
// writes an index segment for them, to be looked up from there.
const segmentEntries = 256 << 10

// ErrRevoked: another process took this session for dead and adopted what it
// wrote. Nothing is lost; the run has to be made again.
var ErrRevoked = fmt.Errorf("session revoked: %w", blkbak.ErrBusy)

// Session is one writer's run. Prepare is safe for concurrent use; so are the
// other methods, but objects end up in packs in the order of the Append calls.
type Session struct {
	store   *Store
	id      blkbak.PointID
	release func() error
	dead    []blkbak.PointID // sessions adopted from

	mu       sync.RWMutex
	fresh    map[ID]struct{} // objects of packs that no segment lists yet
	segments []*segment      // written by this session
	packs    map[Kind]*pack  // being filled
	spare    *pack           // memory of a pack that was written
	pending  []indexed       // entries for the next segment, their packs durable
	writing  chan error      // the result of the pack being written; nil if none is
	written  *pack           // that pack: the writing goroutine's until it reports
	nextPack uint32
	nextSeg  uint32
	err      error // the first failure: nothing is written after it
	stats    Stats
}

// indexed are objects of one pack, for the index.
type indexed struct {
	ref   packRef
	table []tableEntry
}

// Stats counts what a session did, per kind of object.
type Stats struct {
	Data, Nodes KindStats
}

// KindStats counts objects of one kind.
type KindStats struct {
	New    int64 // objects stored
	Reused int64 // objects that were there already
	Stored int64 // bytes that the new ones take, their share of table included
}

func (s *Stats) of(k Kind) *KindStats {
	if k == KindNode {
		return &s.Nodes
	}
	return &s.Data
}

// Begin starts a session. Close it in the end, after Commit as well.
func (s *Store) Begin(ctx context.Context) (*Session, error) {
	w := &Session{store: s, fresh: make(map[ID]struct{}), packs: make(map[Kind]*pack)}
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	// The index is read after the session is open: whoever deletes waits for
	// open sessions, so that what is seen from here on stays.
	err := s.Refresh(ctx)
	if err == nil {
		err = w.adopt(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// open marks the session as open and takes the hold on its marker. Whoever looks
// for dead sessions in between may be faster to take the hold: that session is
// his then, nothing was written in it, and the next one is opened.
func (w *Session) open(ctx context.Context) error {
	const patience = 100
	for range patience {
		w.id = blkbak.NewPointID()
		name := "sess/" + w.id.String()
		if err := w.store.backend.Create(ctx, name, seal(sealSession, nil)...); err != nil {
			return err
		}
		release, err := w.store.backend.Hold(ctx, name)
		if errors.Is(err, blkbak.ErrBusy) || errors.Is(err, blkbak.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = w.store.Outcome(ctx, w.id)
		if errors.Is(err, blkbak.ErrNotFound) {
			w.release = release
			return nil
		}
		if err = errors.Join(err, release()); err != nil {
			return err
		}
	}
	return fmt.Errorf("open a session: %w: others take each one for dead", blkbak.ErrBusy)
}

// ID names the session, and the point that it commits.
func (w *Session) ID() blkbak.PointID { return w.id }

// Prepared is an object on its way into a pack.
type Prepared struct {
	ID      ID
	kind    Kind
	plain   int
	codec   uint8
	known   bool
	payload []byte
}

// Prepare compresses an object whose name is id unless it is stored already. It
// is the expensive half of storing, to be called from many goroutines. The
// result holds on to memory of buf, which it may have grown, until Append.
func (w *Session) Prepare(kind Kind, id ID, plain, buf []byte) Prepared {
	p := Prepared{ID: id, kind: kind, plain: len(plain), known: w.knows(id), payload: buf[:0]}
	if !p.known {
		p.payload, p.codec = encode(buf[:0], plain)
	}
	return p
}

// Buffer is the memory that Prepare was given, or what it grew to.
func (p Prepared) Buffer() []byte { return p.payload }

func (w *Session) knows(id ID) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.wrote(id) || w.store.Has(id)
}

func (w *Session) wrote(id ID) bool {
	if _, ok := w.fresh[id]; ok {
		return true
	}
	return slices.ContainsFunc(w.segments, func(s *segment) bool { return s.has(id) })
}

// Append stores a prepared object. It is durable only once Commit returned.
func (w *Session) Append(ctx context.Context, p Prepared) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	st := w.stats.of(p.kind)
	if !p.known {
		// Two goroutines may have prepared the same new object.
		p.known = w.wrote(p.ID)
	}
	if p.known {
		st.Reused++
		return nil
	}
	if p.plain == 0 || p.plain > MaxObject {
		return fmt.Errorf("object of %d bytes: %w", p.plain, blkbak.ErrUsage)
	}
	pk := w.filling(p.kind)
	e := pk.add(tableEntry{id: p.ID, plain: uint32(p.plain), codec: p.codec, kind: p.kind}, p.payload)
	w.fresh[p.ID] = struct{}{}
	st.New++
	st.Stored += e.frameLen() + tableEntrySize
	if len(pk.buf) >= w.store.packSize || len(pk.table) >= maxPackEntries {
		w.err = w.writePack(ctx, p.kind)
	}
	return w.err
}

// Put names and stores one object. Whoever has many prepares them in parallel.
func (w *Session) Put(ctx context.Context, kind Kind, plain []byte) (ID, error) {
	p := w.Prepare(kind, Sum(plain), plain, nil)
	return p.ID, w.Append(ctx, p)
}

// filling is the pack that takes objects of the given kind.
func (w *Session) filling(kind Kind) *pack {
	p := w.packs[kind]
	if p == nil {
		if p, w.spare = w.spare, nil; p == nil {
			p = new(pack)
		}
		p.start(packRef{w.id, w.nextPack}, kind)
		w.nextPack++
		w.packs[kind] = p
	}
	return p
}

// writePack hands the pack being filled to a goroutine that writes it, once the
// one before is written.
func (w *Session) writePack(ctx context.Context, kind Kind) error {
	if err := w.wait(ctx); err != nil {
		return err
	}
	p := w.packs[kind]
	delete(w.packs, kind)
	p.finish() // the buffer does not move any more: Get may read it meanwhile
	done := make(chan error, 1)
	go func() { done <- w.store.backend.Create(ctx, p.ref.name(), p.buf) }()
	w.written, w.writing = p, done
	return nil
}

// wait collects the pack being written: its objects are durable now.
func (w *Session) wait(ctx context.Context) error {
	if w.writing == nil {
		return nil
	}
	p, err := w.written, <-w.writing
	w.written, w.writing, w.spare = nil, nil, p
	if err != nil {
		return err
	}
	return w.list(ctx, indexed{p.ref, slices.Clone(p.table)})
}

// list enters a durable pack into the index segment to be written next, and
// writes it once it is large enough.
func (w *Session) list(ctx context.Context, in indexed) error {
	w.pending = append(w.pending, in)
	if w.pendingEntries() >= w.store.segmentEntries {
		return w.writeSegment(ctx)
	}
	return nil
}

func (w *Session) pendingEntries() int {
	n := 0
	for _, in := range w.pending {
		n += len(in.table)
	}
	return n
}

// writeSegment makes the pending entries an index segment.
func (w *Session) writeSegment(ctx context.Context) error {
	if len(w.pending) == 0 {
		return nil
	}
	packs := make([]packRef, len(w.pending))
	entries := make([]indexEntry, 0, w.pendingEntries())
	for i, in := range w.pending {
		packs[i] = in.ref
		for _, e := range in.table {
			entries = append(entries, newIndexEntry(e.id, uint32(i), int64(e.off), e.frameLen()))
		}
	}
	b := buildSegment(packs, entries)
	name := fmt.Sprintf("idx/%v-%d", w.id, w.nextSeg)
	w.nextSeg++
	if err := w.store.backend.Create(ctx, name, b); err != nil {
		return err
	}
	seg, err := openSegment(ctx, w.store.backend, name)
	if err != nil {
		return err
	}
	w.segments = append(w.segments, seg)
	for _, in := range w.pending {
		for _, e := range in.table {
			delete(w.fresh, e.id)
		}
	}
	w.pending = nil
	return nil
}

// Flush makes everything that was appended durable and lists it in an index
// segment, which counts once the session commits.
func (w *Session) Flush(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = w.flush(ctx)
	}
	return w.err
}

func (w *Session) flush(ctx context.Context) error {
	for _, kind := range slices.Sorted(maps.Keys(w.packs)) {
		if err := w.writePack(ctx, kind); err != nil {
			return err
		}
	}
	if err := w.wait(ctx); err != nil {
		return err
	}
	return w.writeSegment(ctx)
}

// Stats tells what was stored so far.
func (w *Session) Stats() Stats {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.stats
}

// Commit makes everything durable and publishes body as the session's outcome.
// When it returns nil the commit is durable. A session commits once.
//
// After an error that the backend reports of publishing, it is uncertain whether
// the session committed: the outcome may be there without being durable.
func (w *Session) Commit(ctx context.Context, body []byte) error {
	if len(body) > sealMax {
		return fmt.Errorf("commit with a body of %d bytes: %w", len(body), blkbak.ErrUsage)
	}
	if err := w.Flush(ctx); err != nil {
		return err
	}
	b := w.store.backend
	err := b.Create(ctx, outcomeName(w.id), seal(sealCommit, body)...)
	if errors.Is(err, blkbak.ErrExists) {
		if o, oerr := w.store.Outcome(ctx, w.id); oerr == nil && !o.Committed {
			err = ErrRevoked
		}
	}
	if err != nil {
		return err
	}
	// From here on the session is history; what it leaves behind is swept by the
	// next one if this process dies or fails at it.
	for _, id := range append(w.dead, w.id) {
		if rerr := w.sweep(ctx, id); rerr != nil {
			w.store.report(fmt.Errorf("marker of session %v not removed: %w", id, rerr))
		}
	}
	return nil
}

// sweep removes what is left of a session that has an outcome: its marker and,
// if it was revoked, its index segments, which never count.
func (w *Session) sweep(ctx context.Context, id blkbak.PointID) error {
	b := w.store.backend
	if id != w.id {
		files, err := b.List(ctx, "idx")
		if err != nil {
			return err
		}
		for _, f := range files {
			if strings.HasPrefix(f.Name, "idx/"+id.String()+"-") {
				if err := b.Remove(ctx, f.Name); err != nil {
					return err
				}
			}
		}
	}
	return b.Remove(ctx, "sess/"+id.String())
}

// Close ends the session. Without a commit before, what it stored is left to be
// adopted by the next session.
func (w *Session) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing != nil {
		<-w.writing
		w.writing = nil
	}
	if w.err == nil {
		w.err = errors.New("session closed")
	}
	var err error
	for _, s := range w.segments {
		err = errors.Join(err, s.close())
	}
	w.segments = nil
	if w.release == nil {
		return err
	}
	if w.nextPack == 0 && w.nextSeg == 0 {
		// Nothing was written, so there is nothing to adopt or to sweep.
		err = errors.Join(err, w.store.backend.Remove(context.Background(), "sess/"+w.id.String()))
	}
	err = errors.Join(err, w.release())
	w.release = nil
	return err
}
