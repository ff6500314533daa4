package nbdserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool runs a program of others. Where it is missing the test is skipped, unless
// BLKBAK_REQUIRE_TOOLS is set.
func tool(t *testing.T, name string, args ...string) (stdout string, err error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("BLKBAK_REQUIRE_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var errout strings.Builder
	cmd.Stderr = &errout
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, errout.String())
	}
	return string(out), err
}

func mustTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tool(t, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sameFile compares a file with the image by hash.
func sameFile(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%s has SHA-256 %x, the image %x", path, h.Sum(nil), want)
	}
}

// interopGrain: smaller holes make the files slow that the tools write.
const interopGrain = 64 << 10

// interop runs f for each kind of image on each kind of socket.
func interop(t *testing.T, f func(t *testing.T, uri string, data []byte)) {
	m := sparseImage(8<<20, interopGrain)
	cold := *m
	cold.cold = true
	exports := Fixed{
		export("vg/data@latest", len(m.data), m),
		export("mapped", len(m.data), &cold),
		export("plain", len(m.data), bytes.NewReader(m.data)),
		export("slow", len(m.data), slowImage{bytes.NewReader(m.data), 200 * time.Microsecond}),
	}
	for _, spec := range []string{"", "tcp:0"} {
		addr, _ := startServer(t, Options{Exports: exports}, spec)
		for _, e := range exports {
			t.Run(addr.Network()+"/"+e.Name, func(t *testing.T) { f(t, URI(addr, e.Name), m.data) })
		}
	}
}

func TestInteropInfo(t *testing.T) {
	interop(t, func(t *testing.T, uri string, data []byte) {
		if got := mustTool(t, "nbdinfo", "--size", uri); strings.TrimSpace(got) != fmt.Sprint(len(data)) {
			t.Errorf("size %q", got)
		}
		for _, fact := range [][2]string{{"--is", "read-only"}, {"--can", "multi-conn"}, {"--can", "flush"},
			{"--can", "df"}, {"--can", "structured-reply"}} {
			if _, err := tool(t, "nbdinfo", fact[0], fact[1], uri); err != nil {
				t.Error(err)
			}
		}
		for _, lie := range []string{"write", "trim", "zero", "fua", "cache", "fast-zero"} {
			if _, err := tool(t, "nbdinfo", "--can", lie, uri); err == nil {
				t.Errorf("can %s", lie)
			}
		}
		var info struct {
			Exports []struct {
				Contexts  []string
				Size      int64 `json:"export-size"`
				ReadOnly  bool  `json:"is_read_only"`
				Min       int   `json:"block_size_minimum"`
				Preferred int   `json:"block_size_preferred"`
				Max       int   `json:"block_size_maximum"`
			}
		}
		out := mustTool(t, "nbdinfo", "--json", uri)
		if err := json.Unmarshal([]byte(out), &info); err != nil {
			t.Fatal(err)
		}
		e := info.Exports[0]
		if e.Size != int64(len(data)) || !e.ReadOnly || e.Min != 1 || e.Preferred != 4096 || e.Max != 32<<20 ||
			len(e.Contexts) != 1 || e.Contexts[0] != "base:allocation" {
			t.Errorf("%s", out)
		}
	})
}

func TestInteropList(t *testing.T) {
	exports, _ := twoExports()
	for i := range 200 { // asks about each of them on one connection
		exports = append(exports, export(fmt.Sprintf("more-%d", i), 4096, exports[0].Image))
	}
	addr, _ := startServer(t, Options{Exports: exports}, "")
	var list struct {
		Exports []struct {
			Name        string `json:"export-name"`
			Description string
			Size        int64 `json:"export-size"`
		}
	}
	out := mustTool(t, "nbdinfo", "--list", "--json", URI(addr, ""))
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Exports) != len(exports) {
		t.Fatalf("%d of %d exports", len(list.Exports), len(exports))
	}
	for i, e := range list.Exports {
		if e.Name != exports[i].Name || e.Size != exports[i].Size || e.Description != exports[i].Description {
			t.Errorf("%+v, want %+v", e, exports[i])
		}
	}
}

func TestInteropMap(t *testing.T) {
	interop(t, func(t *testing.T, uri string, data []byte) {
		var runs []struct {
			Offset, Length int64
			Type           int
		}
		if err := json.Unmarshal([]byte(mustTool(t, "nbdinfo", "--map", "--json", uri)), &runs); err != nil {
			t.Fatal(err)
		}
		m, end, holes, want := &memImage{data: data}, int64(0), int64(0), int64(0)
		for _, r := range runs {
			if r.Offset != end || r.Type == 3 && !m.zero(r.Offset, r.Length) {
				t.Fatalf("%+v after %d", r, end)
			}
			end += r.Length
			if r.Type == 3 {
				holes += r.Length
			}
		}
		if !strings.Contains(uri, "plain") && !strings.Contains(uri, "slow") { // those have no map
			for off := int64(0); off < int64(len(data)); off += interopGrain {
				if m.zero(off, interopGrain) {
					want += interopGrain
				}
			}
		}
		if end != int64(len(data)) || holes != want {
			t.Errorf("map ends at %d of %d, %d bytes of holes, want %d", end, len(data), holes, want)
		}
	})
}

func TestInteropCopy(t *testing.T) {
	interop(t, func(t *testing.T, uri string, data []byte) {
		for i, args := range [][]string{
			{"-C", "1"},
			{"-C", "4"},
			{"-C", "4", "--no-extents"},
			{"--synchronous", "--request-size=4194304"},
			{"-C", "1", "-R", "1"},
		} {
			to := filepath.Join(t.TempDir(), fmt.Sprint(i))
			mustTool(t, "nbdcopy", append(args, uri, to)...)
			sameFile(t, to, data)
		}
	})
}

func TestInteropQemu(t *testing.T) {
	interop(t, func(t *testing.T, uri string, data []byte) {
		dir := t.TempDir()
		img := filepath.Join(dir, "raw")
		if err := os.WriteFile(img, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if out := mustTool(t, "qemu-img", "info", "--output=json", uri); !strings.Contains(out, fmt.Sprintf(`"virtual-size": %d`, len(data))) {
			t.Errorf("%s", out)
		}
		mustTool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, img)
		for _, args := range [][]string{{"-O", "raw"}, {"-O", "raw", "-m", "16", "-W"}} {
			to := filepath.Join(dir, "copy")
			mustTool(t, "qemu-img", append(append([]string{"convert", "-f", "raw"}, args...), uri, to)...)
			sameFile(t, to, data)
		}
		// A restore point as the backing file of a disk that can be written.
		top := filepath.Join(dir, "top.qcow2")
		mustTool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", uri, top)
		mustTool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", top, img)
		if _, err := tool(t, "qemu-io", "-f", "raw", "-c", "write 0 4k", uri); err == nil {
			t.Error("qemu-io could write")
		}
		out := mustTool(t, "qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", "-c", "read 1M 5M", uri)
		if strings.Count(out, "ops;") != 2 || strings.Contains(out, "failed") {
			t.Errorf("%s", out)
		}
	})
}

func TestInteropReadError(t *testing.T) {
	data := randomImage(4 << 20)
	bad := flakyImage{ReaderAt: bytes.NewReader(data)}
	bad.bad.Off, bad.bad.Len = 1<<20, 4096
	addr, _ := startServer(t, Options{Exports: Fixed{export("x", len(data), bad)}}, "")
	out, err := tool(t, "qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", "-c", "read 1M 4k", "-c", "read 2M 4k", URI(addr, "x"))
	if strings.Count(out, "read 4096/4096 bytes") != 2 || strings.Count(out, "Input/output error") > 1 {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := tool(t, "nbdcopy", URI(addr, "x"), filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("copied an image that cannot be read")
	}
}

func TestInteropFio(t *testing.T) {
	interop(t, func(t *testing.T, uri string, data []byte) {
		out := mustTool(t, "fio", "--name=x", "--ioengine=nbd", "--uri="+uri, "--rw=randread", "--bs=4k", "--iodepth=32",
			"--readonly", "--number_ios=2000", "--output-format=json", fmt.Sprintf("--size=%d", len(data)))
		var res struct {
			Jobs []struct {
				Error int
				Read  struct {
					TotalIOs int64 `json:"total_ios"`
				}
			}
		}
		if err := json.Unmarshal([]byte(out[strings.IndexByte(out, '{'):]), &res); err != nil {
			t.Fatal(err)
		}
		if res.Jobs[0].Error != 0 || res.Jobs[0].Read.TotalIOs == 0 {
			t.Errorf("%s", out)
		}
	})
}
