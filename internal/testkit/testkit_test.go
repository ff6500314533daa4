package testkit

import (
	"path/filepath"
	"testing"
	"time"
)

// recorder is a test that notes how it would have ended, and goes on.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Skip(...any)           { r.skipped = true }
func (r *recorder) Skipf(string, ...any)  { r.skipped = true }
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

func TestTool(t *testing.T) {
	if testing.Short() {
		t.Skip("with -short every tool is left out")
	}
	if got := Tool(t, "sh"); filepath.Base(got) != "sh" || !filepath.IsAbs(got) {
		t.Errorf("Tool(sh) = %q", got)
	}
	for _, c := range []struct {
		require         string
		skipped, failed bool
	}{{"", true, false}, {"1", false, true}} {
		t.Setenv("BLKBAK_REQUIRE_TOOLS", c.require)
		r := &recorder{TB: t}
		if got := Tool(r, "no-such-program"); got != "" {
			t.Errorf("Tool found %q", got)
		}
		if r.skipped != c.skipped || r.failed != c.failed {
			t.Errorf("BLKBAK_REQUIRE_TOOLS=%q: skipped %v, failed %v", c.require, r.skipped, r.failed)
		}
	}
}

func TestSoak(t *testing.T) {
	t.Setenv("BLKBAK_SOAK", "90s")
	if got := Soak(t); got != 90*time.Second {
		t.Errorf("got %v", got)
	}
	t.Setenv("BLKBAK_SOAK", "")
	r := &recorder{TB: t}
	defer func() {
		if !r.skipped {
			t.Error("not skipped without BLKBAK_SOAK")
		}
	}()
	Soak(r)
}
