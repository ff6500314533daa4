package cow

import (
	"errors"
	"slices"
	"testing"

	"github.com/blkbak/blkbak"
)

func parseOne(t *testing.T, line string) Target {
	t.Helper()
	ts, err := ParseTargets(line)
	if err != nil || len(ts) != 1 {
		t.Fatalf("%q: %v, %v", line, ts, err)
	}
	return ts[0]
}

func TestParseTargets(t *testing.T) {
	got, err := ParseTargets("vg-a--b: 0 8 linear 254:0 2048\nempty:\n\n0 16 snapshot-origin 253:1\r\n")
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	a, b := got[0], got[1]
	if a.Name != "vg-a--b" || a.Length != 8*512 || a.Kind != "linear" || !slices.Equal(a.Args, []string{"254:0", "2048"}) {
		t.Errorf("%+v", a)
	}
	if b.Name != "" || b.Length != 16*512 || b.Kind != TargetOrigin {
		t.Errorf("%+v", b)
	}
	if got, err := ParseTargets("No devices found\n"); len(got) != 0 || err != nil {
		t.Error(got, err)
	}
	for _, bad := range []string{"x", "vg-a: 0 8", "vg-a: 0 -8 linear", "vg-a: zero 8 linear", "0 99999999999999999999 linear", "0 36028797018963968 linear"} {
		if got, err := ParseTargets(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestTable(t *testing.T) {
	for _, c := range []struct {
		line string
		want Table
	}{
		{"0 16384 snapshot 253:1 253:2 P 8", Table{Origin: "253:1", COW: "253:2", Persistent: true, ChunkSize: 4096}},
		{"0 16384 snapshot 253:1 253:2 PO 32 1 discard_zeroes_cow",
			Table{Origin: "253:1", COW: "253:2", Persistent: true, Overflow: true, ChunkSize: 16384, Features: []string{"discard_zeroes_cow"}}},
		{"0 16384 snapshot 253:1 253:2 N 8 2 a b", Table{Origin: "253:1", COW: "253:2", ChunkSize: 4096, Features: []string{"a", "b"}}},
		{"0 16384 snapshot-merge 253:1 253:2 P 8 0", Table{Origin: "253:1", COW: "253:2", Persistent: true, ChunkSize: 4096}},
		{"0 16384 snapshot-origin 253:1", Table{Origin: "253:1"}},
	} {
		got, err := parseOne(t, c.line).Table()
		if err != nil || got.Origin != c.want.Origin || got.COW != c.want.COW || got.Persistent != c.want.Persistent ||
			got.Overflow != c.want.Overflow || got.ChunkSize != c.want.ChunkSize || !slices.Equal(got.Features, c.want.Features) {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
	}
	for _, bad := range []string{
		"0 8 snapshot 253:1 253:2 P", "0 8 snapshot 253:1 253:2 X 8", "0 8 snapshot 253:1 253:2 P eight",
		"0 8 snapshot 253:1 253:2 P 8 1", "0 8 snapshot 253:1 253:2 P 8 0 a", "0 8 snapshot-origin", "0 8 snapshot-origin 1 2",
	} {
		if got, err := parseOne(t, bad).Table(); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	if _, err := parseOne(t, "0 8 linear 254:0 0").Table(); !errors.Is(err, blkbak.ErrUsage) {
		t.Error(err)
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		line                       string
		state                      State
		allocated, total, metadata int64 // sectors
		areas                      int64 // of 4 KiB chunks
		usable                     bool
	}{
		{"0 8 snapshot 11512/32768 56", StateActive, 11512, 32768, 56, 6, true},
		{"0 8 snapshot 16/8192 16", StateActive, 16, 8192, 16, 1, true},
		{"0 8 snapshot 1280/8192 0", StateActive, 1280, 8192, 0, 0, false},
		{"0 8 snapshot 1280/8192", StateActive, 1280, 8192, 0, 0, false},
		{"0 8 snapshot-merge 6864/65536 40", StateActive, 6864, 65536, 40, 4, false},
		{"0 8 snapshot Invalid", StateInvalid, 0, 0, 0, 0, false},
		{"0 8 snapshot Overflow", StateOverflow, 0, 0, 0, 0, false},
		{"0 8 snapshot Unknown", StateUnknown, 0, 0, 0, 0, false},
		{"0 8 snapshot-merge Merge failed", StateMergeFailed, 0, 0, 0, 0, false},
		{"0 8 snapshot Merge failed", StateMergeFailed, 0, 0, 0, 0, false},
	} {
		got, err := parseOne(t, c.line).Status()
		if err != nil || got.State != c.state || got.Allocated != c.allocated*512 || got.Total != c.total*512 || got.Metadata != c.metadata*512 {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
		if got.Areas(4096) != c.areas || got.Areas(0) != 0 {
			t.Errorf("%q: %d areas", c.line, got.Areas(4096))
		}
		if err := got.Usable(); (err == nil) != c.usable || err != nil && !errors.Is(err, blkbak.ErrNeedsFull) {
			t.Errorf("%q: %v", c.line, err)
		}
	}
	for _, bad := range []string{"0 8 snapshot", "0 8 snapshot Gone", "0 8 snapshot 1/2/3 4", "0 8 snapshot 1/2 3 4", "0 8 snapshot 1/2 x", "0 8 snapshot /2 3"} {
		if got, err := parseOne(t, bad).Status(); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	if _, err := parseOne(t, "0 8 snapshot-origin ").Status(); !errors.Is(err, blkbak.ErrUsage) {
		t.Error(err)
	}
}

func FuzzStatus(f *testing.F) {
	f.Add("vg-snap: 0 131072 snapshot 253:1 253:2 P 8")
	f.Add("vg-snap: 0 131072 snapshot 11512/32768 56")
	f.Fuzz(func(t *testing.T, text string) {
		ts, err := ParseTargets(text)
		if err != nil {
			return
		}
		for _, target := range ts {
			if tab, err := target.Table(); err == nil && (tab.ChunkSize < 0 || tab.Length < 0) {
				t.Errorf("%+v", tab)
			}
			if st, err := target.Status(); err == nil && (st.Areas(4096) < 0 || st.Allocated < 0 || st.Total < 0) {
				t.Errorf("%+v", st)
			}
		}
	})
}
