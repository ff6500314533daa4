package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/blockdev"
)

// point is what snapshot and show print with --json, as far as tests look at it.
type point struct {
	ID       string   `json:"point"`
	Volume   string   `json:"volume"`
	Root     string   `json:"root"`
	Parent   string   `json:"parent"`
	Size     int64    `json:"size"`
	Mode     string   `json:"mode"`
	Read     int64    `json:"bytes_read"`
	Changed  int64    `json:"bytes_changed"`
	Warnings []string `json:"warnings"`
}

// newRepo makes a repository in dir, and makes it the one that blkbak uses until
// the test ends, with the state of its runs beside it. "" is a directory in
// memory.
func newRepo(t *testing.T, dir string) {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	useRepo(t, dir)
	runOK(t, "init")
}

// useRepo makes what newRepo made in dir the repository in use.
func useRepo(t *testing.T, dir string) {
	t.Helper()
	t.Setenv("BLKBAK_REPO", filepath.Join(dir, "repo"))
	t.Setenv("BLKBAK_STATE_DIR", filepath.Join(dir, "state"))
}

// snapshotRun makes a point in a run that must end with that code, 0 or 3.
func snapshotRun(t testing.TB, code int, args ...string) point {
	t.Helper()
	r := run(t, append([]string{"--json", "snapshot"}, args...)...)
	if r.code != code {
		t.Fatalf("exit code %d wanted, not this: %v", code, r)
	}
	var p point
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil {
		t.Fatalf("%v: %v", r, err)
	}
	if (len(p.Warnings) > 0) != (code == 3) || (code == 3) != strings.Contains(r.stderr, `"code":3`) {
		t.Errorf("warnings do not go with the exit code: %v", r)
	}
	return p
}

// refused runs blkbak snapshot, which must end with that code, print no result
// and give a hint that contains text.
func refused(t testing.TB, code int, hint string, args ...string) {
	t.Helper()
	r := run(t, append([]string{"snapshot"}, args...)...)
	_, said, _ := strings.Cut(r.stderr, "hint: ")
	if r.code != code || r.stdout != "" || !strings.Contains(said, hint) {
		t.Fatalf("exit code %d and a hint with %q wanted, not this: %v", code, hint, r)
	}
}

// showPoint is what the repository has of a point.
func showPoint(t testing.TB, id string) point {
	t.Helper()
	var p point
	runJSON(t, &p, "show", id)
	return p
}

// rootOf reads all of a device or file, and returns the root that a point of it
// must have.
func rootOf(t testing.TB, path string) string {
	t.Helper()
	return strings.TrimSpace(runOK(t, "root", path))
}

// bases returns the names of the group's volumes that blkbak made, sorted.
func (vg *volumeGroup) bases() []string {
	vg.t.Helper()
	out := vg.lvm("lvs", "--noheadings", "-a", "-o", "lv_name", "-O", "lv_name", "-S", "lv_tags=blkbak", vg.name)
	return strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(out)) // brackets: internal, or merging
}

// base returns the name of the only volume in the group that blkbak made: a
// snapshot of the origin, sound, and tagged with the point it was read for.
func (vg *volumeGroup) base(origin string, p point) string {
	vg.t.Helper()
	names := vg.bases()
	if len(names) != 1 {
		vg.t.Fatalf("volumes of blkbak in %s: %v, want one", vg.name, names)
	}
	of, tags, _ := strings.Cut(vg.lvm("lvs", "--noheadings", "--separator", " ", "-o", "origin,lv_tags", vg.ref(names[0])), " ")
	if of != origin || !slices.Contains(strings.Split(tags, ","), "blkbak.point="+p.ID) {
		vg.t.Errorf("%s is a snapshot of %q with tags %s, want one of %s for point %s", names[0], of, tags, origin, p.ID)
	}
	if st := snapshotStatus(vg.t, vg.dm(names[0])); st.Usable() != nil {
		vg.t.Errorf("%s: %v", names[0], st.Usable())
	}
	return names[0]
}

// wantPoint compares a point with the snapshot that it was made from: by the root
// that a full read of it gives, and as the repository has it. It returns the
// snapshot's name.
func (vg *volumeGroup) wantPoint(origin string, p point) string {
	vg.t.Helper()
	base := vg.base(origin, p)
	if got := showPoint(vg.t, p.ID); got.Root != p.Root || got.Volume != p.Volume || got.Mode != p.Mode {
		vg.t.Errorf("the run said %+v, the repository has %+v", p, got)
	}
	if root := rootOf(vg.t, vg.path(base)); root != p.Root {
		vg.t.Errorf("point %s, made by %s, has root %s; a full read of %s gives %s", p.ID, p.Mode, p.Root, base, root)
	}
	return base
}

// wantRestored restores a point and fails the test unless the file has the
// point's root.
func wantRestored(t *testing.T, p point) {
	t.Helper()
	image := filepath.Join(t.TempDir(), p.ID)
	runOK(t, "restore", p.ID, "--to", image)
	if root := rootOf(t, image); root != p.Root {
		t.Errorf("point %s has root %s, what it restores to %s", p.ID, p.Root, root)
	}
	if err := os.Remove(image); err != nil {
		t.Error(err)
	}
}

// snapshotStatus is what the kernel says about a snapshot.
func snapshotStatus(t testing.TB, dm string) cow.Status {
	t.Helper()
	targets, err := cow.ParseTargets(sh(t, "dmsetup", "status", dm))
	if err != nil || len(targets) != 1 {
		t.Fatalf("status of %s: %v, %v", dm, targets, err)
	}
	st, err := targets[0].Status()
	if err != nil {
		t.Fatalf("status of %s: %v", dm, err)
	}
	return st
}

// readStore reads the table of an exception store past the page cache.
func readStore(t testing.TB, dev string, o cow.Options) *cow.Store {
	t.Helper()
	d, err := blockdev.Open(dev, blockdev.Options{Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := cow.Read(t.Context(), d, d.Size(), o)
	if err != nil {
		t.Fatalf("%s: %v", dev, err)
	}
	return s
}

// listed is how much an increment on a snapshot reads at least: the chunks of a
// repository that hold what the snapshot's table lists.
func (vg *volumeGroup) listed(snap string, originSize int64) int64 {
	vg.t.Helper()
	s := readStore(vg.t, vg.cow(snap), cow.Options{OriginSize: originSize})
	return blkbak.ExtentBytes(blkbak.AlignExtents(s.Extents(), 64<<10, originSize))
}

// server serves all points of the repository.
type server struct {
	t      testing.TB
	socket string
}

func serve(t testing.TB) *server {
	t.Helper()
	sh(t, "modprobe", "nbd")
	s := &server{t, filepath.Join(t.TempDir(), "nbd.sock")}
	p := start(t, program(t), "serve", "--listen", "unix:"+s.socket)
	t.Cleanup(func() {
		if code := p.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("serve ends with code %d on SIGTERM", code)
		}
	})
	eventually(t, "the server listens", func() bool { _, err := os.Stat(s.socket); return err == nil })
	return s
}

// attach makes a point a device of the kernel's NBD client, until detach or the
// end of the test.
func (s *server) attach(name string) (dev string, detach func()) {
	s.t.Helper()
	dev = "/dev/nbd0"
	eventually(s.t, dev+" is free", func() bool { return size(s.t, dev) == 0 })
	sh(s.t, "nbd-client", "-unix", s.socket, "-N", name, dev)
	attached := true
	detach = func() {
		s.t.Helper()
		if attached {
			attached = false
			sh(s.t, "nbd-client", "-d", dev)
		}
	}
	s.t.Cleanup(detach)
	eventually(s.t, fmt.Sprintf("point %s is on %s", name, dev), func() bool { return size(s.t, dev) > 0 })
	return dev, detach
}
