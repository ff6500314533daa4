package nbdserver

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/blkbak/blkbak"
)

func TestListenUnix(t *testing.T) {
	path := sockPath(t)
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if _, err := Listen("unix:" + path); !errors.Is(err, blkbak.ErrBusy) {
		t.Errorf("second server: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket still there: %v", err)
	}
}

func TestListenStale(t *testing.T) {
	path := sockPath(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	// What another server has put there since is not ours to remove.
	os.Remove(path)
	l2, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer l2.Close()
	l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("removed another server's socket: %v", err)
	}
}

func TestListenFile(t *testing.T) {
	path := sockPath(t)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + path); !errors.Is(err, blkbak.ErrExists) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestListenSpecs(t *testing.T) {
	for _, spec := range []string{"", "unix", "unix:", "tcp:", "tcp::10809", "tcp:localhost", "tcp:65536", "udp:1", "/tmp/sock"} {
		l, err := Listen(spec)
		if err == nil {
			l.Close()
		}
		if !errors.Is(err, blkbak.ErrUsage) || blkbak.Hint(err) == "" {
			t.Errorf("%q: %v, hint %q", spec, err, blkbak.Hint(err))
		}
	}
	for _, spec := range []string{"tcp:0", "tcp:127.0.0.1:0", "tcp:[::1]:0"} {
		l, err := Listen(spec)
		if err != nil {
			if spec == "tcp:[::1]:0" {
				t.Log(err) // not every machine has IPv6
				continue
			}
			t.Fatal(err)
		}
		if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
			t.Errorf("%s listens on %v", spec, l.Addr())
		}
		l.Close()
	}
}

func TestURI(t *testing.T) {
	for _, c := range []struct {
		addr       net.Addr
		name, want string
	}{
		{&net.UnixAddr{Net: "unix", Name: "/run/blkbak.sock"}, "vg/data@latest", "nbd+unix:///vg/data@latest?socket=%2Frun%2Fblkbak.sock"},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 10809}, "a b", "nbd://127.0.0.1:10809/a%20b"},
		{&net.TCPAddr{IP: net.IPv6loopback, Port: 1}, "", "nbd://[::1]:1/"},
	} {
		if got := URI(c.addr, c.name); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
