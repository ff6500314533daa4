package cow_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
)

// Write a store and read it. The store of a live snapshot is read alike, from its
// device, opened for direct I/O.
func Example() {
	ctx := context.Background()
	f, err := os.CreateTemp("", "cow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()

	snapshot, err := os.CreateTemp("", "snapshot")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(snapshot.Name())
	defer snapshot.Close()
	if err := snapshot.Truncate(1 << 20); err != nil {
		log.Fatal(err)
	}

	size, err := cow.Write(ctx, f, snapshot, []blkbak.Extent{{Off: 8192, Len: 100}, {Off: 65536, Len: 5000}},
		cow.WriteOptions{OriginSize: 1 << 20})
	if err != nil {
		log.Fatal(err)
	}
	s, err := cow.Read(ctx, f, size, cow.Options{OriginSize: 1 << 20})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Exceptions, "exceptions:", s.Extents())
	// Output: 3 exceptions: [8192+4096 65536+8192]
}
