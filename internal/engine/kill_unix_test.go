//go:build unix

package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/testkit"
)

const killedSize = 8 << 20

// TestKill kills runs at any moment, hundreds of times. Whatever was acknowledged
// stays, the next run needs nobody's help, and garbage does not grow.
func TestKill(t *testing.T) {
	rounds, limit := 300, 75*time.Second
	if testing.Short() {
		rounds, limit = 40, 15*time.Second
	}
	newKiller(t, 11).rounds(rounds, limit)
}

// TestKillSoak does so for as long as one likes.
func TestKillSoak(t *testing.T) {
	end := time.Now().Add(testkit.Soak(t))
	for seed := uint64(100); time.Now().Before(end); seed++ {
		newKiller(t, seed).rounds(300, time.Until(end))
	}
}

// killer is a volume, whose content is known, and runs that are killed.
type killer struct {
	*program
	r          *rand.Rand
	image, cow string
	data       []byte            // the image
	contents   map[string][]byte // by root: of the latest point, and of the image
	took       map[string]time.Duration
	acked      []made
	killed     int
	written    int64 // bytes that changed in all
}

func newKiller(t *testing.T, seed uint64) *killer {
	dir := t.TempDir()
	k := &killer{program: newProgram(t), r: rand.New(rand.NewPCG(seed, 1)), image: filepath.Join(dir, "image"), cow: filepath.Join(dir, "cow"),
		data: noise(killedSize, seed), contents: map[string][]byte{}, took: map[string]time.Duration{}, written: killedSize}
	clear(k.data[1<<20 : 3<<20])
	return k
}

// rounds makes so many runs, or as many as there is time for on a slow machine.
func (k *killer) rounds(most int, limit time.Duration) {
	k.Helper()
	n := 0
	for begin := time.Now(); n < most && (n < 20 || time.Since(begin) < limit); n++ {
		k.round(n)
		if n%50 == 49 {
			k.check()
		}
	}
	k.check()
	k.garbage()
	k.Logf("%d runs, %d killed, %d points acknowledged, %v for a run", n, k.killed, len(k.acked), k.took)
	if k.killed < n/5 || len(k.acked) < n/5 {
		k.Errorf("the killing is not at random moments")
	}
	points := k.list()
	for _, a := range k.acked {
		if !slices.ContainsFunc(points, func(p made) bool { return p.Point == a.Point && p.Root == a.Root }) {
			k.Fatalf("point %v was acknowledged and is gone", a.Point)
		}
	}
	for range 12 {
		a := k.acked[k.r.IntN(len(k.acked))]
		if got := rootOf(k, k.must("restore", a.Point.String(), "--to", "-")); got != a.Root {
			k.Fatalf("point %v restores to root %v, want %v", a.Point, got, a.Root)
		}
	}
	if got := k.must("restore", "disk@latest", "--to", "-"); !bytes.Equal(got, k.contents[points[len(points)-1].Root.String()]) {
		k.Fatal("the latest point is not what the image was")
	}
}

func rootOf(t testing.TB, data []byte) chunkstore.ID {
	t.Helper()
	id, err := Root(t.Context(), &memoryDevice{data: data}, chunkstore.DefaultChunkSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (k *killer) round(i int) {
	k.Helper()
	// What the volume's latest point holds: the last run may have been killed
	// after its commit, or before.
	var latest []byte
	if p, ok := k.latest(); ok {
		root := p.Root.String()
		if latest = k.contents[root]; latest == nil {
			k.Fatalf("round %d: point %v has root %s, which no image had", i, p.ID, root)
		}
		k.contents = map[string][]byte{root: latest}
	}
	k.scribble()
	root := rootOf(k, k.data)
	k.contents[root.String()] = slices.Clone(k.data)
	writeFile(k, k.image, k.data)

	args := []string{"snapshot", k.image, "--volume", "disk", "--json"}
	mode := blkbak.ModeScan
	switch {
	case latest == nil:
		mode = blkbak.ModeFull
	case k.r.IntN(5) == 0:
		mode, args = blkbak.ModeFull, append(args, "--full")
	case k.r.IntN(2) == 0:
		mode, args = blkbak.ModeCOW, append(args, "--cow", k.cow)
		k.writeStore(latest)
	}
	cmd := k.command(args...)
	code, took := k.runAndKill(cmd, mode)
	if code == -1 {
		k.killed++
		return
	}
	if code != 0 {
		k.Fatalf("round %d: %s run ends with %d: %s", i, mode, code, stderr(cmd))
	}
	k.took[string(mode)] = took
	var p made
	k.decode(stdout(cmd), &p)
	if p.Root != root || p.Mode != mode {
		k.Fatalf("round %d: point %v by %s has root %v, want %v by %s", i, p.Point, p.Mode, p.Root, root, mode)
	}
	k.acked = append(k.acked, p)
}

// latest is the volume's latest point, read without the program for speed.
func (k *killer) latest() (catalog.Point, bool) {
	k.Helper()
	store, err := chunkstore.Open(k.Context(), k.repo, chunkstore.Options{})
	if err != nil {
		k.Fatal(err)
	}
	defer store.Close()
	cat, err := catalog.Load(k.Context(), store)
	if err != nil || len(cat.Damaged()) > 0 {
		k.Fatal(err, cat.Damaged())
	}
	return cat.Latest("disk")
}

// runAndKill runs cmd, and in most cases kills it before it would end.
func (k *killer) runAndKill(cmd *exec.Cmd, mode blkbak.Mode) (code int, took time.Duration) {
	k.Helper()
	usual, known := k.took[string(mode)]
	limit := forever
	if known && k.r.IntN(4) > 0 {
		limit = time.Duration(k.r.Int64N(int64(usual)*5/4 + 1))
	}
	start := time.Now()
	return k.run(cmd, limit), time.Since(start)
}

// scribble changes some places of the image.
func (k *killer) scribble() {
	for range 1 + k.r.IntN(4) {
		n := 1 + k.r.IntN(200<<10)
		off := k.r.IntN(killedSize - n)
		if k.r.IntN(4) == 0 {
			clear(k.data[off : off+n])
		} else {
			copy(k.data[off:], noise(n, k.r.Uint64()|1))
		}
		k.written += int64(n) + 2*chunkstore.DefaultChunkSize
	}
}

// writeStore makes the exception store that a snapshot of the latest point's
// content has by now.
func (k *killer) writeStore(latest []byte) {
	k.Helper()
	var changed []blkbak.Extent
	for off := 0; off < killedSize; off += cow.DefaultChunk {
		if !bytes.Equal(latest[off:off+cow.DefaultChunk], k.data[off:off+cow.DefaultChunk]) {
			changed = blkbak.AppendExtent(changed, blkbak.Extent{Off: int64(off), Len: cow.DefaultChunk})
		}
	}
	f, err := os.Create(k.cow)
	if err != nil {
		k.Fatal(err)
	}
	defer f.Close()
	n, err := cow.Write(k.Context(), f, bytes.NewReader(latest), changed, cow.WriteOptions{OriginSize: killedSize})
	if err == nil {
		err = f.Truncate(n)
	}
	if err != nil {
		k.Fatal(err)
	}
}

// garbage looks at what all the killing has left behind.
func (k *killer) garbage() {
	k.Helper()
	temps := k.matching("*/.tmp-*")
	k.Logf("temporary files left by killed runs: %d", len(temps))
	for _, name := range temps { // as they are after an hour
		old := time.Now().Add(-2 * time.Hour)
		if err := os.Chtimes(name, old, old); err != nil {
			k.Fatal(err)
		}
	}
	k.contents = map[string][]byte{}
	k.killOnce()
	k.scribble()
	writeFile(k, k.image, k.data)
	k.contents[rootOf(k, k.data).String()] = slices.Clone(k.data)
	k.must("snapshot", k.image, "--volume", "disk")
	left := slices.DeleteFunc(k.matching("*/.tmp-*"), func(name string) bool { return !slices.Contains(temps, name) })
	if left = append(left, k.matching("sess/[0-9a-f]*")...); len(left) > 0 {
		k.Errorf("left after a quiet run: %s", strings.Join(left, " "))
	}
	var size int64
	for _, name := range append(k.matching("packs/*"), k.matching("idx/*")...) {
		st, err := os.Stat(name)
		if err != nil {
			k.Fatal(err)
		}
		size += st.Size()
	}
	if most := k.written * 5 / 4; size > most {
		k.Errorf("the repository takes %d bytes, all that was ever written is %d", size, k.written)
	}
	if names, err := os.ReadDir(filepath.Join(k.state, k.repository(), "disk")); err != nil || len(names) != 1 || names[0].Name() != "lock" {
		k.Errorf("state left: %v, %v", names, err)
	}
}

// killOnce kills a run for certain: its session is left.
func (k *killer) killOnce() {
	k.Helper()
	for range 100 {
		k.scribble()
		writeFile(k, k.image, k.data)
		cmd := k.command("snapshot", k.image, "--volume", "disk")
		before := len(k.matching("sess/[0-9a-f]*"))
		if err := cmd.Start(); err != nil {
			k.Fatal(err)
		}
		for n := 0; n < 5000 && len(k.matching("sess/[0-9a-f]*")) == before; n++ {
			time.Sleep(time.Millisecond / 5)
		}
		cmd.Process.Kill()
		if k.wait(cmd) == -1 && len(k.matching("sess/[0-9a-f]*")) > 0 {
			return
		}
	}
	k.Fatal("no run was killed in its session")
}

// repository is the identifier of the repository, which its state goes by.
func (k *killer) repository() string {
	names, err := os.ReadDir(k.state)
	if err != nil || len(names) != 1 {
		k.Fatal(fmt.Sprint(names), err)
	}
	return names[0].Name()
}
