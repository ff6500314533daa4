package testkit

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// Tool returns the path of a foreign program that the test talks to. The test is
// skipped with -short, and where the program is missing, unless
// BLKBAK_REQUIRE_TOOLS is set: then it fails.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	if testing.Short() {
		tb.Skipf("interop with %s: not with -short", name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		// Where filesystem tools are, and where users often do not look.
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
			if path, err = exec.LookPath(dir + name); err == nil {
				break
			}
		}
	}
	switch {
	case err == nil:
		return path
	case os.Getenv("BLKBAK_REQUIRE_TOOLS") != "":
		tb.Fatalf("%s is missing: scripts/setup test", name)
	default:
		tb.Skipf("%s is missing: scripts/setup test", name)
	}
	return ""
}

// Tools is Tool for several programs, of which the test needs every one. It
// returns their paths in the order of names.
func Tools(tb testing.TB, names ...string) []string {
	tb.Helper()
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = Tool(tb, name)
	}
	return paths
}

// Soak returns how long a test that could go on for ever is to run, as `make
// soak` sets it in BLKBAK_SOAK ("10m"). Without that the test is skipped.
func Soak(tb testing.TB) time.Duration {
	tb.Helper()
	s := os.Getenv("BLKBAK_SOAK")
	if s == "" {
		tb.Skip("soak test: make soak")
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		tb.Fatalf("BLKBAK_SOAK=%q: want a duration such as 10m", s)
	}
	return d
}
