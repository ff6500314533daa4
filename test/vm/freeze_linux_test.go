package vm

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/blkbak/blkbak/freeze"
)

// TestFreezeDevice backs up a mounted device that has no snapshots: refused, then
// with its writers held off, then killed while they are.
func TestFreezeDevice(t *testing.T) {
	newRepo(t, t.TempDir())
	dev := scratchDisk(t)
	mkfsSmall(t, dev, "ext4")
	dir := mount(t, dev)
	writeRandom(t, filepath.Join(dir, "file"), 1, 1<<20)

	refused(t, 5, "--freeze", dev, "--volume", "disk")

	writing := start(t, "sh", "-c", `i=0; while :; do i=$((i+1)); echo $i >"$1/n"; sync "$1/n"; done`, "sh", dir)
	defer writing.stop(syscall.SIGKILL)
	p := snapshotRun(t, 0, dev, "--volume", "disk", "--freeze")
	var shown struct {
		Stats struct {
			Frozen float64 `json:"freeze_seconds"`
		} `json:"stats"`
	}
	runJSON(t, &shown, "show", p.ID)
	if shown.Stats.Frozen <= 0 {
		t.Errorf("frozen for %v s", shown.Stats.Frozen)
	}
	wantThawed(t, dir)
	out := filepath.Join(t.TempDir(), "restored")
	runOK(t, "restore", p.ID, "--to", out)
	sh(t, "e2fsck", "-fn", out)

	// Longer than the limit: the point would be torn, so there is none.
	refused(t, 1, "", dev, "--volume", "disk", "--full", "--freeze", "--freeze-limit", "1s")
	wantThawed(t, dir)
	if n := strings.Count(runOK(t, "list", "disk"), "\n"); n != 2 {
		t.Errorf("%d lines of list, want the heading and one point", n)
	}

	// Killed while writers wait: the guard lets them go on.
	blkbak := start(t, program(t), "snapshot", dev, "--volume", "disk", "--full", "--freeze")
	eventually(t, "the guard is there", guardRuns)
	time.Sleep(300 * time.Millisecond)
	blkbak.stop(syscall.SIGKILL)
	wantThawed(t, dir)
	if _, err := os.ReadFile(filepath.Join(dir, "n")); err != nil {
		t.Error(err)
	}
	snapshotRun(t, 0, dev, "--volume", "disk", "--freeze")
}

// guardRuns looks for a process that was started as the guard of a freeze.
func guardRuns() bool {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		if b, err := os.ReadFile(l); err == nil && strings.Contains(string(b), "\x00"+freeze.GuardCommand+"\x00") {
			return true
		}
	}
	return false
}
