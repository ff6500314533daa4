package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// formatVersion of an encoded point.
const formatVersion = 1

// Point is a restore point. Sizes are bytes.
type Point struct {
	ID        blkbak.PointID    `json:"point"`
	Volume    string            `json:"volume"`
	Number    int64             `json:"number"` // in the volume's series, from 1
	Time      time.Time         `json:"time"`   // when the data was as it is here
	Size      int64             `json:"size"`
	ChunkSize int64             `json:"chunk_size"`
	Root      chunkstore.ID     `json:"root"` // of the image tree
	Parent    blkbak.PointID    `json:"parent"`
	Previous  chunkstore.ID     `json:"previous"` // hash of the encoded parent
	Mode      blkbak.Mode       `json:"mode"`
	Source    blkbak.SourceID   `json:"source"`
	Tags      map[string]string `json:"tags"`
	Stats     Stats             `json:"stats"`
	LVM       string            `json:"lvm_metadata,omitempty"` // as vgcfgbackup writes it
	Warnings  []string          `json:"warnings"`
	Program   string            `json:"program"` // name and version of what made it
}

// Stats is what a run did.
type Stats struct {
	Changed       int64   `json:"bytes_changed"` // in chunks that differ from the parent's
	Read          int64   `json:"bytes_read"`    // from the source
	Stored        int64   `json:"bytes_stored"`  // in the repository, tables included
	ChunksNew     int64   `json:"chunks_new"`
	ChunksReused  int64   `json:"chunks_reused"`
	FreezeSeconds float64 `json:"freeze_seconds"`
	Seconds       float64 `json:"seconds"`
}

// encoded is the stored form: the point and the version of the form.
type encoded struct {
	Format int `json:"format"`
	Point
}

// Encode returns the form in which p is committed.
func (p Point) Encode() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("point of %q: %w", p.Volume, err)
	}
	if p.Tags == nil {
		p.Tags = map[string]string{}
	}
	if p.Warnings == nil {
		p.Warnings = []string{}
	}
	return json.Marshal(encoded{formatVersion, p})
}

// Decode reads what Encode wrote. The error matches blkbak.ErrCorrupt.
func Decode(id blkbak.PointID, body []byte) (Point, error) {
	var e encoded
	name := "point " + id.String()
	if err := json.Unmarshal(body, &e); err != nil {
		return Point{}, &blkbak.FormatError{Format: name, Off: -1, Err: err}
	}
	if e.Format != formatVersion {
		return Point{}, blkbak.Corruptf(name, -1, "format %d, this program knows %d", e.Format, formatVersion)
	}
	if e.ID != id {
		return Point{}, blkbak.Corruptf(name, -1, "says that it is point %v", e.ID)
	}
	if err := e.Validate(); err != nil {
		return Point{}, &blkbak.FormatError{Format: name, Off: -1, Err: err}
	}
	return e.Point, nil
}

// Validate checks what other parts rely on.
func (p Point) Validate() error {
	switch {
	case p.ID.IsZero():
		return errors.New("no ID")
	case p.Number < 1:
		return fmt.Errorf("number %d", p.Number)
	case p.Size < 0:
		return fmt.Errorf("size %d", p.Size)
	case p.ChunkSize < 1 || p.ChunkSize > chunkstore.MaxObject || p.ChunkSize&(p.ChunkSize-1) != 0:
		return fmt.Errorf("chunk size %d", p.ChunkSize)
	case p.Root.IsZero():
		return errors.New("no root")
	}
	return CheckVolume(p.Volume)
}

// CheckVolume tells what is wrong with the name of a volume. Names are shown in
// terminals, stand before an "@", and are NBD export names.
func CheckVolume(name string) error {
	switch {
	case name == "" || len(name) > 255:
		return fmt.Errorf("volume name of %d bytes: %w: want 1 to 255", len(name), blkbak.ErrUsage)
	case strings.Contains(name, "@"):
		return fmt.Errorf("volume name %q: %w: no @ allowed", name, blkbak.ErrUsage)
	case strings.HasPrefix(name, "-"):
		return fmt.Errorf("volume name %q: %w: it looks like an option", name, blkbak.ErrUsage)
	}
	for _, r := range name {
		if !unicode.IsGraphic(r) || r == unicode.ReplacementChar {
			return fmt.Errorf("volume name %q: %w: only printable characters allowed", name, blkbak.ErrUsage)
		}
	}
	return nil
}

// ParseTag splits K=V.
func ParseTag(s string) (key, value string, err error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return "", "", blkbak.WithHint(fmt.Errorf("tag %q: %w", s, blkbak.ErrUsage), "write tags as KEY=VALUE")
	}
	return key, value, nil
}
