// Package run starts processes. It is the only package that does.
//
// A command is a name and a slice of arguments, never a line for a shell. It runs
// in a process group of its own, in the C locale, with the sbin directories in
// its PATH (cron leaves them out), until it ends, its time is up or the context
// is done; then the group gets SIGTERM, and after a grace SIGKILL. A process that
// outlives even that (it sleeps in the kernel, on a frozen filesystem for one) is
// left behind and reported, so that the caller still gets to thaw.
//
// Output is kept up to a limit, standard error's last part for the error text.
// Failures are an [*Error]: the command line, the exit status and what the
// command said.
//
// [Runner.Run] is for commands that end, [Runner.Start] for those that live
// beside us with pipes. A Runner is safe for concurrent use and has no state. A
// Process belongs to one goroutine, except that Stop may be called from any.
package run
