package nbdserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/blkbak/blkbak"
)

// defaultPort is what IANA gave to NBD.
const defaultPort = "10809"

// Listen opens the socket that spec names: "unix:PATH", "tcp:HOST:PORT", or
// "tcp:PORT" for the loopback address. A unix socket is for its owner alone (mode
// 0600), takes the place of one that nobody listens on any more, and is removed
// when the listener is closed.
func Listen(spec string) (net.Listener, error) {
	kind, addr, _ := strings.Cut(spec, ":")
	switch {
	case addr == "":
	case kind == "unix":
		return listenUnix(addr)
	case kind == "tcp":
		return listenTCP(addr)
	}
	return nil, blkbak.WithHint(fmt.Errorf("%w: listen address %q", blkbak.ErrUsage, spec),
		"use unix:PATH, tcp:HOST:PORT or tcp:PORT")
}

func listenTCP(addr string) (net.Listener, error) {
	if _, err := strconv.ParseUint(addr, 10, 16); err == nil {
		addr = net.JoinHostPort("127.0.0.1", addr)
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil && host == "" {
		err = errors.New("no host") // would listen on every address there is
	}
	if err != nil {
		return nil, blkbak.WithHint(fmt.Errorf("%w: listen address tcp:%s: %w", blkbak.ErrUsage, addr, err),
			"use tcp:HOST:PORT, tcp:PORT for this machine alone, or tcp:0.0.0.0:PORT for all networks")
	}
	if port == "" {
		port = defaultPort
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// unixListener removes its socket when it is closed, but not one that another
// server has put there since.
type unixListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
}

func listenUnix(path string) (net.Listener, error) {
	if path[0] == '@' {
		path = "./" + path // an abstract socket would have no mode and no owner
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: privateSocket}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	ul := &unixListener{UnixListener: l.(*net.UnixListener), path: path}
	ul.SetUnlinkOnClose(false)
	// privateSocket has done this where the system has a way; elsewhere the
	// directory has to protect the socket for this moment.
	err = os.Chmod(path, 0o600)
	if err == nil {
		ul.made, err = os.Lstat(path)
	}
	if err != nil {
		l.Close()
		os.Remove(path)
		return nil, fmt.Errorf("listen: %w", err)
	}
	return ul, nil
}

func (l *unixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// removeStale removes the socket at path if no one answers there.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen: %w", err)
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on unix socket %s: a file that is no socket %w", path, blkbak.ErrExists)
	}
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		nc.Close()
		return fmt.Errorf("listen on unix socket %s: another server answers there: %w", path, blkbak.ErrBusy)
	}
	if !refused(err) { // full queue, no permission: somebody may be there
		return fmt.Errorf("listen on unix socket %s: %w: %w", path, blkbak.ErrBusy, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}

// URI is what clients call the export name at addr, as doc/uri.md of
// NetworkBlockDevice/nbd defines it.
func URI(addr net.Addr, name string) string {
	u := url.URL{Scheme: "nbd", Host: addr.String(), Path: "/" + name}
	if addr.Network() == "unix" {
		u.Scheme, u.Host = "nbd+unix", ""
		u.RawQuery = url.Values{"socket": {addr.String()}}.Encode()
	}
	return u.String()
}
