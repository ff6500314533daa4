// Package blkbak holds the nouns that every part of blkbak shares: extents of a
// device, the identity of a restore point and of its source, and the vocabulary
// of errors that commands turn into exit codes.
//
// blkbak is a block-level incremental imaging engine. It reads what changed on
// a volume from the copy-on-write metadata that the kernel keeps anyway, stores
// the changed chunks in a content-addressed repository, and serves every
// restore point as a complete disk over NBD. The parts live in the packages
// below this one; docs/design.md in the repository says how they fit.
//
// Offsets and lengths are int64 bytes everywhere. Nothing in this package does
// I/O, and all of it is safe for concurrent use unless a comment says otherwise.
package blkbak
