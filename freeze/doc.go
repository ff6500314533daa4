// Package freeze holds off the writers of a mounted filesystem and guarantees
// that they go on.
//
// A frozen filesystem is whole on its device, and everybody who writes to it
// waits in the kernel, where no signal reaches them. So the worst that can
// happen is not a bad backup but a filesystem that stays frozen: the program may
// crash, be killed, stopped, or starve. Freeze therefore never freezes without a
// guard, a second process that thaws when the first one cannot:
//
//	this process                         guard
//	────────────                         ─────
//	starts ────────────────────────────► opens the mount point, ignores signals,
//	                                     pins its memory
//	                       ◄──────────── "ready"
//	"freezing" ────────────────────────► the clock of MaxFrozen runs
//	FIFREEZE
//	"frozen" ──────────────────────────►
//	"beat", several in every Stall ────► the clock of Stall starts anew
//	FITHAW
//	"thawed" ──────────────────────────► ends
//
// When its clock runs out or the pipe closes, which it does when the other end
// dies in whatever way, the guard calls FITHAW itself, on the descriptor it has
// had open since before the freeze, and only then says so. When it is the guard
// that dies, this process thaws at once: nothing stays frozen unguarded. Either
// way Thaw returns an error that matches ErrThawedEarly, and what was read is
// worth nothing.
//
// Processes are started by the caller, who passes a function for it; the guard is
// the same program, which calls GuardMain when it is started as GuardCommand.
//
// # What is never frozen
//
// The root filesystem, and those that hold the working directory, the standard
// streams or anything in Options.KeepClear: the program would wait for itself.
// Filesystems are told apart by their superblock, so that the subvolumes of one
// btrfs count as one. What is not seen: a file on the frozen filesystem that
// backs a loop device or an overlay with such a path on it. The guard's executable
// may lie there: reading goes on under a freeze, and the guard has locked its
// pages into memory before.
//
// Device-mapper freezes a filesystem by itself while LVM makes a snapshot. Do not
// freeze around that: kernels before 6.12 then refuse the snapshot.
//
// Linux only; elsewhere everything returns errors.ErrUnsupported. A Frozen is safe
// for concurrent use.
package freeze
