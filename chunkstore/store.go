package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

const (
	defaultPackSize = 32 << 20
	maxPackSize     = 1 << 30 // far enough below what offsets in a pack can say
)

// Store is an open repository. It is safe for concurrent use.
type Store struct {
	backend Backend
	config  Config
	cache   string
	report  func(error)

	packSize       int
	segmentEntries int

	packs packCache

	refresh sync.Mutex              // taken to make a new view
	ended   map[blkbak.PointID]bool // under refresh: outcomes read so far, see committed

	// mu is held, shared, for as long as a lookup is at work in view. Whoever
	// replaces the view, holding refresh, may unmap the old one after that.
	mu   sync.RWMutex
	view *view // nil once the store is closed
}

var errClosed = errors.New("repository is closed")

// Init makes a repository in the local directory dir, which must be empty or
// missing. chunkSize 0 means DefaultChunkSize.
func Init(ctx context.Context, dir string, chunkSize int64) (Config, error) {
	if chunkSize == 0 {
		chunkSize = DefaultChunkSize
	}
	if err := checkChunkSize(chunkSize); err != nil {
		return Config{}, err
	}
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Config{}, err
	}
	for _, n := range names {
		if n.Name() == "config" {
			return Config{}, fmt.Errorf("repository %s: %w", dir, blkbak.ErrExists)
		}
		// An earlier Init that was interrupted leaves directories and a temporary
		// file; a new filesystem has a directory of its own.
		if !slices.Contains(directories, n.Name()) && n.Name() != "lost+found" && !strings.HasPrefix(n.Name(), atomicfile.TempPrefix) {
			return Config{}, blkbak.WithHint(fmt.Errorf("directory %s is not empty: %w", dir, blkbak.ErrExists),
				"name a directory that is empty or does not exist")
		}
	}
	for _, d := range directories {
		if err := atomicfile.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return Config{}, err
		}
	}
	// Whoever made dir itself, its name is to be as durable as what goes into it.
	if err := atomicfile.SyncDir(filepath.Dir(filepath.Clean(dir))); err != nil && !errors.Is(err, fs.ErrPermission) {
		return Config{}, err
	}
	c := Config{ID: blkbak.NewPointID(), Created: blkbak.Time(time.Now()), ChunkSize: chunkSize, Features: []string{}}
	body, err := json.Marshal(c)
	if err != nil {
		return c, err
	}
	return c, localDir{dir}.Create(ctx, "config", seal(sealConfig, body)...)
}

func checkChunkSize(n int64) error {
	if n < 4<<10 || n > MaxObject || n&(n-1) != 0 {
		return fmt.Errorf("chunk size %d: %w: want a power of two from 4 KiB to %d MiB", n, blkbak.ErrUsage, MaxObject>>20)
	}
	return nil
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
	if o.PackSize < 0 || o.PackSize > maxPackSize {
		return nil, fmt.Errorf("pack size %d: %w: want at most %d", o.PackSize, blkbak.ErrUsage, maxPackSize)
	}
	s := &Store{backend: b, cache: o.CacheDir, report: o.Report, packSize: o.PackSize, segmentEntries: segmentEntries}
	var err error
	if s.config, err = readConfig(ctx, b); err != nil {
		return nil, err
	}
	s.view = &view{}
	if err := s.Refresh(ctx); err != nil {
		return nil, err
	}
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
	if err := checkChunkSize(c.ChunkSize); err != nil || c.ID.IsZero() {
		return c, &blkbak.FormatError{Format: "config", Off: sealHeader, Msg: fmt.Sprintf("repository %q", c.ID), Err: err}
	}
	if len(c.Features) > 0 {
		return c, fmt.Errorf("repository uses features that this program does not know: %v: %w", c.Features, errors.ErrUnsupported)
	}
	return c, nil
}

// Config returns what the repository says of itself.
func (s *Store) Config() Config { return s.config }

// Close gives back files and mappings, after lookups that are under way. The
// store is of no use afterwards.
func (s *Store) Close() error {
	s.refresh.Lock()
	defer s.refresh.Unlock()
	return errors.Join(s.swap(nil), s.packs.close())
}

// Has tells whether the object id is stored and committed. It looks at the
// index only.
func (s *Store) Has(id ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view != nil && s.view.has(id)
}

// find appends the places where the index says that id lies, and returns the
// view that says so.
func (s *Store) find(id ID, out []location) ([]location, *view) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.view == nil {
		return out, nil
	}
	return s.view.find(id, out), s.view
}

// Files returns the names of the packs that hold the object id as the index has
// it, none if it is not stored and committed.
func (s *Store) Files(id ID) []string {
	places, _ := s.find(id, nil)
	names := make([]string, len(places))
	for i, l := range places {
		names[i] = l.pack.name()
	}
	return names
}

// Get returns the plaintext of object id, in dst's memory where its capacity
// suffices. What it returns is what the name promises: anything else is an error
// that matches blkbak.ErrCorrupt; an object that is not there, ErrNotFound.
func (s *Store) Get(ctx context.Context, id ID, dst []byte) ([]byte, error) {
	plain, used, err := s.get(ctx, id, dst)
	if err == nil || ctx.Err() != nil {
		return plain, err
	}
	if changed, rerr := s.reconsider(ctx, used); rerr != nil || !changed {
		return nil, err
	}
	plain, _, err = s.get(ctx, id, dst)
	return plain, err
}

func (s *Store) get(ctx context.Context, id ID, dst []byte) ([]byte, *view, error) {
	var room [4]location
	places, v := s.find(id, room[:0])
	if v == nil {
		return nil, nil, errClosed
	}
	if len(places) == 0 {
		return nil, v, fmt.Errorf("object %v: %w", id, blkbak.ErrNotFound)
	}
	var errs error
	for _, l := range places {
		plain, err := s.readAt(ctx, l, id, dst)
		if err == nil {
			return plain, v, nil
		}
		errs = errors.Join(errs, err)
	}
	return nil, v, blkbak.WithHint(errs, "find out what else is damaged with: blkbak check --read-data")
}

// frames lends memory for stored frames.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// readAt reads the object id from where the index says that it lies.
func (s *Store) readAt(ctx context.Context, l location, id ID, dst []byte) ([]byte, error) {
	name := l.pack.name()
	o, err := s.packs.open(ctx, s.backend, name)
	if err != nil {
		return nil, fmt.Errorf("object %v: %w", id, err)
	}
	defer o.done()
	p := frames.Get().(*[]byte)
	defer frames.Put(p)
	if int64(cap(*p)) < l.len {
		*p = make([]byte, l.len) // at most 16 MiB: the index has 24 bits for it
	}
	b := (*p)[:l.len]
	if err := readFull(name, o, b, l.off); err != nil {
		return nil, fmt.Errorf("object %v: %w", id, err)
	}
	e, payload, err := parseFrame(name, l.off, b)
	if err != nil {
		return nil, fmt.Errorf("object %v: %w", id, err)
	}
	e.id = id
	return e.object(name, dst, payload)
}
