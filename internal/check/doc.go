// Package check is the independent reader of a repository: it derives again what
// the catalog and the store claim, from the files themselves, and reports each
// mismatch with the restore points that it affects.
//
// It verifies every file (package chunkstore knows their formats), then walks the
// tree of every point and sees that each object that a point needs is there. It
// changes nothing. Its memory grows with the number of tree nodes, about 64 bytes
// for 4 MiB of distinct data at the default sizes, and not with the number of
// points.
//
// With ReadData every changed, missing or added bit of a file is found. Two things
// leave no trace in the files that remain: a point that stored nothing new, if its
// file and with it the point is gone, and the newest points of a repository that
// was put back to an earlier state as a whole.
package check
