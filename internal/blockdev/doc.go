// Package blockdev gives block devices and image files one shape: bytes at
// offsets, a size, and an identity that does not depend on the name used.
//
// A [Device] reads and writes, past the page cache if asked to; walks the data
// runs of a sparse file; turns ranges into zeros as cheaply as the kernel can;
// and is recognised under any of its names. Beside it stand the questions asked
// before a device is touched: [InUse] and [Mounts] say who uses it, [Probe] says
// what is on it.
//
// The package starts no processes and changes nothing but the bytes it is told
// to. Regular files work on every platform; what only Linux can do returns
// errors.ErrUnsupported elsewhere.
//
// # Reading past the page cache
//
// The kernel writes some devices below their page cache: a snapshot's exception
// store is one. A buffered read of such a device may return what an earlier read
// left in the cache. [Options].Direct opens with O_DIRECT. A request whose
// offset, length and memory are multiples of [Device.LogicalBlock] then goes
// straight to the device; take the memory from [AlignedBuffer]. Any other
// request is correct but slower: reads go through a pooled aligned buffer, and
// the unaligned edges of writes through a second, buffered descriptor of the
// same file. The short tail of a file whose size is not a multiple of the block
// needs no care by the caller.
//
// # Concurrency
//
// A Device is safe for concurrent use, except that nothing may run beside
// Truncate and Close. The functions keep no state.
package blockdev
