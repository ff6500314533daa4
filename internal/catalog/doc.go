// Package catalog says what the outcomes of a repository's sessions mean: each
// committed one is a restore point, a complete disk of a named volume.
//
// A [Point] is written once, by the commit that makes it, and never changed. Its
// encoded form is JSON, described in docs/format/point.md, in the sealed file
// that package chunkstore keeps; the name of the file is the point's ID.
//
// A volume's points are ordered by their number in the series, which its writer
// counts up under the volume's lock; clocks decide nothing but what is shown and
// what a time in a name selects. Each point carries the hash of the one before
// it, so that a history cannot be rewritten unnoticed.
//
// A [Catalog] is what the repository held when it was loaded, and does not change.
package catalog
