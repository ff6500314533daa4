package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blkbak/blkbak/internal/testkit"
)

// TestServe holds what libnbd and qemu read from a served point against the image
// that the point was made of.
func TestServe(t *testing.T) {
	tools := testkit.Tools(t, "nbdinfo", "nbdcopy", "qemu-img")
	nbdinfo, nbdcopy, qemuImg := tools[0], tools[1], tools[2]
	dir := t.TempDir()
	t.Setenv("BLKBAK_REPO", filepath.Join(dir, "repo"))
	t.Setenv("BLKBAK_STATE_DIR", filepath.Join(dir, "state"))
	old, img := filepath.Join(dir, "old"), filepath.Join(dir, "img")
	makeImage(t, img, 1)
	inProcess(t, "init")
	inProcess(t, "snapshot", img, "--volume", "disk")
	copyFile(t, old, img)
	makeImage(t, img, 2)
	inProcess(t, "snapshot", img, "--volume", "disk")

	sock := filepath.Join(dir, "s")
	port := freePort(t)
	stop := serveInProcess(t, "serve", "--listen", "unix:"+sock, "--listen", "tcp:127.0.0.1:"+port)
	uris := func(export string) []string {
		return []string{"nbd+unix:///" + export + "?socket=" + sock, "nbd://127.0.0.1:" + port + "/" + export}
	}
	for _, uri := range uris("disk@latest") {
		checkInfo(t, nbdinfo, uri, img)
		tool(t, qemuImg, "compare", "-f", "raw", "-F", "raw", uri, img)
		for _, args := range [][]string{{"-C", "1"}, {"-C", "4"}, {"--synchronous"}} {
			out := filepath.Join(dir, "copy")
			tool(t, nbdcopy, append(args, uri, out)...)
			sameFiles(t, out, img)
			os.Remove(out)
		}
		out := filepath.Join(dir, "converted")
		tool(t, qemuImg, "convert", "-f", "raw", "-O", "raw", "-m", "8", "-W", uri, out)
		sameFiles(t, out, img)
	}
	for _, uri := range uris("disk@~1") {
		tool(t, qemuImg, "compare", "-f", "raw", "-F", "raw", uri, old)
	}
	// disk@latest follows new points; who is connected keeps what he has.
	makeImage(t, img, 3)
	inProcess(t, "snapshot", img, "--volume", "disk")
	for _, uri := range uris("disk@latest") {
		tool(t, qemuImg, "compare", "-f", "raw", "-F", "raw", uri, img)
	}
	list := tool(t, nbdinfo, "--list", "--json", "nbd+unix://?socket="+sock)
	if n := strings.Count(list, `"export-name"`); n != 3 {
		t.Errorf("%d exports listed: %s", n, list)
	}
	if out, err := exec.Command(nbdinfo, "nbd+unix:///disk@~7?socket="+sock).CombinedOutput(); err == nil {
		t.Errorf("an export that does not exist: %s", out)
	}
	if code := stop(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(sock); err == nil {
		t.Error("the socket is still there")
	}
}

func checkInfo(t *testing.T, nbdinfo, uri, img string) {
	t.Helper()
	var info struct {
		Exports []struct {
			Size  int64 `json:"export-size"`
			RO    bool  `json:"is_read_only"`
			Multi bool  `json:"can_multi_conn"`
		} `json:"exports"`
	}
	text := tool(t, nbdinfo, "--json", uri)
	if err := json.Unmarshal([]byte(text), &info); err != nil || len(info.Exports) != 1 {
		t.Fatalf("%v: %s", err, text)
	}
	st, err := os.Stat(img)
	if err != nil {
		t.Fatal(err)
	}
	if e := info.Exports[0]; e.Size != st.Size() || !e.RO || !e.Multi {
		t.Errorf("%s: %+v", uri, e)
	}
}

// makeImage writes an image with text, noise and holes, different for each seed
// in some places. Its size is no multiple of a chunk.
func makeImage(t *testing.T, path string, seed uint64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 24<<20 + 512*7
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	fixed, r := rand.New(rand.NewPCG(7, 7)), rand.New(rand.NewPCG(seed, 7))
	for i, src := range []*rand.Rand{fixed, r} {
		for range 40 {
			b := []byte(strings.Repeat(fmt.Sprintf("line %d of %d\n", src.Uint64(), i), 1+src.IntN(4000)))
			if src.IntN(2) == 0 {
				for j := range b {
					b[j] = byte(src.Uint32())
				}
			}
			if _, err := f.WriteAt(b[:min(len(b), 200<<10)], src.Int64N(size-200<<10)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// inProcess runs a command line that must succeed.
func inProcess(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code != exitDone {
		t.Fatalf("blkbak %s: exit code %d\n%s", strings.Join(args, " "), code, errs.String())
	}
	return out.String()
}

// serveInProcess starts a server and returns when it listens.
func serveInProcess(t *testing.T, args ...string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, args, strings.NewReader(""), io.Discard, w)
		w.Close()
	}()
	want := strings.Count(strings.Join(args, " "), "--listen")
	said := make([]byte, 0, 4096)
	for strings.Count(string(said), "listening on") < want {
		b := make([]byte, 512)
		n, err := r.Read(b)
		if said = append(said, b[:n]...); err != nil {
			t.Fatalf("serve ended: %s", said)
		}
	}
	go io.Copy(io.Discard, r)
	ended := false
	stop = func() int {
		if ended {
			return 0
		}
		ended = true
		cancel()
		select {
		case c := <-code:
			return c
		case <-time.After(30 * time.Second):
			t.Error("the server does not end")
			return -1
		}
	}
	t.Cleanup(func() { stop() })
	return stop
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}
