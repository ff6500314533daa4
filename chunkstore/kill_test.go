package chunkstore

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// killedWriter, set in the environment, makes the test binary a writer into the
// repository that it names.
const killedWriter = "BLKBAK_TEST_KILLED_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killedWriter); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// writeUntilKilled commits sessions, and prints each seed once its list of
// objects is committed.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, dir, Options{PackSize: 8 << 10})
	if err != nil {
		return err
	}
	for {
		seed := rand.Uint64()
		w, err := s.Begin(ctx)
		if err != nil {
			return err
		}
		for i, b := range objects(seed, 6) {
			if _, err := w.Put(ctx, Kind(1+i%2), b); err != nil {
				return err
			}
		}
		if err := w.Commit(ctx, strconv.AppendUint(nil, seed, 10)); err != nil {
			return err
		}
		fmt.Println(seed)
		if err := w.Close(); err != nil {
			return err
		}
	}
}

// Writers are killed at random times, two at a time on the same repository. What
// they acknowledged is there, and no one has to do anything for that.
func TestKill(t *testing.T) {
	t.Parallel()  // it waits most of the time
	rounds := 100 // of two kills each
	if testing.Short() {
		rounds = 10
	}
	dir := filepath.Join(t.TempDir(), "repo")
	if _, err := Init(t.Context(), dir, 0); err != nil {
		t.Fatal(err)
	}
	acked := make(map[string]bool)
	for range rounds {
		var seeds [2]func() []string
		for i := range seeds {
			seeds[i] = startWriter(t, dir, time.Duration(rand.Int64N(int64(200*time.Millisecond))))
		}
		for _, wait := range seeds {
			for _, seed := range wait() {
				acked[seed] = true
			}
		}
	}
	s := reopen(t, dir)
	outcomes, err := s.Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lost := maps.Clone(acked)
	for _, o := range outcomes {
		if o.Err != nil {
			t.Error(o.Err)
		}
		if o.Committed {
			seed, _ := strconv.ParseUint(string(o.Body), 10, 64)
			wantAll(t, s, objects(seed, 6))
			delete(lost, string(o.Body))
		}
	}
	if len(lost) > 0 {
		t.Errorf("lost %d of %d acknowledged sessions", len(lost), len(acked))
	}
	t.Logf("%d sessions acknowledged, %d ended, %d were open", len(acked), len(outcomes), len(files(t, dir, "sess")))
	store(t, s, "", objects(1, 3)) // takes over what was open
	if left, err := s.backend.List(t.Context(), "sess"); err != nil || len(left) > 0 {
		t.Errorf("markers left: %v, %v", left, err)
	}
	if p := verify(t, s); len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
}

// startWriter starts a writer, to be killed after some time. The function returned
// waits for its end and returns the seeds that it acknowledged.
func startWriter(t *testing.T, dir string, after time.Duration) func() []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), killedWriter+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	return func() (seeds []string) {
		defer timer.Stop()
		for lines := bufio.NewScanner(out); lines.Scan(); {
			seeds = append(seeds, lines.Text())
		}
		if err := cmd.Wait(); cmd.ProcessState.Exited() {
			t.Errorf("a writer ended by itself: %v", err)
		}
		return seeds
	}
}
