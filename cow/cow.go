package cow

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"math"

	"github.com/blkbak/blkbak"
)

// Options are how a store is read. The zero value reads any store.
type Options struct {
	// OriginSize is the origin's size in bytes. It bounds the old chunks, and
	// extents are cut to it. 0: not known.
	OriginSize int64
	// Areas is the number of metadata areas in use, as Status.Areas has it from a
	// live device: these are read at once. It is a promise made before reading,
	// not a limit: a table that goes on behind is read on. 0: not known.
	Areas int64
	// Workers is the number of reads in flight at most. 0: DefaultWorkers.
	Workers int
	// Inspect reads the table of a store that is marked invalid as well, for
	// people to look at. Such a table lacks changes: never base an increment on it.
	Inspect bool
}

// DefaultWorkers keeps a solid-state disk's queue filled; MaxWorkers is the most.
const (
	DefaultWorkers = 16
	MaxWorkers     = 1024
)

// maxOrigin leaves room to round up to a chunk.
const maxOrigin = math.MaxInt64 - MaxChunk

func (o *Options) complete() error {
	var errs []error
	bad := func(name string, v int64) {
		errs = append(errs, fmt.Errorf("%w: %s %d", blkbak.ErrUsage, name, v))
	}
	if o.OriginSize < 0 || o.OriginSize > maxOrigin {
		bad("origin size", o.OriginSize)
	}
	if o.Areas < 0 {
		bad("areas", o.Areas)
	}
	if o.Workers < 0 || o.Workers > MaxWorkers {
		bad("workers", int64(o.Workers))
	}
	if o.Workers == 0 {
		o.Workers = DefaultWorkers
	}
	return errors.Join(errs...)
}

// Store is an exception store's table as it was when Read read it.
type Store struct {
	Header     Header
	Exceptions int64 // entries in the table
	Areas      int64 // metadata areas that the table takes, the last one partly filled or empty

	r          io.ReaderAt
	layout     layout
	originSize int64
	workers    int
	olds       set
}

// Read reads the table of the store in r, a device or file of size bytes. See
// the package comment for what r must be when the kernel is at work on it, and
// for the errors. Read keeps r for the Store's later reads.
func Read(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*Store, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	h, err := ReadHeader(r, size)
	if err != nil {
		return nil, err
	}
	check := Header.Validate
	if opts.Inspect {
		check = Header.validateShape
	}
	if err := check(h); err != nil {
		return nil, err
	}
	s := &Store{Header: h, r: r, layout: newLayout(h.ChunkSize(), size),
		originSize: opts.OriginSize, workers: opts.Workers}
	tableErr := s.readTable(ctx, opts.Areas)
	if tableErr != nil && ctx.Err() != nil {
		return nil, tableErr
	}
	// A store that was dropped meanwhile may lack what was changed since, and what
	// is wrong with its table no longer matters.
	after, err := ReadHeader(r, size)
	if err != nil {
		return nil, errors.Join(tableErr, err)
	}
	if opts.Inspect {
		s.Header.Valid = after.Valid
	}
	if after != s.Header {
		return nil, fmt.Errorf("%s: header changed while the table was read, valid from %d to %d: %w",
			formatName, h.Valid, after.Valid, blkbak.ErrNeedsFull)
	}
	if tableErr != nil {
		return nil, tableErr
	}
	return s, nil
}

// readTable fills s from the table, of which areas are in use for certain.
func (s *Store) readTable(ctx context.Context, areas int64) error {
	areas = min(max(areas, 1), s.layout.areas)
	stale, err := s.walk(ctx, areas, true)
	if stale > 0 {
		// The table grew into areas that had been read already. All up to the one
		// where that showed are in use now; from there go one by one.
		_, err = s.walk(ctx, stale+1, false)
	}
	return err
}

// guess is a piece that was read before its area was known to be in use.
type guess struct {
	piece int64
	bytes int    // what was used of it
	sum   uint64 // hash of that
}

// walk reads the table from its start. Pieces of the first areas can be read at
// any time, and so can those of the area whose turn it is, all before it being
// full. With guessing, others are asked for as far ahead as the table has turned
// out to be long, and read again in the end. A difference means that the kernel
// began to use that area in between: walk then returns its number, above 0.
func (s *Store) walk(ctx context.Context, areas int64, guessing bool) (stale int64, err error) {
	l := s.layout
	perArea := l.perArea()
	inUse := areas * perArea
	certain := func(next int64) int64 { return max(inUse, (next/perArea+1)*perArea) }
	limit := func(next int64) int64 {
		end := certain(next)
		if guessing {
			end += max(0, next-inUse)
		}
		return min(end, l.pieces())
	}
	var (
		d       = newDecoder(l, s.originSize)
		f       = fetcher{r: s.r, piece: l.piece, workers: s.workers}
		guesses []guess
		ended   bool
		seed    = maphash.MakeSeed()
		last    int64
	)
	at := func(i int64) int64 { return l.metaOffset(i * l.piece) }
	err = f.fetch(ctx, at, limit, func(i, asked int64, buf []byte) (bool, error) {
		n, err := d.decode(buf, at(i))
		used := n * entrySize
		if err != nil {
			used = len(buf)
		}
		if i >= certain(asked) {
			guesses = append(guesses, guess{i, used, maphash.Bytes(seed, buf[:used])})
		}
		ended, last = used < len(buf), i
		return !ended, err
	})
	if len(guesses) > 0 && ctx.Err() == nil {
		again := func(i int64) int64 { return at(guesses[i].piece) }
		all := func(int64) int64 { return int64(len(guesses)) }
		err2 := f.fetch(ctx, again, all, func(i, _ int64, buf []byte) (bool, error) {
			g := guesses[i]
			if maphash.Bytes(seed, buf[:g.bytes]) != g.sum {
				stale = g.piece / perArea
			}
			return stale == 0, nil
		})
		if stale > 0 || err == nil {
			err = err2
		}
	}
	if err == nil && !ended && stale == 0 {
		end := l.metaOffset(l.areas * l.chunk)
		err = blkbak.Corruptf(formatName, end, "the device of %d chunks ends where area %d of the table must be", l.chunks, l.areas)
	}
	s.olds, s.Exceptions, s.Areas = d.olds, d.entries, last/perArea+1
	return stale, err
}

// Extents returns what was written of the origin since the snapshot was made:
// sorted, disjoint, not adjacent, cut to the origin's size if that is known. A
// table of scattered chunks makes a long list: All needs no memory.
func (s *Store) Extents() []blkbak.Extent {
	var out []blkbak.Extent
	for e := range s.All() {
		out = append(out, e)
	}
	return out
}

// All yields what Extents returns.
func (s *Store) All() iter.Seq[blkbak.Extent] {
	end := int64(math.MaxInt64)
	if s.originSize > 0 {
		end = s.originSize
	}
	return func(yield func(blkbak.Extent) bool) {
		s.olds.runs(func(start, n uint64) bool {
			off := int64(start) * s.layout.chunk
			return yield(blkbak.Extent{Off: off, Len: min(int64(n)*s.layout.chunk, end-off)})
		})
	}
}
