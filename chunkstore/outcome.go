package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/blkbak/blkbak"
)

// Outcome is how a session ended. Its file is written once, by whoever is first:
// the session, to commit, or someone who found the session dead, to revoke it.
type Outcome struct {
	Session   blkbak.PointID
	Committed bool
	Body      []byte // what Commit was given
	Err       error  // the file cannot be read; nothing else above but Session counts
}

func outcomeName(id blkbak.PointID) string { return "points/" + id.String() }

// Outcome reads how the session id ended. If it did not end, or never was, the
// error matches blkbak.ErrNotFound.
func (s *Store) Outcome(ctx context.Context, id blkbak.PointID) (Outcome, error) {
	o := readOutcome(ctx, s.backend, id)
	return o, o.Err
}

// Outcomes reads all of them, in no order. A file that cannot be read does not
// hide the others: it is listed with its error.
func (s *Store) Outcomes(ctx context.Context) ([]Outcome, error) {
	return readOutcomes(ctx, s.backend)
}

func readOutcomes(ctx context.Context, b Backend) ([]Outcome, error) {
	files, err := b.List(ctx, "points")
	if err != nil {
		return nil, err
	}
	var list []Outcome
	for _, f := range files {
		id, err := blkbak.ParsePointID(strings.TrimPrefix(f.Name, "points/"))
		if err != nil {
			continue // not ours: check names it
		}
		o := readOutcome(ctx, b, id)
		if errors.Is(o.Err, blkbak.ErrNotFound) {
			continue // removed since the listing
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, nil
}

func readOutcome(ctx context.Context, b Backend, id blkbak.PointID) Outcome {
	o := Outcome{Session: id}
	name := outcomeName(id)
	raw, err := readAll(ctx, b, name, sealMax)
	if err != nil {
		o.Err = fmt.Errorf("point %v: %w", id, err)
		return o
	}
	what, body, err := unseal(name, raw)
	switch {
	case err != nil:
		o.Err = err
	case what == sealCommit:
		o.Committed, o.Body = true, body
	case what != sealRevoked:
		o.Err = blkbak.Corruptf(name, 10, "not the outcome of a session")
	}
	return o
}
