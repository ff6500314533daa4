// Package chunkstore keeps immutable objects under the BLAKE3 hash of what they
// hold, compressed, in pack files, so that equal bytes are stored once.
//
// A repository is a set of write-once files in a [Backend]:
//
//	config           what the repository is, sealed
//	sess/ID          a writing session is, or was, at work
//	packs/ID-N       objects, with a table of themselves at the end
//	idx/ID-N         a sorted index segment over packs
//	points/ID        the outcome of session ID: committed with a body, or revoked
//
// # Writing
//
// A [Session] appends objects to packs and at last publishes one outcome. The
// order is fixed: every pack is durable before an index segment that names it is
// written, every segment before the outcome, and the outcome is one
// create-if-absent of one small file. That last step is the commit. Whatever
// moment a writer dies at, the objects of committed sessions are whole; those of
// a dead session are adopted by the next one, which indexes its packs again and
// takes from them what it needs.
//
// An index segment counts only when the outcome of its session is a commit.
//
// # Reading
//
// [Store.Get] finds an object through the index, decodes it and compares it with
// its name before it hands out a byte. Zeros are never stored: their name is the
// zero [ID], and asking for it is the caller's mistake.
//
// # What it does not do
//
// The package knows nothing of devices, of trees, or of what an outcome's body
// means; it deletes nothing that was committed.
//
// A Store is safe for concurrent use, and so is a Session except where a method
// says otherwise.
package chunkstore
