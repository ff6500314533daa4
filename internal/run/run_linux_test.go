package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is the command that the tests run: RUN_TEST_AS says what it
// plays.
func TestMain(m *testing.M) {
	role := os.Getenv("RUN_TEST_AS")
	if role == "" {
		os.Exit(m.Run())
	}
	switch role {
	case "args":
		fmt.Printf("%q", os.Args[1:])
	case "env":
		fmt.Println(os.Getenv("LC_ALL"), os.Getenv("LANG"), os.Getenv("LVM_SUPPRESS_FD_WARNINGS"), os.Getenv("BLKBAK_PASSWORD"))
		fmt.Println(os.Getenv("PATH"))
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "fail":
		for i := range 3000 {
			fmt.Fprintf(os.Stderr, "line %d of many\n", i)
		}
		fmt.Print("partial")
		os.Exit(5)
	case "flood":
		for {
			if _, err := os.Stdout.Write(make([]byte, 1<<16)); err != nil {
				os.Exit(9)
			}
		}
	case "sleep":
		time.Sleep(time.Minute)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "never")
		time.Sleep(time.Minute)
	case "group":
		fmt.Println(syscall.Getpgrp() == os.Getpid(), session() == os.Getpid())
	}
	os.Exit(0)
}

func session() int {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return -1
	}
	// pid (comm) state ppid pgrp session
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')'):]))
	sid, _ := strconv.Atoi(f[4])
	return sid
}

func play(role string, args ...string) Cmd {
	return Cmd{Name: os.Args[0], Args: args, Env: []string{"RUN_TEST_AS=" + role}}
}

func TestArgumentsAreNotForAShell(t *testing.T) {
	args := []string{"a b", "$HOME", "*", "; rm -rf /", "", "'"}
	res, err := new(Runner).Run(t.Context(), play("args", args...))
	if err != nil || string(res.Stdout) != fmt.Sprintf("%q", args) || res.Exit != 0 {
		t.Errorf("%s, %d, %v", res.Stdout, res.Exit, err)
	}
	if got := (Cmd{Name: "lvs", Args: []string{"-o", "a b", "", "it's"}}).String(); got != `lvs -o 'a b' '' 'it'\''s'` {
		t.Error(got)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("LANG", "de_DE.UTF-8")
	t.Setenv("LC_MESSAGES", "de_DE.UTF-8")
	t.Setenv("PATH", "/usr/bin:/bin")
	t.Setenv("BLKBAK_PASSWORD", "secret")
	res, err := new(Runner).Run(t.Context(), play("env"))
	if want := "C  1 \n/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin\n"; err != nil || string(res.Stdout) != want {
		t.Errorf("%q, %v", res.Stdout, err)
	}
}

func TestStdin(t *testing.T) {
	c := play("cat")
	c.Stdin = strings.NewReader("in and out")
	if res, err := new(Runner).Run(t.Context(), c); err != nil || string(res.Stdout) != "in and out" {
		t.Errorf("%q, %v", res.Stdout, err)
	}
	if res, err := new(Runner).Run(t.Context(), play("cat")); err != nil || len(res.Stdout) != 0 {
		t.Errorf("no input: %q, %v", res.Stdout, err)
	}
}

func TestExitStatus(t *testing.T) {
	var logged bytes.Buffer
	r := &Runner{Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	res, err := r.Run(t.Context(), play("fail", "x y"))
	var e *Error
	if !errors.As(err, &e) || e.Exit != 5 || res.Exit != 5 || string(res.Stdout) != "partial" {
		t.Fatalf("%+v, %v", res, err)
	}
	if len(e.Stderr) > stderrKept || !strings.HasPrefix(e.Stderr, "line ") || !strings.HasSuffix(e.Stderr, "line 2999 of many\n") {
		t.Errorf("kept %d bytes of stderr: %.20q...", len(e.Stderr), e.Stderr)
	}
	if want := " 'x y': exit status 5: line 2996 of many; line 2997 of many; line 2998 of many; line 2999 of many"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v", err)
	}
	if l := logged.String(); !strings.Contains(l, "exit=5") || !strings.Contains(l, "dur=") || !strings.Contains(l, "x y") {
		t.Errorf("log: %s", l)
	}
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	defer func(dirs []string) { sbin = dirs }(sbin)
	sbin = nil
	_, err := new(Runner).Run(t.Context(), Cmd{Name: "lvcreate", Args: []string{"-s"}})
	var e *Error
	if !errors.As(err, &e) || err.Error() != "lvcreate -s: not installed" || e.Hint() != "install the package lvm2" {
		t.Errorf("%v", err)
	}
	_, err = new(Runner).Run(t.Context(), Cmd{Name: "/nonexistent/hook"})
	if !errors.As(err, &e) || !e.NotInstalled() || e.Hint() != "" {
		t.Errorf("%v", err)
	}
}

func TestOutputLimit(t *testing.T) {
	c := play("flood")
	c.MaxOutput = 1 << 20
	res, err := new(Runner).Run(t.Context(), c)
	if !errors.Is(err, errTooMuch) || len(res.Stdout) != 1<<20 {
		t.Errorf("%d bytes, %v", len(res.Stdout), err)
	}
}

func TestTimeout(t *testing.T) {
	c := play("sleep")
	c.Timeout = 200 * time.Millisecond
	begin := time.Now()
	_, err := new(Runner).Run(t.Context(), c)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no end after 200ms") {
		t.Errorf("%v", err)
	}
	if d := time.Since(begin); d > DefaultGrace {
		t.Errorf("SIGTERM took %v", d)
	}
	c = play("stubborn")
	c.Timeout, c.Grace = time.Second, 100*time.Millisecond
	_, err = new(Runner).Run(t.Context(), c)
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, context.DeadlineExceeded) || e.Stderr != "never\n" {
		t.Errorf("%v", err)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user said so")
	time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
	if _, err := new(Runner).Run(ctx, play("sleep")); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if _, err := new(Runner).Run(ctx, play("sleep")); !errors.Is(err, why) {
		t.Errorf("started when cancelled: %v", err)
	}
}

// TestGroup kills what the command has started, too.
func TestGroup(t *testing.T) {
	c := Cmd{Name: "sh", Args: []string{"-c", "sleep 60 & echo $!; wait"}, Timeout: 300 * time.Millisecond}
	res, err := new(Runner).Run(t.Context(), c)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(res.Stdout)))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if !alive(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d still runs", pid)
}

// alive tells whether pid runs; a zombie, waiting for a parent, does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	return !bytes.Contains(b, []byte(") Z "))
}

// TestDaemon does not wait for what a command leaves behind with its pipes.
func TestDaemon(t *testing.T) {
	begin := time.Now()
	res, err := new(Runner).Run(t.Context(), Cmd{Name: "sh", Args: []string{"-c", "sleep 20 & echo $!"}})
	if err != nil || len(res.Stdout) == 0 || time.Since(begin) > 10*time.Second {
		t.Errorf("%q, %v after %v", res.Stdout, err, time.Since(begin))
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(res.Stdout))); err == nil {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestStart(t *testing.T) {
	p, err := new(Runner).Start(t.Context(), play("cat"))
	if err != nil {
		t.Fatal(err)
	}
	// More than a pipe holds, and the end is read after the process has ended.
	text := strings.Repeat("0123456789abcdef", 20_000)
	go func() {
		io.WriteString(p.Stdin, text)
		p.Stdin.Close()
	}()
	var got bytes.Buffer
	io.CopyN(&got, p.Stdout, 16*19_000)
	time.Sleep(100 * time.Millisecond)
	io.Copy(&got, p.Stdout)
	if err := p.Wait(); err != nil || got.String() != text {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

func TestStartStop(t *testing.T) {
	p, err := new(Runner).Start(t.Context(), play("sleep"))
	if err != nil {
		t.Fatal(err)
	}
	if !alive(p.PID()) {
		t.Error("it does not run")
	}
	p.Stop()
	p.Stop()
	if err := p.Wait(); !errors.Is(err, errStopped) {
		t.Errorf("%v", err)
	}
	if alive(p.PID()) {
		t.Error("it still runs")
	}
}

func TestSession(t *testing.T) {
	c := play("group")
	for _, session := range []bool{false, true} {
		c.Session = session
		res, err := new(Runner).Run(t.Context(), c)
		if want := fmt.Sprintf("true %v\n", session); err != nil || string(res.Stdout) != want {
			t.Errorf("session %v: group, session leader: %q, %v", session, res.Stdout, err)
		}
	}
}
