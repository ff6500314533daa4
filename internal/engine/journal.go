package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// journal says what a base snapshot stands for until a point says it: the volume
// as it was when Base was made is the point Parent, changed in Extents at most.
// It exists from the moment an older base was read to its end until the point
// that is made of the new one is committed.
type journal struct {
	Origin  string          `json:"origin"`      // UUID of the logical volume
	Size    int64           `json:"origin_size"` // bytes
	Base    string          `json:"base"`        // UUID of the snapshot
	Parent  blkbak.PointID  `json:"parent"`
	Extents []blkbak.Extent `json:"-"`
	Pairs   [][2]int64      `json:"extents"`
}

// The file is one line of JSON and one with its hash: what cannot be trusted
// whole is not used at all.

func journalPath(state string) string { return filepath.Join(state, "journal") }

func (e *Engine) writeJournal(state string, j journal) error {
	j.Pairs = make([][2]int64, len(j.Extents))
	for i, x := range j.Extents {
		j.Pairs[i] = [2]int64{x.Off, x.Len}
	}
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return e.replace(journalPath(state), 0o600, b, fmt.Appendf(nil, "\n%v\n", chunkstore.Sum(b)))
}

// readJournal returns the journal, or ok false when there is none. A damaged one
// is an error; the caller goes on without it and says so.
func readJournal(state string) (j journal, ok bool, err error) {
	b, err := os.ReadFile(journalPath(state))
	if errors.Is(err, fs.ErrNotExist) {
		return j, false, nil
	}
	if err != nil {
		return j, false, err
	}
	text, sum, _ := bytes.Cut(b, []byte("\n"))
	if string(bytes.TrimSuffix(sum, []byte("\n"))) != chunkstore.Sum(text).String() {
		return j, false, blkbak.Corruptf("journal "+journalPath(state), -1, "checksum does not match")
	}
	if err := json.Unmarshal(text, &j); err != nil {
		return j, false, &blkbak.FormatError{Format: "journal " + journalPath(state), Off: -1, Err: err}
	}
	for _, p := range j.Pairs {
		j.Extents = append(j.Extents, blkbak.Extent{Off: p[0], Len: p[1]})
	}
	return j, true, nil
}

func (e *Engine) removeJournal(state string) error { return e.remove(journalPath(state)) }
