package freeze

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// GuardMain is the guard's main function, given the arguments after GuardCommand.
// It returns the exit status. It is meant to outlive what ends the program that
// started it.
func GuardMain(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// SIGPIPE too: the process at the other ends may be dead when there is
	// something to say.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE,
		syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGUSR1, syscall.SIGUSR2)
	unix.Setsid() // fails when we lead a session already, as we should
	point, id, limit, stall, err := parseGuard(args)
	if err != nil {
		fmt.Fprintln(stderr, "freeze guard:", err)
		return exitUsage
	}
	if err := os.Chdir("/"); err != nil {
		fmt.Fprintln(stderr, "freeze guard:", err)
		return exitFailed
	}
	fs, err := openMount(point)
	if err == nil && fs.id != id {
		err = fmt.Errorf("%s: another filesystem is mounted there by now", point)
	}
	if err != nil {
		fmt.Fprintln(stdout, err)
		fmt.Fprintln(stderr, "freeze guard:", err)
		return exitFailed
	}
	pin()
	g := &guard{mount: point, fs: fs, max: limit, stall: stall, stdout: stdout, stderr: stderr, words: readWords(stdin)}
	if _, err := fmt.Fprintln(stdout, wordReady); err != nil {
		return exitFailed
	}
	return g.run()
}

// pin keeps the guard able to run when memory is short and disks are slow: its
// pages stay in memory, its executable's too, and the kernel kills others first.
// All of it is help, none of it needed.
func pin() {
	os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	if err := unix.Mlockall(unix.MCL_CURRENT); err != nil {
		// At least have the executable in the page cache.
		if f, err := os.Open("/proc/self/exe"); err == nil {
			io.Copy(io.Discard, f)
			f.Close()
		}
	}
}
