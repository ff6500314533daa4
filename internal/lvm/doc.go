// Package lvm drives the LVM tools: it builds their arguments and reads their
// reports.
//
// It lists volumes and groups (lvs, vgs), makes, marks, renames and removes
// snapshots (lvcreate, lvchange, lvrename, lvremove), saves a group's metadata
// text (vgcfgbackup) and asks the kernel about a snapshot (dmsetup). It does not
// read exception stores, and it decides nothing: which snapshot is whose base is
// the engine's business.
//
// # Invariants
//
// Every snapshot made here carries the tag [Mark], set in the same metadata
// commit that makes the volume. Nothing without that tag is ever changed or
// removed, and no volume that has snapshots of its own. Removal names the volume
// by UUID as well, so that another of the same name is safe.
//
// lvcreate can fail half-way: when the filesystem on the origin is frozen already
// and the kernel is older than 6.12, what is left is an ordinary linear volume
// with all the tags and no origin. [Volume.HalfMade] recognises it, and
// Tools.Remove removes it.
//
// Commands that change something are not interrupted by a context that is done:
// an lvcreate killed between suspend and resume would leave the origin suspended
// for good. They have time limits of their own, far beyond what they need.
//
// Tools is safe for concurrent use; LVM locks its volume groups itself.
package lvm
