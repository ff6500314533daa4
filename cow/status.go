package cow

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/blkbak/blkbak"
)

// Kinds of target that have to do with snapshots, as device-mapper names them.
const (
	TargetSnapshot = "snapshot"        // a snapshot: origin and store
	TargetOrigin   = "snapshot-origin" // the origin of snapshots
	TargetMerge    = "snapshot-merge"  // an origin into which a snapshot is being merged
)

// Target is a line that `dmsetup table` or `dmsetup status` prints.
type Target struct {
	Name   string // the device, "" where dmsetup was asked about one
	Start  int64  // bytes
	Length int64  // bytes
	Kind   string
	Args   []string // what follows the kind, apart
}

// ParseTargets takes apart the lines of `dmsetup table` or `dmsetup status`, with
// or without device names in front. Lines that say there is nothing are skipped.
func ParseTargets(text string) ([]Target, error) {
	var out []Target
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		// With names, a device that has no table prints its name alone.
		if line == "" || line == "No devices found" || strings.HasSuffix(line, ":") && !strings.Contains(line, " ") {
			continue
		}
		t, err := parseTarget(line)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func parseTarget(line string) (Target, error) {
	var t Target
	rest := line
	if name, after, ok := strings.Cut(line, ": "); ok {
		t.Name, rest = name, after
	}
	f := strings.Fields(rest)
	if len(f) < 3 {
		return t, fmt.Errorf("device-mapper line %q: want start, length and target", line)
	}
	var err error
	if t.Start, err = parseSectors(f[0]); err == nil {
		t.Length, err = parseSectors(f[1])
	}
	if err != nil {
		return t, fmt.Errorf("device-mapper line %q: %w", line, err)
	}
	t.Kind, t.Args = f[2], f[3:]
	return t, nil
}

// parseSectors reads a number of sectors and returns bytes.
func parseSectors(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63-9) // so that the bytes fit an int64
	return int64(n) * sector, err
}

// Table is what `dmsetup table` says about a snapshot, an origin or a merge.
type Table struct {
	Target
	Origin     string   // the device beneath, "253:1"
	COW        string   // the store's device; "" for a snapshot-origin
	Persistent bool     // P or PO: the store is on disk. N keeps its table in memory
	Overflow   bool     // PO: a full store shows as Overflow and stays valid
	ChunkSize  int64    // bytes, as the kernel has it in use
	Features   []string // "discard_zeroes_cow", ...
}

// Table reads t as a line of `dmsetup table`. A target of another kind is an error
// that matches blkbak.ErrUsage.
func (t Target) Table() (Table, error) {
	tab := Table{Target: t}
	bad := func(what string) (Table, error) {
		return Table{}, fmt.Errorf("table of %s target %q: %s", t.Kind, strings.Join(t.Args, " "), what)
	}
	switch {
	case t.Kind == TargetOrigin && len(t.Args) == 1:
		tab.Origin = t.Args[0]
		return tab, nil
	case t.Kind == TargetOrigin:
		return bad("want the origin")
	case t.Kind != TargetSnapshot && t.Kind != TargetMerge:
		return Table{}, fmt.Errorf("%w: a %s target is no snapshot", blkbak.ErrUsage, t.Kind)
	case len(t.Args) < 4:
		return bad("want origin, store, type and chunk size")
	}
	tab.Origin, tab.COW = t.Args[0], t.Args[1]
	switch t.Args[2] {
	case "P":
		tab.Persistent = true
	case "PO":
		tab.Persistent, tab.Overflow = true, true
	case "N":
	default:
		return bad("the type is none of P, PO, N")
	}
	var err error
	if tab.ChunkSize, err = parseSectors(t.Args[3]); err != nil {
		return bad(err.Error())
	}
	if f := t.Args[4:]; len(f) > 0 {
		if n, err := strconv.Atoi(f[0]); err != nil || n != len(f)-1 {
			return bad("the number of features is wrong")
		}
		tab.Features = f[1:]
	}
	return tab, nil
}

// State is what `dmsetup status` says about the health of a snapshot.
type State string

// The states. Only in StateActive does the table hold every change; with
// StateOverflow (store type PO) it does too, but a write to the snapshot was lost.
const (
	StateActive      State = "active"
	StateInvalid     State = "invalid"
	StateOverflow    State = "overflow"
	StateMergeFailed State = "merge failed"
	StateUnknown     State = "unknown"
)

// Status is what `dmsetup status` says about a snapshot or a merge. The numbers are
// bytes, and zero unless the state is active.
type Status struct {
	Target
	State     State
	Allocated int64 // of the store's device, metadata included
	Total     int64 // the store's device
	Metadata  int64 // header and areas in use; 0 for a transient store
}

// Status reads t as a line of `dmsetup status`. A target of another kind is an
// error that matches blkbak.ErrUsage; a snapshot-origin has no status to read.
func (t Target) Status() (Status, error) {
	st := Status{Target: t, State: StateActive}
	if t.Kind != TargetSnapshot && t.Kind != TargetMerge {
		return Status{}, fmt.Errorf("%w: a %s target is no snapshot", blkbak.ErrUsage, t.Kind)
	}
	words := strings.Join(t.Args, " ")
	switch words {
	case "Invalid":
		st.State = StateInvalid
		return st, nil
	case "Overflow":
		st.State = StateOverflow
		return st, nil
	case "Merge failed":
		st.State = StateMergeFailed
		return st, nil
	case "Unknown":
		st.State = StateUnknown
		return st, nil
	}
	bad := fmt.Errorf("status of %s target %q: want allocated/total and metadata sectors", t.Kind, words)
	if len(t.Args) < 1 || len(t.Args) > 2 {
		return Status{}, bad
	}
	allocated, total, _ := strings.Cut(t.Args[0], "/")
	fields := []struct {
		text string
		to   *int64
	}{{allocated, &st.Allocated}, {total, &st.Total}, {"0", &st.Metadata}}
	if len(t.Args) == 2 {
		fields[2].text = t.Args[1]
	}
	for _, f := range fields {
		n, err := parseSectors(f.text)
		if err != nil {
			return Status{}, fmt.Errorf("%w: %w", bad, err)
		}
		*f.to = n
	}
	return st, nil
}

// Areas is the number of metadata areas in use, for Options.Areas: all of the
// metadata but the header's chunk. 0 when there are none.
func (s Status) Areas(chunkSize int64) int64 {
	if chunkSize <= 0 {
		return 0
	}
	return max(0, s.Metadata/chunkSize-1)
}

// Usable tells whether the store behind a snapshot with this status can be the
// base of an increment. If not, the error says why and matches blkbak.ErrNeedsFull.
func (s Status) Usable() error {
	switch {
	case s.Kind == TargetMerge:
		return fmt.Errorf("snapshot is being merged into its origin: %w", blkbak.ErrNeedsFull)
	case s.State == StateActive && s.Metadata > 0:
		return nil
	case s.State == StateActive:
		return fmt.Errorf("snapshot keeps no table on disk: %w", blkbak.ErrNeedsFull)
	}
	return fmt.Errorf("snapshot is in state %q: %w", string(s.State), blkbak.ErrNeedsFull)
}
