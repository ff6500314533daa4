//go:build unix

package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

// The tests here start the real program, to stop it as a power cut or an
// impatient user would.

var programDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if programDir != "" {
		os.RemoveAll(programDir)
	}
	os.Exit(code)
}

var buildProgram = sync.OnceValues(func() (string, error) {
	// The test cache knows what this process reads, not what the compiler does.
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if programDir, err = os.MkdirTemp("", "blkbak-test-"); err != nil {
		return "", err
	}
	path := filepath.Join(programDir, "blkbak")
	build := exec.Command("go", "build", "-o", path, "../../cmd/blkbak")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// program runs the real thing on a repository of its own.
type program struct {
	testing.TB
	path        string
	repo, state string
}

func newProgram(t testing.TB) *program {
	t.Helper()
	path, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &program{t, path, filepath.Join(dir, "repo"), filepath.Join(dir, "state")}
	p.must("init")
	return p
}

func (p *program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.path, append(args, "--repo", p.repo, "--state-dir", p.state)...)
	cmd.Stdout, cmd.Stderr = new(bytes.Buffer), new(bytes.Buffer)
	return cmd
}

func stdout(cmd *exec.Cmd) []byte { return cmd.Stdout.(*bytes.Buffer).Bytes() }
func stderr(cmd *exec.Cmd) string { return cmd.Stderr.(*bytes.Buffer).String() }

// run waits for cmd, and kills it after limit. It returns the exit code, -1 for a
// process that was killed.
func (p *program) run(cmd *exec.Cmd, limit time.Duration) int {
	p.Helper()
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer timer.Stop()
	return p.wait(cmd)
}

func (p *program) wait(cmd *exec.Cmd) int {
	p.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		p.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

const forever = 5 * time.Minute

// must runs a command that has to succeed.
func (p *program) must(args ...string) []byte {
	p.Helper()
	cmd := p.command(args...)
	if code := p.run(cmd, forever); code != 0 {
		p.Fatalf("%v: exit code %d\n%s", args, code, stderr(cmd))
	}
	return stdout(cmd)
}

// made is what snapshot and list print of a point.
type made struct {
	Point  blkbak.PointID `json:"point"`
	Root   chunkstore.ID  `json:"root"`
	Mode   blkbak.Mode    `json:"mode"`
	Volume string         `json:"volume"`
	Read   int64          `json:"bytes_read"`
}

func (p *program) decode(b []byte, v any) {
	p.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		p.Fatalf("%v in %q", err, b)
	}
}

func (p *program) list() []made {
	p.Helper()
	var points []made
	p.decode(p.must("list", "--json"), &points)
	return points
}

// check reads every stored byte.
func (p *program) check() {
	p.Helper()
	cmd := p.command("check", "--read-data", "--json")
	code := p.run(cmd, forever)
	var rep struct{ OK bool }
	p.decode(stdout(cmd), &rep)
	if code != 0 || !rep.OK {
		p.Fatalf("check: exit code %d\n%s%s", code, stdout(cmd), stderr(cmd))
	}
}

// files lists the repository, with what tells a file that was touched.
func (p *program) files() []string {
	p.Helper()
	var list []string
	err := filepath.WalkDir(p.repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		list = append(list, fmt.Sprint(path, st.Size(), st.ModTime()))
		return nil
	})
	if err != nil {
		p.Fatal(err)
	}
	return list
}

// matching are the repository's files of that pattern.
func (p *program) matching(pattern string) []string {
	p.Helper()
	list, err := filepath.Glob(filepath.Join(p.repo, pattern))
	if err != nil {
		p.Fatal(err)
	}
	return list
}

// startSlow starts a run that is at work when this returns: it has begun its
// session, and is not through.
func (p *program) startSlow(args ...string) *exec.Cmd {
	p.Helper()
	for range 20 {
		before := len(p.matching("sess/[0-9a-f]*"))
		cmd := p.command(args...)
		if err := cmd.Start(); err != nil {
			p.Fatal(err)
		}
		for range 2000 {
			if len(p.matching("sess/[0-9a-f]*")) > before {
				break
			}
			time.Sleep(time.Millisecond)
		}
		cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(5 * time.Millisecond) // for it to take effect
		if len(p.matching("sess/[0-9a-f]*")) > before && len(p.matching("points/*")) == 0 {
			return cmd
		}
		cmd.Process.Signal(syscall.SIGCONT)
		p.wait(cmd)
		os.RemoveAll(p.repo)
		p.must("init")
	}
	p.Fatal("no run took long enough to be caught")
	return nil
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		seed ^= seed << 13
		seed ^= seed >> 7
		seed ^= seed << 17
		for j := range min(8, n-i) {
			b[i+j] = byte(seed >> (8 * j))
		}
	}
	return b
}

// TestSecondRun starts a run on a volume at which one is at work already.
func TestSecondRun(t *testing.T) {
	p := newProgram(t)
	image := filepath.Join(t.TempDir(), "image")
	writeFile(t, image, noise(48<<20, 1))
	first := p.startSlow("snapshot", image, "--volume", "disk", "--json")
	before := p.files()
	start := time.Now()
	second := p.command("snapshot", image, "--volume", "disk", "--json")
	code := p.run(second, forever)
	if took := time.Since(start); code != 5 || took > time.Second {
		t.Errorf("the second run ends with %d after %v: %s", code, took, stderr(second))
	}
	if !strings.Contains(stderr(second), "another run is at work") {
		t.Errorf("the second run says %q", stderr(second))
	}
	if after := p.files(); !equalLines(before, after) {
		t.Errorf("the second run touched the repository:\n%s\n---\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	// Another volume is nobody's business.
	other := filepath.Join(t.TempDir(), "other")
	writeFile(t, other, noise(1<<20, 2))
	p.must("snapshot", other, "--volume", "other")
	first.Process.Signal(syscall.SIGCONT)
	if code := p.wait(first); code != 0 {
		t.Errorf("the first run ends with %d: %s", code, stderr(first))
	}
	if n := len(p.list()); n != 2 {
		t.Errorf("%d points", n)
	}
	p.check()
}

func equalLines(a, b []string) bool { return strings.Join(a, "\n") == strings.Join(b, "\n") }

// TestRunsBesideEachOther makes points of several volumes at once, of data that
// they share in part.
func TestRunsBesideEachOther(t *testing.T) {
	p := newProgram(t)
	dir := t.TempDir()
	shared := noise(4<<20, 3)
	for round := range 3 {
		var cmds []*exec.Cmd
		for i := range 4 {
			image := filepath.Join(dir, fmt.Sprint("image", i))
			writeFile(t, image, append(noise(1<<20, uint64(100*round+i+1)), shared...))
			cmds = append(cmds, p.command("snapshot", image, "--volume", fmt.Sprint("disk", i)))
			if err := cmds[i].Start(); err != nil {
				t.Fatal(err)
			}
		}
		for i, cmd := range cmds {
			if code := p.wait(cmd); code != 0 {
				t.Errorf("disk%d ends with %d: %s", i, code, stderr(cmd))
			}
		}
	}
	if n := len(p.list()); n != 12 {
		t.Errorf("%d points", n)
	}
	p.check()
	for i := range 4 {
		out := filepath.Join(dir, "out")
		p.must("restore", fmt.Sprintf("disk%d@latest", i), "--to", out, "--force")
		if !bytes.Equal(readFile(t, out), readFile(t, filepath.Join(dir, fmt.Sprint("image", i)))) {
			t.Errorf("disk%d is not what it was", i)
		}
	}
}

// TestInterrupt ends runs as Ctrl-C does.
func TestInterrupt(t *testing.T) {
	p := newProgram(t)
	dir := t.TempDir()
	image, out := filepath.Join(dir, "image"), filepath.Join(dir, "out")
	data := noise(48<<20, 5)
	writeFile(t, image, data)
	for range 3 {
		cmd := p.startSlow("snapshot", image, "--volume", "disk")
		cmd.Process.Signal(os.Interrupt)
		start := time.Now()
		cmd.Process.Signal(syscall.SIGCONT)
		if code := p.wait(cmd); code != 130 || time.Since(start) > 2*time.Second {
			t.Errorf("ended with %d after %v: %s", code, time.Since(start), stderr(cmd))
		}
		if left := p.matching("*/.tmp-*"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	p.must("snapshot", image, "--volume", "disk")
	if left := p.matching("sess/[0-9a-f]*"); len(left) > 0 {
		t.Errorf("sessions left: %v", left)
	}
	p.check()

	// A restore is caught when its partial file is there.
	for i := 0; ; i++ {
		cmd := p.command("restore", "disk@latest", "--to", out)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 2000 {
			if left, _ := filepath.Glob(filepath.Join(dir, ".out.partial-*")); len(left) > 0 {
				break
			}
			time.Sleep(time.Millisecond / 2)
		}
		cmd.Process.Signal(os.Interrupt)
		code := p.wait(cmd)
		if code == 130 {
			onlyFiles(t, dir, "image")
			break
		}
		if os.Remove(out); code != 0 || i == 20 {
			t.Fatalf("restore ends with %d, try %d: %s", code, i, stderr(cmd))
		}
	}
	p.must("restore", "disk@latest", "--to", out)
	if !bytes.Equal(readFile(t, out), data) {
		t.Error("the file is not the image")
	}
	onlyFiles(t, dir, "image", "out")
}
