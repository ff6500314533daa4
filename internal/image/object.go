package image

import (
	"context"
	"fmt"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// Getter reads objects. It is safe for concurrent use.
type Getter interface {
	// Get returns the plaintext of object id, verified against its name. The
	// result uses the memory of dst, whose length is 0 here, when its capacity
	// suffices, and belongs to the caller in any case. Errors match
	// blkbak.ErrNotFound or blkbak.ErrCorrupt where that is what happened.
	Get(ctx context.Context, id chunkstore.ID, dst []byte) ([]byte, error)
}

// Putter stores objects.
type Putter interface {
	// Put stores plain unless it is there already, and returns its name. It
	// does not keep plain.
	Put(ctx context.Context, kind chunkstore.Kind, plain []byte) (chunkstore.ID, error)
}

// Replacer is a Putter that can store an object as its difference from the one
// that it takes the place of. A Builder uses it where its Putter has it.
type Replacer interface {
	// Replace is Put of plain, with the name and the plaintext of the object
	// that was in its place in the parent's tree. It keeps neither slice.
	Replace(ctx context.Context, kind chunkstore.Kind, plain []byte, old chunkstore.ID, oldPlain []byte) (chunkstore.ID, error)
}

// ObjectError says which object of an image could not be had, or is not what
// its place needs, and which bytes of the device depend on it.
type ObjectError struct {
	Extent blkbak.Extent // of the device
	Kind   chunkstore.Kind
	ID     chunkstore.ID
	Err    error
}

func (e *ObjectError) Error() string {
	what := "chunk"
	if e.Kind == chunkstore.KindNode {
		what = "tree node"
	}
	return fmt.Sprintf("device bytes %v, %s %v: %v", e.Extent, what, e.ID, e.Err)
}

func (e *ObjectError) Unwrap() error { return e.Err }

func nodeError(e blkbak.Extent, id chunkstore.ID, err error) error {
	return &ObjectError{e, chunkstore.KindNode, id, err}
}

func chunkError(e blkbak.Extent, id chunkstore.ID, err error) error {
	return &ObjectError{e, chunkstore.KindData, id, err}
}

// checkChunk checks the length of a chunk's plaintext.
func checkChunk(e blkbak.Extent, id chunkstore.ID, plain []byte) error {
	if int64(len(plain)) != e.Len {
		return chunkError(e, id, blkbak.Corruptf("chunk", -1, "%d bytes, its place in the image wants %d", len(plain), e.Len))
	}
	return nil
}

// loadTop reads the top node named root.
func loadTop(ctx context.Context, get Getter, root chunkstore.ID) ([]byte, geometry, error) {
	if root.IsZero() {
		return nil, geometry{}, fmt.Errorf("image root is the zero name: %w", blkbak.ErrUsage)
	}
	raw, err := get.Get(ctx, root, make([]byte, 0, headerSize+nameSize*fanout))
	if err != nil {
		return nil, geometry{}, fmt.Errorf("image root %v: %w", root, err)
	}
	g, err := parseTop(raw)
	if err != nil {
		return nil, geometry{}, fmt.Errorf("image root %v: %w", root, err)
	}
	return raw, g, nil
}

// loadInner reads node id, which is below the top and spans e, into dst's memory.
func loadInner(ctx context.Context, get Getter, id chunkstore.ID, e blkbak.Extent, want shape, dst []byte) ([]byte, error) {
	raw, err := get.Get(ctx, id, dst[:0])
	if err == nil {
		err = checkInner(raw, want)
	}
	if err != nil {
		return nil, nodeError(e, id, err)
	}
	return raw, nil
}
