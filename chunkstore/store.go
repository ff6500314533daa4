package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/atomicfile"
)

// DefaultChunkSize is the chunk size of a repository unless Init is told another.
const DefaultChunkSize = 64 << 10

// Config is what a repository says of itself.
type Config struct {
	ID        blkbak.PointID `json:"id"` // random, to know it again under another path
	Created   time.Time      `json:"created"`
	ChunkSize int64          `json:"chunk_size"` // of volumes that name no other
	Features  []string       `json:"features"`   // what a reader must know; none so far
}

// Options of Open; the zero value is good.
type Options struct {
	// Report is told of what does not keep a call from its result but should be
	// known: a damaged index segment, a marker that could not be removed. It may
	// be called from several goroutines at once. nil tells no one.
	Report func(error)

	// CacheDir holds what can be computed again. The default for a local
	// directory is its subdirectory "cache"; without one nothing is cached.
	CacheDir string

	// PackSize is where a pack is closed, in bytes; 0 means 32 MiB. A session
	// holds up to three packs in memory.
	PackSize int
}

const defaultPackSize = 32 << 20

// Store is an open repository. It is safe for concurrent use.
type Store struct {
	backend Backend
	config  Config
	cache   string
	report  func(error)

	packSize       int
	segmentEntries int

	view    atomic.Pointer[view]
	refresh sync.Mutex // taken to replace view
	packs   packCache
}

// Init makes a repository in the local directory dir, which must be empty or
// missing. chunkSize 0 means DefaultChunkSize.
func Init(ctx context.Context, dir string, chunkSize int64) (Config, error) {
	if chunkSize == 0 {
		chunkSize = DefaultChunkSize
	}
	if chunkSize < 4<<10 || chunkSize > MaxObject || chunkSize&(chunkSize-1) != 0 {
		return Config{}, fmt.Errorf("chunk size %d: %w: want a power of two from 4 KiB to %d MiB", chunkSize, blkbak.ErrUsage, MaxObject>>20)
	}
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Config{}, err
	}
	for _, n := range names {
		// An earlier Init that was interrupted leaves directories at most.
		if n.Name() == "config" {
			return Config{}, fmt.Errorf("repository %s: %w", dir, blkbak.ErrExists)
		}
		if !n.IsDir() {
			return Config{}, blkbak.WithHint(fmt.Errorf("directory %s is not empty: %w", dir, blkbak.ErrExists),
				"name a directory that is empty or does not exist")
		}
	}
	for _, d := range directories {
		if err := atomicfile.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return Config{}, err
		}
	}
	c := Config{ID: blkbak.NewPointID(), Created: blkbak.Time(time.Now()), ChunkSize: chunkSize, Features: []string{}}
	body, err := json.Marshal(c)
	if err != nil {
		return c, err
	}
	return c, localDir{dir}.Create(ctx, "config", seal(sealConfig, body)...)
}

// Open opens the repository in the local directory dir.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	if o.CacheDir == "" {
		o.CacheDir = filepath.Join(dir, "cache")
	}
	s, err := OpenBackend(ctx, localDir{dir}, o)
	if errors.Is(err, blkbak.ErrNotFound) {
		err = blkbak.WithHint(fmt.Errorf("repository %s: %w", dir, err), "make one with: blkbak init --repo %s", dir)
	}
	return s, err
}

// OpenBackend opens the repository that b keeps. The store does not close b.
func OpenBackend(ctx context.Context, b Backend, o Options) (*Store, error) {
	if o.Report == nil {
		o.Report = func(error) {}
	}
	if o.PackSize == 0 {
		o.PackSize = defaultPackSize
	}
	s := &Store{backend: b, cache: o.CacheDir, report: o.Report, packSize: o.PackSize, segmentEntries: segmentEntries}
	var err error
	if s.config, err = readConfig(ctx, b); err != nil {
		return nil, err
	}
	v, err := s.loadView(ctx)
	if err != nil {
		return nil, err
	}
	s.view.Store(v)
	return s, nil
}

func readConfig(ctx context.Context, b Backend) (c Config, err error) {
	raw, err := readAll(ctx, b, "config", sealMax)
	if err != nil {
		return c, err
	}
	what, body, err := unseal("config", raw)
	if err != nil {
		return c, err
	}
	if what != sealConfig {
		return c, blkbak.Corruptf("config", 10, "not a repository's config")
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, &blkbak.FormatError{Format: "config", Off: sealHeader, Err: err}
	}
	if len(c.Features) > 0 {
		return c, fmt.Errorf("repository uses features that this program does not know: %v: %w", c.Features, errors.ErrUnsupported)
	}
	return c, nil
}

// Config returns what the repository says of itself.
func (s *Store) Config() Config { return s.config }

// Close gives back files and mappings. The store is of no use afterwards.
func (s *Store) Close() error {
	s.refresh.Lock()
	defer s.refresh.Unlock()
	var err error
	if v := s.view.Swap(nil); v != nil {
		err = v.close()
	}
	return errors.Join(err, s.packs.close())
}

// Refresh looks again at what other processes committed.
func (s *Store) Refresh(ctx context.Context) error {
	s.refresh.Lock()
	defer s.refresh.Unlock()
	v, err := s.loadView(ctx)
	if err != nil {
		return err
	}
	// The old view's mappings stay until Close: readers may be in the middle of
	// a lookup, and pages of a mapping cost nothing once they are not touched.
	v.older = s.view.Swap(v)
	return nil
}

// Has tells whether the object id is stored and committed. It looks at the
// index only.
func (s *Store) Has(id ID) bool { return s.view.Load().has(id) }

// Get returns the plaintext of object id, in dst's memory where its capacity
// suffices. What it returns is what the name promises: anything else is an error
// that matches blkbak.ErrCorrupt; an object that is not there, ErrNotFound.
func (s *Store) Get(ctx context.Context, id ID, dst []byte) ([]byte, error) {
	plain, err := s.get(ctx, s.view.Load(), id, dst)
	if err == nil || ctx.Err() != nil {
		return plain, err
	}
	// Another process may have committed objects since the index was read, and
	// what is cached of it is not above suspicion.
	before := s.view.Load()
	if before.merged {
		os.Remove(s.mergedPath())
	}
	if rerr := s.Refresh(ctx); rerr != nil || s.view.Load().same(before) && !before.merged {
		return nil, err
	}
	return s.get(ctx, s.view.Load(), id, dst)
}

func (s *Store) get(ctx context.Context, v *view, id ID, dst []byte) ([]byte, error) {
	var room [4]location
	places := v.find(id, room[:0])
	if len(places) == 0 {
		return nil, fmt.Errorf("object %v: %w", id, blkbak.ErrNotFound)
	}
	var errs error
	for _, l := range places {
		plain, err := s.readAt(ctx, l, id, dst)
		if err == nil {
			return plain, nil
		}
		errs = errors.Join(errs, err)
	}
	return nil, blkbak.WithHint(errs, "find out what else is damaged with: blkbak check --read-data")
}

// frames lends memory for stored frames.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// readAt reads the object id from where the index says that it lies.
func (s *Store) readAt(ctx context.Context, l location, id ID, dst []byte) ([]byte, error) {
	name := l.pack.name()
	o, err := s.packs.open(ctx, s.backend, name)
	if err != nil {
		return nil, err
	}
	defer o.done()
	p := frames.Get().(*[]byte)
	defer frames.Put(p)
	if int64(cap(*p)) < l.len {
		*p = make([]byte, l.len) // at most 16 MiB: the index has 24 bits for it
	}
	b := (*p)[:l.len]
	if n, err := o.ReadAt(b, l.off); n < len(b) {
		return nil, &blkbak.FormatError{Format: name, Off: l.off, Msg: "object " + id.String(), Err: err}
	}
	e, payload, err := parseFrame(name, l.off, b)
	if err != nil {
		return nil, err
	}
	e.id = id
	return e.object(name, dst, payload)
}
