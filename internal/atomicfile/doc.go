// Package atomicfile puts whole files in place durably, and takes locks.
//
// A file appears under its name complete and synced, or not at all, whatever
// moment the machine stops at: the bytes go to a temporary file beside it, are
// synced, take the name by rename(2) or link(2), and the directory is synced.
// Temporary files have names that begin with [TempPrefix]; what a crash leaves
// of them is garbage that anyone may remove once no writer is at work.
//
// All functions are safe for concurrent use.
package atomicfile
