package vm

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKillInVM kills runs at all moments of their life while a filesystem is being
// worked on.
func TestKillInVM(t *testing.T) {
	const kills = 30
	x := newKillTest(t)
	// Spread over a run's whole time, as the last one took it: some end before.
	for i := 0; x.killed < kills && i < 2*kills; i++ {
		x.kill(time.Duration((float64(i%kills) + x.rng.Float64()) / kills * float64(x.takes)))
		if i%3 == 2 {
			x.undisturbed()
		}
	}
	x.undisturbed()
	x.end()
	if x.killed < kills {
		t.Errorf("%d runs killed before their end, want %d", x.killed, kills)
	}
}

// TestSoakKill does the same at random moments for as long as it is told.
func TestSoakKill(t *testing.T) {
	end := time.Now().Add(soakTime(t))
	x := newKillTest(t)
	for time.Now().Before(end) {
		for range 1 + x.rng.IntN(3) {
			x.kill(time.Duration(x.rng.Float64() * 1.1 * float64(x.takes)))
		}
		x.undisturbed()
	}
	x.end()
}

// soakTime is how long the tests that go on are to go on.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("BLKBAK_SOAK")
	if text == "" {
		t.Skip("BLKBAK_SOAK does not say how long: make soak")
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("BLKBAK_SOAK: %v", err)
	}
	return d
}

type killTest struct {
	*testing.T
	vg     *volumeGroup
	args   []string // of blkbak
	dir    string   // where the volume is mounted
	work   *workload
	takes  time.Duration // the last run that was not killed
	rng    *rand.Rand
	points []point
	killed int // runs that did not come to their end
	seen   map[string]int
}

func newKillTest(t *testing.T) *killTest {
	t.Helper()
	newRepo(t, "")
	vg := newVG(t)
	origin := vg.create("data", "32M")
	mkfs(t, origin, "ext4")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	x := &killTest{T: t, vg: vg, dir: mount(t, origin), rng: rand.New(rand.NewPCG(seed, 0)), seen: map[string]int{},
		args: []string{"--json", "snapshot", vg.ref("data"), "--cow-size", "40MiB"}}
	x.work = startWorkload(t, x.dir, "delete")
	x.work.more(10)
	x.undisturbed()
	x.undisturbed()
	return x
}

// kill starts a run and kills it after some time; what it had started lives on, as
// it would in life. The filesystem must work, and what was committed be whole.
func (x *killTest) kill(after time.Duration) {
	x.Helper()
	p := start(x, append([]string{program(x)}, x.args...)...)
	time.Sleep(after)
	moment := "between commands"
	if running := lvmCommands(x); len(running) > 0 {
		moment = running[0]
	}
	p.cmd.Process.Kill() // it may have ended: Wait tells
	p.cmd.Wait()
	if !p.cmd.ProcessState.Exited() {
		x.killed++
		x.seen[moment]++
	} else if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		x.Fatalf("a run after %d killed ones ends with code %d: %s", x.killed, code, p.text())
	}
	eventually(x, "LVM's commands have ended", func() bool { return len(lvmCommands(x)) == 0 })
	x.wantAlive()
	var report struct{ OK bool }
	if runJSON(x, &report, "check"); !report.OK {
		x.Fatal("the repository is not whole after a kill")
	}
}

// wantAlive makes sure that nothing stands still: the filesystem takes a write,
// the database goes on, no device is suspended.
func (x *killTest) wantAlive() {
	x.Helper()
	wantThawed(x, x.dir)
	x.work.more(1)
	for line := range strings.Lines(sh(x, "dmsetup", "info", "-c", "--noheadings", "-o", "name,suspended")) {
		if strings.Contains(line, "Suspended") {
			x.Errorf("device-mapper: %s", line)
		}
	}
}

// undisturbed makes a point the ordinary way: it must not matter what the killed
// runs left.
func (x *killTest) undisturbed() {
	x.Helper()
	mode := "lvm-cow"
	if len(x.points) == 0 {
		mode = "full"
	}
	begin := time.Now()
	p := snapshotRun(x, 0, x.args[2:]...)
	x.takes = time.Since(begin)
	if p.Mode != mode {
		x.Errorf("made by %s, want %s", p.Mode, mode)
	}
	x.vg.wantPoint("data", p)
	x.points = append(x.points, p)
}

// end looks at all points once more.
func (x *killTest) end() {
	x.Helper()
	x.work.end()
	runOK(x, "check", "--read-data")
	for _, p := range x.points {
		if got := showPoint(x, p.ID); got.Root != p.Root {
			x.Errorf("point %s had root %s, now it has %s", p.ID, p.Root, got.Root)
		}
	}
	wantRestored(x.T, x.points[0])
	wantRestored(x.T, x.points[len(x.points)/2])
	x.Logf("%d runs killed, of %v each, during: %v", x.killed, x.takes.Round(time.Millisecond), x.seen)
	if x.killed == 0 {
		x.Error("no run was killed before its end")
	}
}

// lvmCommands returns what runs of LVM's and device-mapper's commands, the
// tests' own apart: there are none while this is asked.
func lvmCommands(t testing.TB) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var running []string
	for _, path := range stats {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		name, _, _ := strings.Cut(string(line), "\x00")
		for _, prefix := range []string{"lv", "vg", "dmsetup"} {
			if strings.HasPrefix(filepath.Base(name), prefix) {
				running = append(running, filepath.Base(name))
			}
		}
	}
	return running
}
