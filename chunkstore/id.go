package chunkstore

import (
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/zeebo/blake3"
)

// ID names an object: the BLAKE3 hash of its plaintext. The zero ID names any
// run of zero bytes, which is never stored.
type ID [32]byte

// Sum returns the name of plain. It does not look for zeros: whoever may hold
// zeros asks first.
func Sum(plain []byte) ID { return blake3.Sum256(plain) }

// IsZero tells whether id is the name of zeros.
func (id ID) IsZero() bool { return id == ID{} }

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes 64 hex digits.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads 64 hex digits.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(id) {
		return fmt.Errorf("object name %q: want %d hex digits", b, 2*len(id))
	}
	if _, err := hex.Decode(id[:], b); err != nil {
		return fmt.Errorf("object name %q: %w", b, err)
	}
	return nil
}

// Kind tells what an object is for. The kinds are kept in packs of their own, so
// that walking trees does not read past data.
type Kind uint8

// The kinds of objects.
const (
	KindData Kind = 1 // a chunk of a device
	KindNode Kind = 2 // a node of an image tree
)

// sumAll is the hash of the pieces, one after the other.
func sumAll(pieces ...[]byte) (sum ID) {
	h := newHash()
	for _, p := range pieces {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// newHash returns the hash that names are made with, for long inputs.
func newHash() hash.Hash { return blake3.New() }
