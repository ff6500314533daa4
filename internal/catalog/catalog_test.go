package catalog

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
)

type fakeOutcomes []chunkstore.Outcome

func (f fakeOutcomes) Outcomes(context.Context) ([]chunkstore.Outcome, error) { return f, nil }

func point(volume string, n int64, at string, tags map[string]string) Point {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	sum := chunkstore.Sum(fmt.Append(nil, volume, n))
	id := blkbak.PointID(sum[:8])
	return Point{ID: id, Volume: volume, Number: n, Time: t, Size: 1 << 20, ChunkSize: 65536,
		Root: chunkstore.Sum([]byte(at)), Mode: blkbak.ModeFull, Tags: tags, Program: "test"}
}

func load(t *testing.T, points ...Point) *Catalog {
	t.Helper()
	var f fakeOutcomes
	for _, p := range points {
		b, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		f = append(f, chunkstore.Outcome{Session: p.ID, Committed: true, Body: b})
	}
	f = append(f, chunkstore.Outcome{Session: blkbak.NewPointID()}, chunkstore.Outcome{Session: blkbak.NewPointID(), Committed: true})
	c, err := Load(t.Context(), f)
	if err != nil || len(c.Damaged()) > 0 {
		t.Fatal(err, c.Damaged())
	}
	return c
}

func TestFind(t *testing.T) {
	a := point("host/vg/data", 1, "2026-11-18T01:00:00Z", map[string]string{"why": "nightly"})
	b := point("host/vg/data", 2, "2026-11-19T01:00:00Z", map[string]string{"why": "upgrade"})
	d := point("host/vg/data", 3, "2026-11-20T01:00:30Z", map[string]string{"why": "nightly"})
	other := point("host/vg/other", 1, "2026-11-20T02:00:00Z", nil)
	twin := point("host2/vg/other", 1, "2026-11-20T02:00:00Z", nil)
	c := load(t, d, other, a, twin, b)
	for name, want := range map[string]Point{
		a.ID.String():                    a,
		b.ID.String()[:6]:                b,
		"host/vg/data@latest":            d,
		"vg/data@latest":                 d,
		"data@oldest":                    a,
		"data@~0":                        d,
		"data@~2":                        a,
		"data@2026-11-19T01:00:00Z":      b,
		"data@2026-11-19T00:59:59Z":      a,
		"data@2026-11-20T01:00Z":         d, // the whole minute
		"data@2026-11-20T02:00:29+01:00": b,
		"data@2026-11":                   d,
		"data@tag:why=nightly":           d,
		"data@tag:why=upgrade":           b,
		"host/vg/other@latest":           other,
	} {
		if got, err := c.Find(name); err != nil || got.ID != want.ID {
			t.Errorf("%s: point %d of %s, %v", name, got.Number, got.Volume, err)
		}
	}
	for name, want := range map[string]error{
		"abc": blkbak.ErrUsage, "ABCDEF": blkbak.ErrUsage, "0000": blkbak.ErrNotFound, "": blkbak.ErrUsage,
		"data@~3": blkbak.ErrNotFound, "data@~x": blkbak.ErrUsage, "data@2020-01-01": blkbak.ErrNotFound,
		"data@yesterday": blkbak.ErrUsage, "data@tag:why": blkbak.ErrUsage, "data@tag:why=x": blkbak.ErrNotFound,
		"nothing@latest": blkbak.ErrNotFound, "other@latest": blkbak.ErrUsage,
	} {
		if p, err := c.Find(name); !errors.Is(err, want) || blkbak.Hint(err) == "" && !strings.Contains(name, "~") {
			t.Errorf("%q: %v, %v (hint %q)", name, p.ID, err, blkbak.Hint(err))
		}
	}
}

func TestHistory(t *testing.T) {
	p1 := load(t).Follow(point("v", 9, "2026-11-18T01:00:00Z", nil))
	p2 := load(t, p1).Follow(point("v", 8, "2020-11-18T01:00:00Z", nil)) // clocks lie
	c := load(t, p2, p1)
	if got := c.Points("v"); len(got) != 2 || got[0].ID != p1.ID || got[1].Number != 2 || got[1].Parent != p1.ID {
		t.Errorf("points %+v", got)
	}
	if errs := c.CheckHistory(); len(errs) > 0 {
		t.Error(errs)
	}
	p1.Size++ // rewritten
	if errs := load(t, p1, p2).CheckHistory(); len(errs) != 1 {
		t.Errorf("a rewritten parent: %v", errs)
	}
	if errs := load(t, p2).CheckHistory(); len(errs) != 0 {
		t.Errorf("a forgotten parent: %v", errs)
	}
	if prev, ok := c.Previous(p2); !ok || prev.ID != p1.ID {
		t.Error("previous")
	}
	if _, ok := c.Next(p2); ok {
		t.Error("next of the newest")
	}
}

func TestDamagedPointHidesNoOther(t *testing.T) {
	good := point("v", 1, "2026-11-18T01:00:00Z", nil)
	body, _ := good.Encode()
	c, err := Load(t.Context(), fakeOutcomes{
		{Session: blkbak.NewPointID(), Err: blkbak.Corruptf("x", 1, "bad")},
		{Session: blkbak.NewPointID(), Committed: true, Body: body}, // under another name
		{Session: good.ID, Committed: true, Body: body},
		{Session: blkbak.NewPointID(), Committed: true, Body: []byte("{}")},
	})
	if err != nil || len(c.Points("")) != 1 || len(c.Damaged()) != 3 {
		t.Errorf("%v: %d points, damaged %v", err, len(c.Points("")), c.Damaged())
	}
}

func TestCheckVolume(t *testing.T) {
	for _, ok := range []string{"a", "host/vg/lv", "Büro Daten", strings.Repeat("x", 255)} {
		if err := CheckVolume(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "a@b", "-x", "a\nb", "a\x1b[2J", "\xff", strings.Repeat("x", 256)} {
		if err := CheckVolume(bad); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	p := point("host/vg/data", 1, "2026-11-18T01:00:00Z", map[string]string{"a": "b"})
	p.Warnings = []string{"w"}
	seed, _ := p.Encode()
	f.Add(seed)
	f.Fuzz(func(t *testing.T, body []byte) {
		var id blkbak.PointID
		copy(id[:], p.ID[:])
		got, err := Decode(id, body)
		if err != nil {
			if !errors.Is(err, blkbak.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := got.Encode()
		if err != nil {
			t.Fatalf("decoded but not encoded: %v", err)
		}
		twice, err := Decode(id, again)
		if err != nil || !reflect.DeepEqual(normal(got), normal(twice)) {
			t.Fatalf("%+v\n%+v\n%v", got, twice, err)
		}
	})
}

// normal takes out differences that encoding means to take out.
func normal(p Point) Point {
	if p.Tags == nil {
		p.Tags = map[string]string{}
	}
	if p.Warnings == nil {
		p.Warnings = []string{}
	}
	return p
}
