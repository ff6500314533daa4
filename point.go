package blkbak

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"
)

// PointID names a restore point, and the writing session that made it. It is
// random and never used twice. Its text form is 16 hex digits.
type PointID [8]byte

// NewPointID draws a new identifier from the system's random source.
func NewPointID() PointID {
	var id PointID
	rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	return id
}

func (id PointID) String() string { return hex.EncodeToString(id[:]) }

// IsZero tells whether id names nothing.
func (id PointID) IsZero() bool { return id == PointID{} }

// MarshalText writes the 16 hex digits; the zero identifier is empty text.
func (id PointID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return nil, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (id *PointID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = PointID{}
		return nil
	}
	p, err := ParsePointID(string(b))
	if err != nil {
		return err
	}
	*id = p
	return nil
}

// ParsePointID reads the text form, 16 lower-case hex digits.
func ParsePointID(s string) (PointID, error) {
	var id PointID
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("point ID %q: want %d hex digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return PointID{}, fmt.Errorf("point ID %q: want lower-case hex digits", s)
	}
	return id, nil
}

// SourceID says what a restore point was read from, well enough to know the
// same source again under another name.
type SourceID struct {
	Kind string `json:"kind"` // "lvm", "device", "file"
	Host string `json:"host,omitempty"`
	Path string `json:"path"` // as the user would name it: "vg/data", "/srv/disk.img"
	// LVM only: the identity behind the names.
	VGUUID string `json:"vg_uuid,omitempty"`
	LVUUID string `json:"lv_uuid,omitempty"`
	// The snapshot that the bytes were read from. It is the base of the next
	// increment for as long as it exists and stays valid.
	SnapshotUUID string `json:"snapshot_uuid,omitempty"`
	// The filesystem on the volume, where one is recognised.
	FSType string `json:"fs_type,omitempty"`
	FSUUID string `json:"fs_uuid,omitempty"`
}

// Mode says how a run found out what to store.
type Mode string

// The modes of a run, as commands print them.
const (
	ModeFull Mode = "full"    // everything was read, there was no earlier point
	ModeScan Mode = "scan"    // everything was read and compared by hash
	ModeCOW  Mode = "lvm-cow" // a classic snapshot's exception table
)

// Time is the form in which times are kept and printed: UTC, RFC 3339.
func Time(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
