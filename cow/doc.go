// Package cow reads and writes the exception store of a classic device-mapper
// snapshot: the copy-on-write device on which the kernel lists the chunks of the
// origin that were written since the snapshot was made. The list is a change map
// that costs nothing to keep, which makes it the source of every increment.
//
// The package reads bytes from an [io.ReaderAt] and parses text that dmsetup(8)
// prints. It runs no commands, opens no devices, and knows nothing of LVM.
//
// # Format
//
// Little endian, in chunks of a power of two of 512-byte sectors. With E = chunk
// bytes / 16 entries an area, an area and its data repeat every E+1 chunks:
//
//	chunk  0      1      2 ... E+1   E+2    E+3 ... 2E+2   2E+3
//	     ┌──────┬──────┬───────────┬──────┬──────────────┬──────┬─
//	     │header│area 0│ E × data  │area 1│ E × data     │area 2│ ...
//	     └──────┴──────┴───────────┴──────┴──────────────┴──────┴─
//	header  magic "SnAp", valid, version, chunk size in sectors   (4 × u32)
//	entry   old chunk in the origin, new chunk on this device     (2 × u64)
//
// The table ends at the first entry whose new chunk is 0. Whatever follows may be
// the plausible remains of an older store. docs/format/exception-store.md has the
// whole of it.
//
// # Reading a live store
//
// The kernel zeroes area a+1 before it completes area a, and commits an entry
// before the origin's write goes ahead. So a table can be read while it grows:
// what is read holds everything committed when reading began. The one condition
// is that an area be read after the one before it was seen full, or was known to
// be in use. [Read] reads areas in parallel all the same: those that
// [Options.Areas] vouches for at once, others on a guess that a second reading
// confirms. The caller's reader must not go through the page cache, which the
// kernel's commits bypass: open the device with O_DIRECT. All reads here are
// aligned for it, in offset, length and memory.
//
// # Trust
//
// A table that breaks a rule is refused with a [blkbak.FormatError] that names
// the byte offset of the entry. A store that is invalid, has no header, or turns
// invalid during the reading says nothing about later changes: the error matches
// [blkbak.ErrNeedsFull]. A merge is not visible in the store: ask dmsetup and
// [ParseTargets].
//
// Memory is one bit for each chunk of the origin, in groups of 1024 chunks that
// the table names one of; the same for new chunks that come out of order; four
// bytes for each group up to the last one named, at most 64 MiB; and a buffer of
// at most 128 KiB for each read in flight. Nothing is sized by an unchecked number.
//
// A [Store] is immutable and safe for concurrent use.
package cow
