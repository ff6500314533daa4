// Package engine runs the jobs that move whole volumes: a snapshot run, which
// turns what changed on a source into a restore point, and a restore, which puts
// a restore point back onto a device or into a file.
//
// # A run on a classic LVM volume
//
//	lock the volume
//	look at what is there: which base, if any, can say what changed since which point
//	make a new snapshot (device-mapper freezes a mounted filesystem meanwhile)
//	read the base's exception table; write the journal: from here on the new
//	    snapshot is the base, and the journal has what changed before it
//	remove the old base
//	read the changed extents from the new snapshot, never from the origin
//	commit the point
//	clear the journal, tag the base with the point that it equals
//
// The journal and the point's own record of the snapshot that it was read from
// are what the next run goes by, not tags or names. Whatever moment a run dies
// at, the next one finds a base that it can vouch for, or none, and then reads
// everything and says so. docs/lvm-cycle.md has the states one by one.
//
// The engine reaches LVM and the freezing of filesystems through the interfaces
// [LVM] and [Freezer]; it starts no processes. An Engine may be used for one run
// at a time.
package engine
