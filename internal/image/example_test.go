package image_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/image"
)

// mapStore is about the least that can store an image.
type mapStore map[chunkstore.ID][]byte

func (s mapStore) Get(_ context.Context, id chunkstore.ID, dst []byte) ([]byte, error) {
	plain, ok := s[id]
	if !ok {
		return nil, blkbak.ErrNotFound
	}
	return append(dst, plain...), nil
}

func (s mapStore) Put(_ context.Context, _ chunkstore.Kind, plain []byte) (chunkstore.ID, error) {
	id := chunkstore.Sum(plain)
	s[id] = bytes.Clone(plain)
	return id, nil
}

// Two points of a disk of 1 TiB, the second one a change of the first.
func Example() {
	ctx := context.Background()
	store := mapStore{}
	const size, chunk = 1 << 40, 64 << 10

	point := func(parent chunkstore.ID, i int64, text string) chunkstore.ID {
		b, err := image.NewBuilder(ctx, store, store, size, chunk, parent)
		if err != nil {
			panic(err)
		}
		plain := make([]byte, chunk)
		copy(plain, text)
		id, _ := store.Put(ctx, chunkstore.KindData, plain)
		if err := b.Set(i, id); err != nil {
			panic(err)
		}
		root, stats, err := b.Finish()
		if err != nil {
			panic(err)
		}
		fmt.Println("nodes written:", stats.NodesWritten)
		return root
	}
	monday := point(chunkstore.ID{}, 0, "boot sector")
	tuesday := point(monday, 9_000_000, "a file")

	for e, err := range image.Diff(ctx, store, monday, tuesday) {
		fmt.Println("changed:", e, err)
	}
	im, err := image.Open(ctx, store, tuesday, nil)
	if err != nil {
		panic(err)
	}
	p := make([]byte, 6)
	if _, err := im.ReadAt(p, 9_000_000*chunk); err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", p)
	for run, err := range im.Extents(ctx, 0, size) {
		fmt.Println(run.Extent, run.Zero, err)
	}
	// Output:
	// nodes written: 4
	// nodes written: 4
	// changed: 589824000000+65536 <nil>
	// a file
	// 0+65536 false <nil>
	// 65536+589823934464 true <nil>
	// 589824000000+65536 false <nil>
	// 589824065536+509687562240 true <nil>
}
