package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Defaults for Cmd.
const (
	DefaultGrace     = 5 * time.Second
	DefaultMaxOutput = 16 << 20
)

// stderrKept is how much of the end of standard error an Error carries.
const stderrKept = 8 << 10

// sbin is where the tools of administrators live.
var sbin = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// Cmd is one command to run.
type Cmd struct {
	Name string   // looked up in PATH and the sbin directories unless it has a slash
	Args []string // without the name
	Env  []string // "KEY=value", on top of our own environment and the C locale
	Dir  string   // where to run it, "" is here

	Stdin   io.Reader     // nil is empty; only for Run
	Stderr  *os.File      // where standard error goes instead of into the Error; for Start
	Timeout time.Duration // 0 is none
	// Grace is the time between SIGTERM and SIGKILL, 0 is DefaultGrace. Give
	// commands that hold devices suspended a long one.
	Grace time.Duration
	// MaxOutput bounds standard output of Run in bytes, 0 is DefaultMaxOutput.
	// A command that says more is stopped and its run is an error.
	MaxOutput int
	// Session makes the process leader of a session of its own, so that what
	// befalls our terminal or our process group does not reach it.
	Session bool
}

// String is the command as one would type it.
func (c Cmd) String() string {
	words := make([]string, 0, len(c.Args)+1)
	for _, w := range append([]string{c.Name}, c.Args...) {
		if w == "" || strings.ContainsAny(w, " \t\n\"'\\$`|&;<>()*?[]#~") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// Result is what a command left.
type Result struct {
	Stdout   []byte
	Stderr   []byte // its last part
	Exit     int    // exit status, -1 when it did not exit by itself
	Duration time.Duration
}

// Runner runs commands. The zero value works and logs nothing.
type Runner struct {
	// Log gets one debug record for each command.
	Log *slog.Logger
}

// Run runs c to its end. An exit status other than 0 is an *Error; the Result is
// filled in as far as things went in any case.
func (r *Runner) Run(ctx context.Context, c Cmd) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &limited{max: c.MaxOutput, full: cancel}
	if out.max == 0 {
		out.max = DefaultMaxOutput
	}
	p, err := r.start(ctx, c, func(x *exec.Cmd) { x.Stdin, x.Stdout = c.Stdin, out })
	if err != nil {
		return Result{Exit: -1}, err
	}
	err = p.Wait()
	// A process left behind may still write: its output is not ours to read.
	if p.abandoned {
		return Result{Exit: -1, Duration: p.dur}, err
	}
	return Result{out.buf.Bytes(), p.stderr.bytes(), p.exit, p.dur}, err
}

// command makes the exec.Cmd for c.
func command(c Cmd) (*exec.Cmd, error) {
	path, err := lookPath(c.Name)
	if err != nil {
		return nil, err
	}
	x := exec.Command(path, c.Args...)
	x.Args[0] = c.Name
	x.Dir = c.Dir
	x.Env = append(environ(), c.Env...)
	x.SysProcAttr = sysProcAttr(c.Session)
	// A daemon that the command leaves behind may keep its pipes: do not wait for
	// that once the command itself has ended.
	x.WaitDelay = 2 * time.Second
	return x, nil
}

func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.ContainsRune(name, filepath.Separator) {
		return path, err
	}
	for _, dir := range sbin {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// environ is our environment in the C locale, so that messages can be recognised.
func environ() []string {
	env := make([]string, 0, 64)
	path := os.Getenv("PATH")
	for _, dir := range sbin {
		if !strings.Contains(":"+path+":", ":"+dir+":") {
			path += ":" + dir
		}
	}
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(key, "LC_") || key == "LANG" || key == "LANGUAGE" || key == "PATH" && len(sbin) > 0 {
			continue
		}
		// Passwords are for this program alone.
		if strings.HasPrefix(key, "BLKBAK_PASSWORD") {
			continue
		}
		env = append(env, kv)
	}
	return append(env, "PATH="+strings.TrimPrefix(path, ":"), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
}

// limited keeps what is written up to a limit and calls full when there is more.
type limited struct {
	buf  bytes.Buffer
	max  int
	full context.CancelCauseFunc
}

var errTooMuch = errors.New("too much output")

func (l *limited) Write(p []byte) (int, error) {
	if room := l.max - l.buf.Len(); len(p) > room {
		l.buf.Write(p[:room])
		err := fmt.Errorf("%w: more than %d bytes", errTooMuch, l.max)
		l.full(err)
		return room, err
	}
	return l.buf.Write(p)
}

// tail keeps the last bytes written. The process's copying goroutine writes; it
// is read after that one has ended.
type tail struct {
	buf []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - stderrKept; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.cut = true
	}
	return len(p), nil
}

// bytes returns whole lines.
func (t *tail) bytes() []byte {
	if t.cut {
		if i := bytes.IndexByte(t.buf, '\n'); i >= 0 {
			return t.buf[i+1:]
		}
	}
	return t.buf
}
