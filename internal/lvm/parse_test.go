package lvm

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
)

func recorded(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// volumes parses a recorded report into volumes by name.
func volumes(t *testing.T, name string) map[string]Volume {
	t.Helper()
	list, err := parseVolumes(recorded(t, name))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]Volume{}
	for _, v := range list {
		if _, twice := m[v.Name]; twice {
			t.Errorf("%s: %s is there twice", name, v.Name)
		}
		m[v.Name] = v
	}
	return m
}

func TestClassicSnapshot(t *testing.T) {
	m := volumes(t, "classic.json")
	if len(m) != 5 {
		t.Errorf("%d volumes", len(m))
	}
	origin, snap := m["data-1"], m["snap-1"]
	if origin.Kind != "linear" || origin.Size != 80<<20 || !origin.HasSnapshots || !origin.Valid || !origin.Active || origin.Tags != nil {
		t.Errorf("origin %+v", origin)
	}
	want := Volume{
		UUID: snap.UUID, Name: "snap-1", VG: "vg-x", VGUUID: origin.VGUUID, Kind: KindSnapshot,
		Size: 12 << 20, Origin: "data-1", OriginUUID: origin.UUID, ChunkSize: 4096,
		Tags:   []string{"a+b.c/d=e!f:g&h#i", "blkbak", "blkbak.point=0123456789abcdef"},
		Active: true, Valid: true, DataPercent: snap.DataPercent,
		Path: "/dev/vg-x/snap-1", DMPath: "/dev/mapper/vg--x-snap--1",
	}
	if !reflect.DeepEqual(snap, want) {
		t.Errorf("got  %+v\nwant %+v", snap, want)
	}
	if snap.DataPercent < 25 || snap.DataPercent > 26 { // 3 of 12 MiB, and metadata
		t.Errorf("%v %% full", snap.DataPercent)
	}
	if p, ok := snap.TagValue("point"); p != "0123456789abcdef" || !ok {
		t.Errorf("point %q, %v", p, ok)
	}
	if _, ok := snap.TagValue("base"); ok {
		t.Error("a tag that is not there")
	}
	if len(snap.UUID) != 38 || snap.COWPath() != "/dev/mapper/vg--x-snap--1-cow" || snap.FullName() != "vg-x/snap-1" {
		t.Errorf("%q, %q, %q", snap.UUID, snap.COWPath(), snap.FullName())
	}
	if s := m["snap-2"]; s.ChunkSize != 64<<10 || s.Tagged(Mark) {
		t.Errorf("second snapshot %+v", s)
	}
	if s := m["stripe"]; s.Kind != "striped" || s.HasSnapshots || s.DataPercent != -1 {
		t.Errorf("striped %+v", s)
	}
}

func TestSnapshotStates(t *testing.T) {
	for _, c := range []struct {
		file, name             string
		valid, active, merging bool
	}{
		{"classic.json", "snap-1", true, true, false},
		{"invalid.json", "small", false, true, false},
		{"inactive.json", "small", false, false, false},
		{"inactive.json", "stripe", true, false, false},
		{"merging.json", "mg", true, true, true},
		{"merging.json", "plain", true, true, true},
		{"halfmade.json", "plain", true, true, false},
	} {
		v, ok := volumes(t, c.file)[c.name]
		if !ok || v.Valid != c.valid || v.Active != c.active || v.Merging != c.merging {
			t.Errorf("%s in %s: %+v", c.name, c.file, v)
		}
	}
}

func TestThin(t *testing.T) {
	m := volumes(t, "thin.json")
	if p := m["pool"]; p.Kind != KindThinPool || p.ChunkSize != 64<<10 || p.HalfMade() {
		t.Errorf("pool %+v", p)
	}
	if v := m["thin"]; v.Kind != KindThin || v.Pool != "pool" || v.ThinID != 1 || v.Origin != "" || v.Size != 64<<20 {
		t.Errorf("thin %+v", v)
	}
	for name, active := range map[string]bool{"tsnap": false, "tsnap2": true} {
		v := m[name]
		if v.Kind != KindThin || v.Origin != "thin" || v.OriginUUID != m["thin"].UUID || v.Active != active || !v.Valid || v.HalfMade() {
			t.Errorf("%s %+v", name, v)
		}
	}
	if v := m["pool_tmeta"]; v.Path != "" || v.DMPath == "" {
		t.Errorf("a volume of LVM's own: %+v", v)
	}
}

func TestHalfMade(t *testing.T) {
	for name, v := range volumes(t, "halfmade.json") {
		if v.HalfMade() != (name == "fz") {
			t.Errorf("%s: half-made %v: %+v", name, v.HalfMade(), v)
		}
	}
	for name, v := range volumes(t, "classic.json") {
		if v.HalfMade() {
			t.Errorf("%s: half-made", name)
		}
	}
}

func TestGroups(t *testing.T) {
	list, err := parseGroups(recorded(t, "vgs.json"))
	if err != nil || len(list) != 2 {
		t.Fatalf("%d groups, %v", len(list), err)
	}
	g := list[0]
	if g.Name != "vg-x" || len(g.UUID) != 38 || g.Size != 148*4<<20 || g.ExtentSize != 4<<20 ||
		g.Free <= 0 || g.Free >= g.Size || g.Free%g.ExtentSize != 0 || g.MissingPVs != 0 {
		t.Errorf("%+v", g)
	}
}

// TestBadReports damages a report field by field: an error, or another value,
// but nothing worse.
func TestBadReports(t *testing.T) {
	for _, text := range []string{"", "{", "[]", `{"report":5}`, `{"report":[{"lv":5}]}`, `{"report":[{"lv":[{}]}]}`, `{"report":[{"lv":[{"lv_size":7}]}]}`} {
		if list, err := parseVolumes([]byte(text)); !errors.Is(err, blkbak.ErrCorrupt) {
			t.Errorf("%q: %v, %v", text, list, err)
		}
	}
	if list, err := parseVolumes([]byte(`{"report":[{"lv":[]}],"log":[]}`)); list != nil || err != nil {
		t.Errorf("nothing: %v, %v", list, err)
	}
	rows, err := parseReport(recorded(t, "classic.json"), "lv")
	if err != nil {
		t.Fatal(err)
	}
	for field := range rows[0] {
		for _, value := range []string{"", "x", "-5", "99999999999999999999"} {
			bad := row{}
			for k, v := range rows[0] {
				bad[k] = v
			}
			bad[field] = value
			text, _ := json.Marshal(map[string]any{"report": []any{map[string]any{"lv": []row{bad}}}})
			_, err := parseVolumes(text)
			if sized := strings.HasSuffix(field, "_size"); sized && value != "" && !errors.Is(err, blkbak.ErrCorrupt) {
				t.Errorf("%s is %q: %v", field, value, err)
			}
		}
	}
	if _, err := parseGroups([]byte(`{"report":[{"vg":[{"vg_name":"a","vg_uuid":"b","vg_size":"1","vg_free":"1","vg_extent_size":"0"}]}]}`)); !errors.Is(err, blkbak.ErrCorrupt) {
		t.Errorf("extents of no size: %v", err)
	}
}

func FuzzVolumes(f *testing.F) {
	f.Add(string(recorded(f, "thin.json")))
	f.Add(string(recorded(f, "merging.json")))
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseVolumes([]byte(text))
		if err != nil && list != nil {
			t.Error("a list and an error")
		}
		for _, v := range list {
			if v.UUID == "" || v.VG == "" || v.Size < 0 || v.ChunkSize < 0 {
				t.Errorf("%+v", v)
			}
		}
	})
}
