package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// failures is a test that collects its errors, and goes on.
type failures struct {
	testing.TB
	seen []string
}

func (f *failures) Helper()           {}
func (f *failures) Error(args ...any) { f.seen = append(f.seen, fmt.Sprint(args...)) }
func (f *failures) Errorf(form string, arg ...any) {
	f.seen = append(f.seen, fmt.Sprintf(form, arg...))
}

// want fails t unless the only error contains text.
func (f *failures) want(t *testing.T, text string) {
	t.Helper()
	if len(f.seen) != 1 || !strings.Contains(f.seen[0], text) {
		t.Errorf("errors %q, want one with %q", f.seen, text)
	}
	f.seen = nil
}

// TestHarnessSeesDifferences breaks what the harness compares.
func TestHarnessSeesDifferences(t *testing.T) {
	vg := newVG(t)
	a, b := vg.create("a", "12M"), vg.create("b", "12M")
	scribble(t, a, 1, 300, 4096)
	sh(t, "dd", "if="+a, "of="+b, "bs=1M", "oflag=direct", "status=none")
	wantSame(t, a, b)
	if hashOf(t, a) != hashOf(t, b) {
		t.Error("equal devices have different hashes")
	}

	f := &failures{TB: t}
	image := filepath.Join(t.TempDir(), "image")
	sh(t, "cp", a, image)
	wantSame(t, image, a)
	sh(t, "truncate", "-s", "-1", image)
	wantSame(f, a, image)
	f.want(t, "12582911")

	const at = 9<<20 + 12345
	out, err := os.OpenFile(b, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteAt([]byte("changed"), at); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	flushBuffers(t, b)
	wantSame(f, a, b)
	f.want(t, fmt.Sprintf("differ at byte %d", at))

	dir := t.TempDir()
	writeRandom(t, filepath.Join(dir, "x"), 1, 1000)
	tree := treeOf(t, dir)
	wantTree(t, dir, tree)
	writeRandom(t, filepath.Join(dir, "x"), 2, 1000)
	wantTree(f, dir, tree)
	f.want(t, "x is")

	fvg := &volumeGroup{f, vg.name}
	vg.snapshot("a", "snap", "8M")
	fvg.wantSnapshots()
	f.want(t, "[snap]")
}

// TestHarnessSeesFrozen freezes a filesystem: the harness must tell, and thaw it.
func TestHarnessSeesFrozen(t *testing.T) {
	vg := newVG(t)
	dev := vg.create("data", "32M")
	mkfs(t, dev, "ext4")
	dir := mount(t, dev)
	wantThawed(t, dir)
	sh(t, "fsfreeze", "-f", dir)
	frozenAfter = 2 * time.Second
	t.Cleanup(func() { frozenAfter = time.Minute })
	f := &failures{TB: t}
	wantThawed(f, dir)
	f.want(t, "is frozen")
	wantThawed(t, dir)
}

// TestHarnessRunsPrograms runs the program under test, and one in the background.
func TestHarnessRunsPrograms(t *testing.T) {
	if out := runOK(t, "version"); !strings.HasPrefix(out, "blkbak ") {
		t.Errorf("version prints %q", out)
	}
	var v struct{ OS string }
	if runJSON(t, &v, "version"); v.OS != "linux" {
		t.Errorf("version --json says %+v", v)
	}
	if r := run(t, "no-such-command"); r.code != 2 || r.stdout != "" || r.stderr == "" {
		t.Error(r)
	}
	p := start(t, "bash", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done")
	eventually(t, "the process is ready", func() bool { return p.text() == "ready\n" })
	if code := p.stop(syscall.SIGTERM); code != 7 || p.text() != "ready\nbye\n" {
		t.Errorf("exit code %d after printing %q", code, p.text())
	}
}

// TestPowerCutHarness makes sure that a power cut keeps what was synced and loses
// what was not.
func TestPowerCutHarness(t *testing.T) {
	disk := scratchDisk(t)
	switch boot(t) {
	case 1:
		vg := newVG(t, disk)
		dev := vg.create("data", "64M")
		mkfs(t, dev, "ext4")
		dir := mount(t, dev)
		writeRandom(t, filepath.Join(dir, "synced"), 1, 1<<20)
		if err := os.WriteFile(filepath.Join(dir, "unsynced"), randomBytes(2, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		powerCut(t)
	case 2:
		vg := existingVG(t, disk)
		dir := mount(t, vg.path("data"))
		got, err := os.ReadFile(filepath.Join(dir, "synced"))
		if err != nil || string(got) != string(randomBytes(1, 1<<20)) {
			t.Errorf("synced: %d bytes, %v", len(got), err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "unsynced")); err == nil && len(got) == 1<<20 {
			t.Error("what was not synced has survived: this was no power cut")
		}
	default:
		t.Errorf("boot %d", boot(t))
	}
}
