// Package image is a restore point's map: which object holds which bytes of a
// device. It builds maps from changes, reads devices through them, and finds
// what differs between two.
//
// A map is a radix tree of object names with fanout 64, written up in
// docs/format/image-tree.md:
//
//	level 2                      [ top node = the root ]             always stored
//	                              /        |        \
//	level 1                 [ node ]     zero     [ node ]           64 names each,
//	                        /  |  \                /    \            fewer at the end
//	level 0          [ leaf ] ... [ leaf ]    [ leaf ] [ leaf ]
//	                  /    \                               |
//	chunks         chunk  zero                       short last chunk
//
//	node = magic 4 | version 1 | level 1 | log2 chunk 1 | log2 fanout 1 | size 8 | names 32 each
//
// The shape follows from the size of the device and of its chunks alone, and
// whatever is all zeros has the zero name and no object, the top node excepted.
// So the same bytes have the same root however they came in, two maps share
// each subtree in which they agree, and work is in proportion to what changed.
//
// A [Builder] makes a map from a parent's and a list of changed chunks. An
// [Image] reads one. [Diff] compares two, [Objects] lists what one needs.
//
// The package neither stores objects nor verifies their names: a [Getter] and a
// [Putter] do. It does no compression, and it starts no goroutines.
//
// Nothing in a node is believed: a child's level, size and chunk size must be
// what its place implies, so no input makes a walk loop, or run deeper than
// nine levels. Nodes that a Builder would not have written are refused.
//
// Images and Caches are safe for concurrent use, Builders are not.
package image
