package nbdserver_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/blkbak/blkbak/nbdserver"
)

// A server with one export, on a port of the loopback address that is free.
func Example() {
	text := strings.NewReader("a disk, as far as anyone can tell")
	srv, err := nbdserver.New(nbdserver.Options{Exports: nbdserver.Fixed{{
		Info:  nbdserver.Info{Name: "demo"},
		Size:  text.Size(),
		Image: text,
	}}})
	if err != nil {
		log.Fatal(err)
	}
	l, err := nbdserver.Listen("tcp:0")
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- srv.Serve(ctx, l) }()

	// nbdcopy "$URI" - would print the text now.
	uri := nbdserver.URI(l.Addr(), "demo")
	fmt.Println(uri[:len("nbd://127.0.0.1:")])

	stop()
	fmt.Println(<-done)
	// Output:
	// nbd://127.0.0.1:
	// <nil>
}
