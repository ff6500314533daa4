// Package bench makes the workloads that blkbak is measured with, the same from
// the same seed, and benchmarks the engine on them.
//
//   - [Tree] is a directory of files such as filesystems hold: text, programs,
//     database files, media, copies, and room that is allocated and unused.
//     mke2fs -d turns it into an image without being root.
//   - [Day] chooses what a day changes of an image: pages updated in place, logs
//     appended to, files replaced. [Apply] changes it, and [WriteCOW] makes the
//     exception store that a device-mapper snapshot taken before would have then.
//   - [Scattered] places few chunks on a device of any size, for what has to cost
//     no more on a large device than on a small one.
//
// The content is made up. Its shares and its clustering follow images of real
// machines, and it compresses about as they do; nothing of it is random that a
// deduplicating or compressing program would profit from or trip over. Days
// change blocks below the filesystem, which no longer is consistent then: the
// images are for programs that look at bytes.
//
// The package starts no processes and keeps no state. Functions may be called
// concurrently for different files. What was measured is in RESULTS.md, and
// peers.sh measures other programs beside blkbak.
package bench
