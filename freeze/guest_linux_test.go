package freeze

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/run"
)

// The tests here freeze real filesystems, on a disk that they destroy: only in a
// virtual machine, with BLKBAK_GUEST=1. The test binary is its own guard, and its
// own victim: a process that freezes, and to which things happen.

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == GuardCommand:
		os.Exit(GuardMain(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	case len(os.Args) > 1 && os.Args[1] == "victim":
		os.Exit(victim(os.Args[2], os.Args[3], os.Args[4]))
	}
	os.Exit(m.Run())
}

// startGuard is what a program that uses the package passes as StartGuard.
func startGuard(ctx context.Context, args []string) (*Guard, error) {
	p, err := new(run.Runner).Start(ctx, run.Cmd{Name: "/proc/self/exe", Args: args, Session: true, Stderr: os.Stderr})
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "guard", p.PID())
	return &Guard{Stdin: p.Stdin, Stdout: p.Stdout, Wait: p.Wait}, nil
}

// victim freezes until its standard input ends.
func victim(mount, limit, stall string) int {
	max, _ := time.ParseDuration(limit)
	st, _ := time.ParseDuration(stall)
	f, err := Freeze(context.Background(), mount, Options{MaxFrozen: max, Stall: st, StartGuard: startGuard})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("frozen")
	io.Copy(io.Discard, os.Stdin)
	err = f.Thaw()
	fmt.Println(err)
	if err != nil {
		return 1
	}
	return 0
}

// guestMount makes a filesystem on the scratch disk and mounts it.
func guestMount(t *testing.T, mkfs string) (point string) {
	t.Helper()
	if os.Getenv("BLKBAK_GUEST") != "1" {
		t.Skip("destroys a disk: set BLKBAK_GUEST=1 in a virtual machine")
	}
	disk := os.Getenv("BLKBAK_GUEST_DISK")
	if disk == "" {
		disk = "/dev/vdb"
	}
	tool(t, append(strings.Fields(mkfs), disk)...)
	point = filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mount", disk, point)
	t.Cleanup(func() {
		// The threads of a process that was killed end one after the other.
		for range 50 {
			if exec.Command("umount", point).Run() == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		tool(t, "umount", point)
	})
	return point
}

func tool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// guestFilesystems are the ways to make each filesystem that is tested.
var guestFilesystems = []string{"mke2fs -q -F -t ext4", "mkfs.xfs -q -f", "mkfs.btrfs -q -f"}

func eachFilesystem(t *testing.T, test func(t *testing.T, point string)) {
	for _, mkfs := range guestFilesystems {
		t.Run(strings.Fields(mkfs)[0], func(t *testing.T) { test(t, guestMount(t, mkfs)) })
	}
}

// writer writes to a filesystem; the channel gets the time when it could.
func writer(point string) <-chan time.Time {
	done := make(chan time.Time, 1)
	go func() {
		f, err := os.OpenFile(filepath.Join(point, "file"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err == nil {
			f.Write(make([]byte, 4096))
			f.Close()
		}
		done <- time.Now()
	}()
	return done
}

func wantBlocked(t *testing.T, w <-chan time.Time) {
	t.Helper()
	select {
	case <-w:
		t.Fatal("a frozen filesystem was written to")
	case <-time.After(500 * time.Millisecond):
	}
}

// patience is how long an emulated machine on a busy host may take for what takes
// a moment. A filesystem that stays frozen stays frozen for longer.
const patience = 30 * time.Second

// wantWritten waits for a writer and returns how long that took.
func wantWritten(t *testing.T, w <-chan time.Time) time.Duration {
	t.Helper()
	begin := time.Now()
	select {
	case at := <-w:
		return at.Sub(begin)
	case <-time.After(patience):
		t.Fatalf("still frozen after %v", patience)
		return 0
	}
}

func TestGuestFreezeAndThaw(t *testing.T) {
	eachFilesystem(t, func(t *testing.T, point string) {
		f, err := Freeze(t.Context(), point, Options{StartGuard: startGuard})
		if err != nil {
			t.Fatal(err)
		}
		w := writer(point)
		wantBlocked(t, w)
		// A second freeze is refused, and does the first one no harm.
		if _, err := Freeze(t.Context(), point, Options{StartGuard: startGuard}); !errors.Is(err, blkbak.ErrBusy) {
			t.Errorf("nested: %v", err)
		}
		wantBlocked(t, w)
		begin := time.Now()
		if err := f.Thaw(); err != nil {
			t.Error(err)
		}
		t.Logf("frozen for %v, thaw and guard's end %v", begin.Sub(f.Since()), time.Since(begin))
		wantWritten(t, w)
		// The descriptors are gone: umount in the cleanup works.
	})
}

func TestGuestLimit(t *testing.T) {
	eachFilesystem(t, func(t *testing.T, point string) {
		f, err := Freeze(t.Context(), point, Options{MaxFrozen: 2 * time.Second, StartGuard: startGuard})
		if err != nil {
			t.Fatal(err)
		}
		w := writer(point)
		wantBlocked(t, w)
		wantWritten(t, w)
		<-f.Broken()
		if err := f.Thaw(); !errors.Is(err, ErrThawedEarly) {
			t.Errorf("%v", err)
		}
	})
}

// process is a victim.
type process struct {
	*exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	guard  int
}

func startVictim(t *testing.T, exe, point, limit, stall string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(exe, "victim", point, limit, stall)}
	var err error
	if p.stdin, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// A pipe of our own: Wait must not wait for the guard, which holds it, too.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stderr = w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p.stdout = bufio.NewReader(out)
	stderr := bufio.NewReader(r)
	line, err := stderr.ReadString('\n')
	if _, serr := fmt.Sscanf(line, "guard %d", &p.guard); err != nil || serr != nil {
		t.Fatalf("victim says %q, %v", line, err)
	}
	go func() {
		for {
			line, err := stderr.ReadString('\n')
			if err != nil {
				r.Close()
				return
			}
			fmt.Fprint(os.Stderr, "victim: ", line)
		}
	}()
	if line, err := p.stdout.ReadString('\n'); line != "frozen\n" || err != nil {
		t.Fatalf("victim says %q, %v", line, err)
	}
	return p
}

// waitGone waits until the guard has ended, so that it holds no mount.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for range 200 {
		if unix.Kill(pid, 0) != nil {
			return
		}
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("guard %d does not end", pid)
}

// TestGuestKilled: SIGKILL of the process that froze. The executable of victim
// and guard lies on the frozen filesystem, and the page cache is dropped.
func TestGuestKilled(t *testing.T) {
	eachFilesystem(t, func(t *testing.T, point string) {
		exe := filepath.Join(point, "exe")
		tool(t, "cp", os.Args[0], exe)
		p := startVictim(t, exe, point, "10m", "10m")
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			t.Fatal(err)
		}
		w := writer(point)
		wantBlocked(t, w)
		// None of these reaches the guard's heart.
		for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
			if err := unix.Kill(p.guard, s); err != nil {
				t.Fatal(err)
			}
		}
		wantBlocked(t, w)
		p.Process.Kill()
		t.Logf("thawed %v after SIGKILL", wantWritten(t, w))
		p.Wait()
		waitGone(t, p.guard)
	})
}

// TestGuestStalled: the process that froze is stopped, and continued later.
func TestGuestStalled(t *testing.T) {
	eachFilesystem(t, func(t *testing.T, point string) {
		p := startVictim(t, "/proc/self/exe", point, "10m", "2s")
		w := writer(point)
		time.Sleep(3 * time.Second) // longer than a stall
		wantBlocked(t, w)
		p.Process.Signal(unix.SIGSTOP)
		took := wantWritten(t, w)
		t.Logf("thawed %v after SIGSTOP", took)
		if took < 500*time.Millisecond {
			t.Error("too early")
		}
		waitGone(t, p.guard)
		p.Process.Signal(unix.SIGCONT)
		p.stdin.Close()
		line, _ := p.stdout.ReadString('\n')
		if !strings.Contains(line, ErrThawedEarly.Error()) {
			t.Errorf("victim says %q", line)
		}
		p.Wait()
	})
}

// TestGuestGuardKilled: without its guard nothing stays frozen.
func TestGuestGuardKilled(t *testing.T) {
	eachFilesystem(t, func(t *testing.T, point string) {
		p := startVictim(t, "/proc/self/exe", point, "10m", "10m")
		w := writer(point)
		wantBlocked(t, w)
		unix.Kill(p.guard, unix.SIGKILL)
		t.Logf("thawed %v after SIGKILL of the guard", wantWritten(t, w))
		p.stdin.Close()
		if line, _ := p.stdout.ReadString('\n'); !strings.Contains(line, ErrThawedEarly.Error()) {
			t.Errorf("victim says %q", line)
		}
		p.Wait()
	})
}

func TestGuestRefuses(t *testing.T) {
	eachFilesystem(t, func(t *testing.T, point string) {
		refuse := func(what, mount string, want error, clear ...string) {
			t.Helper()
			f, err := Freeze(t.Context(), mount, Options{StartGuard: startGuard, KeepClear: clear})
			if err == nil {
				f.Thaw()
			}
			if !errors.Is(err, want) {
				t.Errorf("%s: %v", what, err)
			}
		}
		sub := filepath.Join(point, "sub")
		if strings.Contains(t.Name(), "btrfs") { // a device number of its own
			tool(t, "btrfs", "-q", "subvolume", "create", sub)
		} else if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		refuse("root", "/", blkbak.ErrUsage)
		refuse("a directory", t.TempDir(), blkbak.ErrUsage)
		refuse("a directory on it", sub, blkbak.ErrUsage)
		refuse("nothing", point+".none", blkbak.ErrNotFound)
		refuse("a file to keep clear", point, blkbak.ErrUsage, "/proc", sub)
		refuse("a missing file to keep clear", point, blkbak.ErrUsage, filepath.Join(sub, "a/b"))
		refuse("a filesystem without freezing", "/proc", errors.ErrUnsupported)
		t.Chdir(sub)
		refuse("the working directory", point, blkbak.ErrUsage)
		t.Chdir("/")
		log, err := os.Create(filepath.Join(sub, "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer func(f *os.File) { os.Stderr = f }(os.Stderr)
		os.Stderr = log
		refuse("standard error", point, blkbak.ErrUsage)
		log.Close()
		wantWritten(t, writer(point))
	})
}

// TestGuestUnkillable: a command that touches a frozen filesystem cannot be
// killed. Its caller must get back to the thaw nevertheless.
func TestGuestUnkillable(t *testing.T) {
	point := guestMount(t, guestFilesystems[0])
	f, err := Freeze(t.Context(), point, Options{StartGuard: startGuard, MaxFrozen: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	_, err = new(run.Runner).Run(t.Context(), run.Cmd{Name: "touch", Args: []string{filepath.Join(point, "x")},
		Timeout: time.Second, Grace: time.Second})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not even SIGKILL") {
		t.Errorf("%v", err)
	}
	if err := f.Thaw(); err != nil {
		t.Error(err)
	}
	wantWritten(t, writer(point))
}
