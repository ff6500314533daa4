// Package binread reads variable-length records from a byte slice without
// trusting a single length in it.
//
// A [Cursor] keeps its first error and returns zeros after it, so that a decoder
// reads as a list of fields and checks once. Errors carry the format's name and
// the absolute byte offset. Nothing is allocated from a length in the input.
package binread
