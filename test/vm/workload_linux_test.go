package vm

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// workload changes a filesystem in the background: a database commits, files
// come, change and go. It stops when the test ends, before its directory goes.
type workload struct {
	t         testing.TB
	dir       string
	committed atomic.Int64 // transactions that the database has acknowledged

	gate sync.Mutex // held by whoever is in the middle of a step
	stop chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

// databaseFile is the workload's database below its directory.
const databaseFile = "orders.db"

// startWorkload works in dir; journal is how the database does its commits.
func startWorkload(t testing.TB, dir string, journal string) *workload {
	t.Helper()
	w := &workload{t: t, dir: dir, stop: make(chan struct{})}
	db := w.openDatabase(journal)
	rng := rand.New(rand.NewPCG(1, 2))
	w.loop(func() error { return db.commit(&w.committed) })
	w.loop(func() error { return w.changeFile(rng) })
	t.Cleanup(func() {
		w.end()
		db.close(t)
	})
	return w
}

// loop repeats a step until the end, with a little rest after each.
func (w *workload) loop(step func() error) {
	w.wg.Go(func() {
		for {
			w.gate.Lock()
			err := step()
			w.gate.Unlock()
			if err != nil {
				w.t.Errorf("workload: %v", err)
				return
			}
			select {
			case <-w.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}

func (w *workload) end() {
	w.once.Do(func() { close(w.stop) })
	w.wg.Wait()
}

// pause holds the work between two steps, until resume.
func (w *workload) pause()  { w.gate.Lock() }
func (w *workload) resume() { w.gate.Unlock() }

// more waits until that many transactions more are committed.
func (w *workload) more(n int64) {
	w.t.Helper()
	want := w.committed.Load() + n
	eventually(w.t, "the database has done its work", func() bool { return w.committed.Load() >= want })
}

// changeFile does one random thing to one of some files.
func (w *workload) changeFile(rng *rand.Rand) error {
	const most = 192 << 10
	path := filepath.Join(w.dir, fmt.Sprintf("dir%d/file%d", rng.IntN(3), rng.IntN(8)))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data := randomBytes(rng.Uint64(), 1+rng.IntN(32<<10))
	op, flags := rng.IntN(6), os.O_WRONLY|os.O_CREATE
	switch op {
	case 0:
		if err := os.Remove(path); !os.IsNotExist(err) {
			return err
		}
		return nil
	case 1:
		if err := os.Rename(path, path+"x"); err != nil && !os.IsNotExist(err) {
			return err
		}
	case 2:
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	switch {
	case op == 3 || st.Size() > most: // shorter
		err = f.Truncate(rng.Int64N(st.Size() + 1))
	case op == 4: // longer
		_, err = f.WriteAt(data, st.Size())
	default: // over what is there, or with a hole before it
		_, err = f.WriteAt(data, rng.Int64N(most-int64(len(data))))
	}
	if err == nil && rng.IntN(4) == 0 {
		err = f.Sync()
	}
	return err
}

// database is the sqlite3 command with a database open.
type database struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *strings.Builder
}

func (w *workload) openDatabase(journal string) *database {
	w.t.Helper()
	db := &database{cmd: exec.Command("sqlite3", "-batch", "-bail", filepath.Join(w.dir, databaseFile)), stderr: &strings.Builder{}}
	db.cmd.Stderr = db.stderr
	stdout, err := db.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if db.stdin, err = db.cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	if err := db.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	db.stdout = bufio.NewReader(stdout)
	fmt.Fprintf(db.stdin, "pragma journal_mode=%s; pragma synchronous=full;\n"+
		"create table orders (n integer primary key, what text); create table pages (k integer primary key, what blob);\n"+
		"create table total (n integer); insert into total values (0);\n", journal)
	if got, err := db.stdout.ReadString('\n'); err != nil || got != journal+"\n" {
		w.t.Fatalf("sqlite3: journal mode %q, %v", got, err)
	}
	return db
}

// commit does one transaction: a new row, its number in another table, and a
// page of older data changed. It counts when sqlite3 has come back from it.
func (db *database) commit(committed *atomic.Int64) error {
	n := committed.Load() + 1
	_, err := fmt.Fprintf(db.stdin, "begin immediate; insert into orders values (%d, hex(randomblob(40))); "+
		"update total set n = %d; replace into pages values (%d, randomblob(3000)); commit; select %d;\n", n, n, n*7%50, n)
	if err != nil {
		return fmt.Errorf("sqlite3: %w", err)
	}
	got, err := db.stdout.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != strconv.FormatInt(n, 10) {
		return fmt.Errorf("sqlite3 says %q after transaction %d: %v", got, n, err)
	}
	committed.Store(n)
	return nil
}

func (db *database) close(t testing.TB) {
	db.stdin.Close()
	if err := db.cmd.Wait(); err != nil {
		t.Errorf("sqlite3: %v: %s", err, db.stderr)
	}
}

// rowsIn opens the workload's database below dir, rolls back what was under way,
// checks it and returns how many transactions it holds.
func rowsIn(t testing.TB, dir string) int64 {
	t.Helper()
	out := sh(t, "sqlite3", "-batch", filepath.Join(dir, databaseFile),
		"pragma integrity_check; select count(*), max(n), (select n from total) from orders")
	var count, last, total int64
	check, rest, _ := strings.Cut(out, "\n")
	if _, err := fmt.Sscanf(rest, "%d|%d|%d", &count, &last, &total); err != nil || check != "ok" {
		t.Fatalf("database below %s: %s", dir, out)
	}
	if count != last || count != total {
		t.Errorf("the database has %d rows, the last is %d, the total says %d: half a transaction", count, last, total)
	}
	return count
}
