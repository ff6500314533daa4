// Package nbdserver serves disk images over NBD, the network block device
// protocol, to anything that speaks it: the Linux kernel, qemu, libnbd's tools.
//
// What it does: the fixed newstyle handshake (EXPORT_NAME, ABORT, LIST, INFO, GO,
// STRUCTURED_REPLY and metadata contexts), then READ, FLUSH and BLOCK_STATUS on
// read-only exports, with simple or structured replies, holes and base:allocation,
// over unix sockets and TCP, for any number of connections to an export.
//
// What it does not: writing, TLS, extended headers. It refuses them the way the
// protocol says. It knows nothing of where images come from: an Exports opens them
// and an Image is little more than an io.ReaderAt.
//
// The wire belongs to this package; docs/adr/0003 says why. The way of a request:
//
//	client ──► reader, one per connection: decode, check
//	             │ wrong        ──► error reply ┐
//	             │ in memory    ──► Image.Pin   ├─► one batch ─► one writev ─► client
//	             │ image quick  ──► ReadAt      ┘                    ▲
//	             └ image slow   ──► goroutine: ReadAt ─► own batch ──┘ (one at a time)
//
// Invariants:
//   - A reply is sent only when all of its data is in memory, so a read that fails
//     costs that request an EIO and never the connection or a wrong byte.
//   - Replies hold at most 256 KiB a connection plus Options.Memory in all. At its
//     limit a connection is not read from, so only its own client waits; a client
//     that takes nothing while others need its memory is disconnected.
//   - No length from a client sizes an allocation before it was checked.
//   - After a refused option or request, the next one is read from where it starts.
//   - When the server stops, outstanding requests are answered, new ones get
//     ESHUTDOWN, and Serve returns after the last goroutine it started.
//
// Server is safe for concurrent use. Exports and Image must be as well.
package nbdserver
