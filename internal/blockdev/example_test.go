package blockdev_test

import (
	"fmt"
	"io"
	"log"
	"os"

	"github.com/blkbak/blkbak/internal/blockdev"
)

// The data of an image, without its holes.
func ExampleDevice_NextData() {
	f, err := os.CreateTemp("", "image")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	f.Close()
	d, err := blockdev.Open(f.Name(), blockdev.Options{Write: true})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	if err := d.Truncate(1 << 30); err != nil {
		log.Fatal(err)
	}
	if _, err := d.WriteAt(make([]byte, 1<<20), 512<<20); err != nil {
		log.Fatal(err)
	}
	var seen, total int64
	for off := int64(0); ; {
		data, hole, err := d.NextData(off)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		seen, off = seen+hole-data, hole
	}
	total = d.Size()
	fmt.Println(seen >= 1<<20 && seen <= total, total)
	// Output: true 1073741824
}
