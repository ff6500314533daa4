package vm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// The power goes at a random moment while points are made, again and again: each
// point that a run has reported must be whole, and runs must go on by themselves.

func TestPowerCutExt4(t *testing.T) { cutPower(t, "ext4", 3) }
func TestPowerCutXFS(t *testing.T)  { cutPower(t, "xfs", 2) }

// TestPowerCutSoak does as many cuts as a machine is started again for.
func TestPowerCutSoak(t *testing.T) {
	soakTime(t)
	cutPower(t, "xfs", 19)
}

// cutPower is one boot. The repository is on a filesystem of that type.
func cutPower(t *testing.T, fstype string, cuts int) {
	x := &powerTest{T: t, log: scratchDisk(t)}
	data, repo := scratchDisk(t), scratchDisk(t)
	if boot(t) == 1 {
		x.vg = newVG(t, data)
		x.vg.create("data", "32M")
		mkfs(t, repo, fstype)
		newRepo(t, mount(t, repo))
	} else {
		x.vg = existingVG(t, data)
		useRepo(t, mount(t, repo))
		x.wantAcknowledged()
	}
	if boot(t) <= cuts {
		first := make(chan time.Duration, 1)
		go x.makePoints(first)
		takes := <-first
		rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
		after := time.Duration(rng.Int64N(int64(takes) + int64(takes)/2))
		t.Logf("a run takes %v; the power is cut %v after the end of one", takes, after)
		time.Sleep(after)
		powerCut(t)
	}
	// The last boot: all is well, and stays so without help.
	for range 2 {
		scribble(t, x.vg.path("data"), uint64(time.Now().UnixNano()), 20, 4096)
		p := snapshotRun(t, 0, x.args()...)
		if p.Mode != "lvm-cow" {
			t.Errorf("a run after all is made by %s", p.Mode)
		}
		x.vg.wantPoint("data", p)
	}
	runOK(t, "check", "--read-data")
}

type powerTest struct {
	*testing.T
	vg  *volumeGroup
	log string // a disk: a line for each point that was reported, zeros after them
}

func (x *powerTest) args() []string {
	// The name of a machine that has none can change with its network.
	return []string{x.vg.ref("data"), "--volume", "data", "--cow-size", "36MiB"}
}

// makePoints makes points of a volume that changes, until the power goes, and
// logs each before the next begins. When the first is logged, or when that has
// failed, first gets the time it took.
func (x *powerTest) makePoints(first chan<- time.Duration) {
	begin := time.Now()
	tell := sync.OnceFunc(func() { first <- time.Since(begin) })
	defer tell()
	log := openDirect(x, x.log, os.O_WRONLY|os.O_SYNC)
	defer log.Close()
	at := int64(len(x.acknowledged())) * 512
	for seed := uint64(time.Now().UnixNano()); !x.Failed(); seed++ {
		dev := x.vg.path("data")
		scribble(x, dev, seed, 40, 16<<10)
		p := snapshotRun(x, 0, x.args()...)
		line := directBuffer(512)
		copy(line, fmt.Sprintf("%s %s\n", p.ID, p.Root))
		if _, err := log.WriteAt(line, at); err != nil {
			x.Error(err)
			return
		}
		at += 512
		tell()
	}
}

// acknowledged returns the log: IDs and roots, in order.
func (x *powerTest) acknowledged() []point {
	x.Helper()
	log := openDirect(x, x.log, os.O_RDONLY)
	defer log.Close()
	var points []point
	for block := directBuffer(512); ; {
		if _, err := log.ReadAt(block, int64(len(points))*512); err != nil {
			x.Fatal(err)
		}
		if block[0] == 0 {
			return points
		}
		var p point
		if _, err := fmt.Sscan(string(block), &p.ID, &p.Root); err != nil {
			x.Fatalf("log: %q: %v", block, err)
		}
		points = append(points, p)
	}
}

// wantAcknowledged looks at what the power cut left: every point of the log is
// there and whole, and a run that nobody helps makes the next one.
func (x *powerTest) wantAcknowledged() {
	x.Helper()
	points := x.acknowledged()
	runOK(x, "check", "--read-data")
	var kept []point
	runJSON(x, &kept, "list")
	there := map[string]string{}
	for _, p := range kept {
		there[p.ID] = p.Root
	}
	for _, p := range points {
		if there[p.ID] != p.Root {
			x.Errorf("point %s was reported with root %s, after the power cut the repository has %q", p.ID, p.Root, there[p.ID])
		}
	}
	left := strings.Join(x.vg.bases(), " ")
	r := run(x, append([]string{"snapshot", "--json"}, x.args()...)...)
	if r.code != 0 && r.code != 3 {
		x.Fatalf("the first run after a power cut: %v", r)
	}
	var p point
	runJSON(x, &p, "show", "data@latest")
	x.vg.wantPoint("data", p)
	if len(points) > 0 {
		wantRestored(x.T, points[len(points)-1])
	}
	x.Logf("boot %d: %d points reported, %d there; of snapshots %q; the next run ended with %d, mode %s %v",
		boot(x), len(points), len(kept), left, r.code, p.Mode, p.Warnings)
}
