package chunkstore

import (
	"runtime/debug"

	"github.com/blkbak/blkbak"
)

// guarded calls f, which reads from a mapped file. When the system cannot bring
// a page of it into memory, because the medium is bad or the file became shorter,
// it raises a signal of which a process dies. Here that is an error about the
// file name.
func guarded(name string, f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface {
			error
			Addr() uintptr
		})
		if !ok {
			panic(r)
		}
		err = &blkbak.FormatError{Format: name, Off: -1, Msg: "cannot be read", Err: fault}
	}()
	f()
	return nil
}
