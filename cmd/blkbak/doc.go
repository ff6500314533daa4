// Command blkbak makes, keeps and serves restore points of block devices.
//
// This package holds flags, wiring, printing and exit codes, and no policy: what
// a run does is decided below it.
//
// A command line goes through here in one direction:
//
//	os.Args ─► permute ─► cli.App ─► Action ─► engine, cow, ...
//	           (names,     (values,             │
//	            order,      environment)        ▼
//	            counts)                  print / error ─► exit code
//
// permute takes the words apart by the commands' own definitions, so that flags
// may stand before or after arguments, and global ones before or after the
// command; cli.App only ever sees them in the one order that it understands.
// A command's ArgsUsage ("POINT [PATH]", "SOURCE...") is not only shown: it is
// the rule by which arguments are counted and completed.
//
// Standard output carries the result: text, or with --json one document.
// Standard error carries everything else, and while a progress bar is shown all
// of it passes through a screen that keeps the bar out of the way.
//
// Exit codes are listed in errors.go. A signal cancels the context that every
// command receives; a second one ends the program where it stands.
package main
