package vm

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// statusPort leads to the runner; it is there in its guest only.
const statusPort = "/run/status"

func TestMain(m *testing.M) {
	flag.Parse()
	listing := flag.Lookup("test.list").Value.String() != ""
	_, err := os.Stat(statusPort)
	if !listing && (os.Getenv("BLKBAK_GUEST") == "" || err != nil) {
		fmt.Println("not run here: these tests need a virtual machine of their own, make test-vm")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// try runs a program and returns what it printed. Its error holds the command
// line, how it ended and what it said on stderr.
func try(args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String(), nil
}

// sh runs a program that must succeed and returns what it printed, without
// surrounding space.
func sh(t testing.TB, args ...string) string {
	t.Helper()
	out, err := try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// result is how a run of blkbak ended.
type result struct {
	args   []string
	stdout string
	stderr string
	code   int
}

func (r result) String() string {
	return fmt.Sprintf("blkbak %s: exit code %d\nstdout: %s\nstderr: %s",
		strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// run runs the program under test, whatever its exit code. The environment is
// the test's own: t.Setenv("BLKBAK_REPO", ...) chooses the repository.
func run(t testing.TB, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("blkbak %s: %v", strings.Join(args, " "), err)
	}
	return result{args, stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// runOK runs the program under test, which must end with code 0, and returns
// its stdout.
func runOK(t testing.TB, args ...string) string {
	t.Helper()
	r := run(t, args...)
	if r.code != 0 {
		t.Fatal(r)
	}
	return r.stdout
}

// runJSON runs the program under test with --json, which must end with code
// 0, and decodes its stdout into v.
func runJSON(t testing.TB, v any, args ...string) {
	t.Helper()
	out := runOK(t, append([]string{"--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("blkbak --json %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// process is a program in the background.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	output string // a file: both streams
}

// start runs a program in the background, with a time limit that is the test's:
// it gets SIGTERM when the test ends, unless it was stopped before.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := &process{t, exec.Command(args[0], args[1:]...), out.Name()}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.stop(syscall.SIGTERM)
		}
		if t.Failed() {
			t.Logf("%s printed:\n%s", strings.Join(args, " "), p.text())
		}
	})
	return p
}

// text is what the process has printed so far.
func (p *process) text() string {
	p.t.Helper()
	b, err := os.ReadFile(p.output)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// stop sends a signal, waits for the end and returns the exit code, -1 when it
// was the signal that ended the process. One that takes too long is killed.
func (p *process) stop(signal os.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Error(err)
	}
	late := time.AfterFunc(30*time.Second, func() { p.cmd.Process.Kill() })
	p.cmd.Wait() // its error says no more than ProcessState
	if !late.Stop() {
		p.t.Errorf("%s did not end after %v", strings.Join(p.cmd.Args, " "), signal)
	}
	return p.cmd.ProcessState.ExitCode()
}

// program is the path of the program under test.
func program(t testing.TB) string {
	t.Helper()
	path := os.Getenv("BLKBAK_BIN")
	if path == "" {
		t.Fatal("BLKBAK_BIN does not say where the blkbak binary is")
	}
	return path
}

// boot says how often this machine was started on its disks, from 1.
func boot(t testing.TB) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("BLKBAK_BOOT"))
	if err != nil {
		t.Fatalf("BLKBAK_BOOT: %v", err)
	}
	return n
}

// powerCut ends the machine at once: what is on the disks stays, what is in
// memory is gone. The runner starts it again, with boot one higher.
func powerCut(t testing.TB) {
	t.Helper()
	if !strings.HasPrefix(t.Name(), "TestPowerCut") {
		t.Fatal("only tests named TestPowerCut... have a machine to themselves")
	}
	if t.Failed() {
		t.FailNow() // a failure so far would be lost
	}
	fmt.Printf("    power cut ends boot %d\n", boot(t))
	time.Sleep(100 * time.Millisecond) // for the line to leave the machine
	sh(t, "power-cut")
	time.Sleep(time.Minute)
	t.Fatal("the machine is still running after power-cut")
}

// eventually waits until cond holds, and fails the test when it does not within
// a generous time. What it waits for stands in the message.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if cond() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("waited in vain until %s", what)
}
