package lvm

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/run"
)

// fake answers commands from recorded text and remembers them.
type fake struct {
	t       *testing.T
	answers map[string]answer // by the name of the command
	ran     []string
}

type answer struct {
	out, err string
	exit     int
}

func (f *fake) Run(ctx context.Context, c run.Cmd) (run.Result, error) {
	f.ran = append(f.ran, c.String())
	if c.Timeout == 0 {
		f.t.Errorf("%s: no time limit", c)
	}
	a, ok := f.answers[c.Name]
	if !ok {
		f.t.Fatalf("%s: not expected", c)
	}
	if c.Name == "vgcfgbackup" && a.exit == 0 {
		if err := os.WriteFile(c.Args[1], []byte(a.out), 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	res := run.Result{Stdout: []byte(a.out), Stderr: []byte(a.err), Exit: a.exit}
	if a.exit != 0 {
		return res, &run.Error{Cmd: c.String(), Exit: a.exit, Stderr: a.err}
	}
	return res, nil
}

func (f *fake) wantLast(want string) {
	f.t.Helper()
	if len(f.ran) == 0 || f.ran[len(f.ran)-1] != want {
		f.t.Errorf("ran %q\nwant %s", f.ran, want)
	}
}

func tools(t *testing.T, report string) (*Tools, *fake) {
	f := &fake{t: t, answers: map[string]answer{"lvs": {out: string(recorded(t, report))}}}
	return New(f), f
}

func TestLookups(t *testing.T) {
	ctx := t.Context()
	l, f := tools(t, "classic.json")
	v, err := l.Volume(ctx, "/dev/mapper/vg--x-snap--1")
	if err != nil || v.Name != "snap-1" {
		t.Errorf("%+v, %v", v, err)
	}
	f.wantLast("lvs -a --reportformat json --units b --nosuffix -o " + lvsFields + " vg-x/snap-1")
	if _, err := l.Volume(ctx, "vg-x/other"); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := l.Volumes(ctx, ""); err != nil {
		t.Error(err)
	}
	f.wantLast("lvs -a --reportformat json --units b --nosuffix -o " + lvsFields)
	if _, err := l.Tagged(ctx, "blkbak.point=1"); err != nil {
		t.Error(err)
	}
	f.wantLast("lvs -a --reportformat json --units b --nosuffix -o " + lvsFields + ` -S 'lv_tags={"blkbak.point=1"}'`)
	f.answers["vgs"] = answer{out: string(recorded(t, "vgs.json"))}
	if g, err := l.Group(ctx, "vgb"); err != nil || g.Name != "vgb" {
		t.Errorf("%+v, %v", g, err)
	}
	f.answers["vgcfgbackup"] = answer{out: "contents = \"Text Format Volume Group\"\n"}
	if text, err := l.Metadata(ctx, "vg-x"); err != nil || !strings.HasPrefix(string(text), "contents") {
		t.Errorf("%q, %v", text, err)
	}
	f.answers["dmsetup"] = answer{out: "0 163840 snapshot 6184/24576 40\n"}
	if u, err := l.Status(ctx, DMName("vg-x", "snap-1", "")); err != nil || u.Metadata != 40*512 {
		t.Errorf("%+v, %v", u, err)
	}
	f.wantLast("dmsetup status vg--x-snap--1")
	ran := len(f.ran)
	for _, err := range []error{
		second(l.Volume(ctx, "vg-x/-f")), second(l.Volumes(ctx, "-a")), second(l.Group(ctx, "--all")),
		second(l.Metadata(ctx, "-f")), second(l.Status(ctx, "--force")), second(l.Status(ctx, "")), second(l.Tagged(ctx, `x"}||{"`)),
	} {
		if !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("a name that looks like an option: %v", err)
		}
	}
	if len(f.ran) != ran {
		t.Errorf("ran %q", f.ran[ran:])
	}
}

func second[T any](_ T, err error) error { return err }

func TestCreateArguments(t *testing.T) {
	f := &fake{t: t, answers: map[string]answer{"lvcreate": {}}}
	l := New(f)
	err := l.CreateSnapshot(t.Context(), Spec{VG: "vg", Origin: "data", Name: "blkbak-data.1", Size: 64 << 20, ChunkSize: 64 << 10,
		Tags: []string{"blkbak.point=01", "x"}, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	f.wantLast("lvcreate -s -y -n blkbak-data.1 --addtag blkbak --addtag blkbak.point=01 --addtag x -L 67108864b -c 65536b -pr vg/data")
	if err := l.CreateSnapshot(t.Context(), Spec{VG: "vg", Origin: "thin", Name: "s"}); err != nil {
		t.Fatal(err)
	}
	f.wantLast("lvcreate -s -y -n s --addtag blkbak -kn -ay vg/thin")
	ran := len(f.ran)
	for _, s := range []Spec{
		{}, {VG: "vg", Origin: "o", Name: "-f"}, {VG: "-f", Origin: "o", Name: "s"}, {VG: "vg", Origin: "o/x", Name: "s"},
		{VG: "vg", Origin: "o", Name: "s", Size: 100}, {VG: "vg", Origin: "o", Name: "s", Size: -512},
		{VG: "vg", Origin: "o", Name: "s", Size: 1 << 20, ChunkSize: 3 << 10}, {VG: "vg", Origin: "o", Name: "s", Size: 1 << 20, ChunkSize: 1 << 20},
		{VG: "vg", Origin: "o", Name: "s", ChunkSize: 4096}, {VG: "vg", Origin: "o", Name: "s", Tags: []string{"a b"}},
		{VG: "vg", Origin: "o", Name: "s", Tags: []string{"-x"}}, {VG: "vg", Origin: "o", Name: "s", Tags: []string{""}},
	} {
		if err := l.CreateSnapshot(t.Context(), s); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if len(f.ran) != ran {
		t.Errorf("ran %q", f.ran[ran:])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.CreateSnapshot(ctx, Spec{VG: "vg", Origin: "o", Name: "s"}); !errors.Is(err, context.Canceled) || len(f.ran) != ran {
		t.Errorf("cancelled before: %v, ran %q", err, f.ran[ran:])
	}
}

func TestChangesOnlyWhatIsOurs(t *testing.T) {
	ctx := t.Context()
	for _, c := range []struct{ report, name string }{
		{"classic.json", "vg-x/data-1"}, {"classic.json", "vg-x/snap-2"}, {"classic.json", "vg-x/stripe"}, {"classic.json", "vg-x/gone"},
	} {
		l, f := tools(t, c.report)
		for what, err := range map[string]error{
			"remove": l.Remove(ctx, c.name), "tag": l.Retag(ctx, c.name, nil, []string{"x"}), "rename": l.Rename(ctx, c.name, "other"),
		} {
			if !errors.Is(err, blkbak.ErrUsage) && !errors.Is(err, blkbak.ErrNotFound) {
				t.Errorf("%s %s: %v", what, c.name, err)
			}
		}
		for _, r := range f.ran {
			if !strings.HasPrefix(r, "lvs ") {
				t.Errorf("ran %s", r)
			}
		}
	}
}

func TestChanges(t *testing.T) {
	ctx := t.Context()
	l, f := tools(t, "classic.json")
	v := volumes(t, "classic.json")["snap-1"]
	sel := ` -S 'lv_uuid="` + v.UUID + `" && lv_tags={"blkbak"}' vg-x/snap-1`
	f.answers["lvremove"] = answer{out: "  Logical volume \"snap-1\" successfully removed.\n"}
	if err := l.Remove(ctx, "vg-x/snap-1"); err != nil {
		t.Error(err)
	}
	f.wantLast("lvremove -f" + sel)
	f.answers["lvremove"] = answer{}
	if err := l.Remove(ctx, "vg-x/snap-1"); !errors.Is(err, blkbak.ErrNotFound) {
		t.Errorf("replaced by another: %v", err)
	}
	f.answers["lvchange"] = answer{}
	if err := l.Retag(ctx, "vg-x/snap-1", []string{"blkbak.point=1"}, []string{"blkbak.point=2", "b"}); err != nil {
		t.Error(err)
	}
	f.wantLast("lvchange --deltag blkbak.point=1 --addtag blkbak.point=2 --addtag b" + sel)
	for _, c := range [][2][]string{{{Mark}, nil}, {{"a b"}, nil}, {nil, {"-x"}}} {
		if err := l.Retag(ctx, "vg-x/snap-1", c[0], c[1]); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%q: %v", c, err)
		}
	}
	f.answers["lvrename"] = answer{}
	if err := l.Rename(ctx, "vg-x/snap-1", "blkbak-1"); err != nil {
		t.Error(err)
	}
	f.wantLast("lvrename vg-x snap-1 blkbak-1")
	if err := l.Rename(ctx, "vg-x/snap-1", "-f"); !errors.Is(err, blkbak.ErrUsage) {
		t.Error(err)
	}
}

// TestRecordedErrors feeds what the tools really said to the classifier.
func TestRecordedErrors(t *testing.T) {
	want := map[string]error{
		"lvs vg-x/none":            blkbak.ErrNotFound,
		"lvs none":                 blkbak.ErrNotFound,
		"lvcreate -s -y -n snap-1": blkbak.ErrExists,
		"lvcreate -s -y -n big":    blkbak.ErrNotFound,
		"lvcreate -s -y -n full":   blkbak.ErrNoSpace,
		"lvrename vg-x snap-1":     blkbak.ErrExists,
		"lvrename vg-x none":       blkbak.ErrNotFound,
		"lvchange --addtag foo":    blkbak.ErrNotFound,
		"vgs none":                 blkbak.ErrNotFound,
		"vgcfgbackup":              blkbak.ErrNotFound,
		"dmsetup status":           blkbak.ErrNotFound,
		"lvremove -f vgb/plain":    blkbak.ErrBusy,
		"lvremove -f vgb/ps":       blkbak.ErrBusy,
		"lvcreate -y -s -n fz":     blkbak.ErrBusy,
	}
	for _, part := range strings.Split(string(recorded(t, "errors.txt")), "== ")[1:] {
		cmd, rest, _ := strings.Cut(part, "\n")
		said, exit, _ := strings.Cut(rest, "rc=")
		for prefix, is := range want {
			if !strings.HasPrefix(cmd, prefix) {
				continue
			}
			delete(want, prefix)
			if strings.HasPrefix(exit, "0") {
				t.Errorf("%s: recorded as a success", cmd)
			}
			if err := classify(&run.Error{Cmd: cmd, Exit: 5, Stderr: said}); !errors.Is(err, is) {
				t.Errorf("%v: want %v", err, is)
			}
		}
	}
	for prefix := range want {
		t.Errorf("no record of %s", prefix)
	}
	if err := classify(nil); err != nil {
		t.Error(err)
	}
	// Words do not count when the command was stopped.
	err := classify(&run.Error{Exit: -1, Stderr: "not found", Err: context.DeadlineExceeded})
	if errors.Is(err, blkbak.ErrNotFound) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	_, f := tools(t, "classic.json")
	f.answers["lvcreate"] = answer{err: `  Volume group "vg-x" has insufficient free space (0 extents): 2 required.`, exit: 5}
	err = New(f).CreateSnapshot(t.Context(), Spec{VG: "vg-x", Origin: "o", Name: "s", Size: 1 << 20})
	if !errors.Is(err, blkbak.ErrNoSpace) || !strings.Contains(blkbak.Hint(err), "vgextend") {
		t.Errorf("%v, hint %q", err, blkbak.Hint(err))
	}
}

func TestCOWSize(t *testing.T) {
	const m, g = int64(1 << 20), int64(1 << 30)
	// What LVM 2.03.16 reduced a too large request to: 68 MiB for 64 MiB.
	if got := (MaxCOWSize(64*m, 4096) + 4*m - 1) / (4 * m) * (4 * m); got != 68*m {
		t.Errorf("largest store for 64 MiB: %d", got)
	}
	for _, c := range []struct {
		origin, chunk, extent, free, want int64
	}{
		{100 * g, 4096, 4 * m, 100 * g, (100*g/100*15 + 4*m - 1) / (4 * m) * (4 * m)},
		{100 * g, 4096, 4 * m, 20 * g, 10 * g},  // half of what is free
		{100 * m, 4096, 4 * m, 100 * g, 64 * m}, // at least 64 MiB
		{32 * m, 4096, 4 * m, 100 * g, 36 * m},  // but no more than of use
		{32 * m, 4096, 4 * m, 72 * m, 36 * m},
		{100 * g, 4096, 4 * m, 128 * m, 64 * m},
		{100 * g, 4096, 4 * m, 127 * m, 0},
		{100 * g, 4096, 4 * m, 0, 0},
	} {
		got, err := DefaultCOWSize(c.origin, c.chunk, Group{Name: "vg", Free: c.free, ExtentSize: c.extent})
		if got != c.want || (c.want == 0) != errors.Is(err, blkbak.ErrNoSpace) {
			t.Errorf("%+v: %d, %v", c, got, err)
		}
	}
	if _, err := DefaultCOWSize(0, 0, Group{}); !errors.Is(err, blkbak.ErrUsage) {
		t.Error(err)
	}
}
