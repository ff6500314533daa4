package blkbak

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"
)

func TestMergeExtents(t *testing.T) {
	in := []Extent{{40, 10}, {0, 5}, {5, 5}, {45, 2}, {20, 0}, {30, 10}, {100, 1}, {49, 3}}
	want := []Extent{{0, 10}, {30, 22}, {100, 1}}
	if got := MergeExtents(in); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if b := ExtentBytes(want); b != 33 {
		t.Errorf("bytes %d", b)
	}
}

func TestAlignExtents(t *testing.T) {
	got := AlignExtents([]Extent{{10, 10}, {70, 1}, {190, 5}, {300, 20}}, 64, 310)
	want := []Extent{{0, 128}, {128, 128}, {256, 54}}
	want = MergeExtents(want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestExtentJSON(t *testing.T) {
	b, err := json.Marshal([]Extent{{4096, 8192}})
	if err != nil || string(b) != "[[4096,8192]]" {
		t.Errorf("%s, %v", b, err)
	}
}

func TestErrors(t *testing.T) {
	err := fmt.Errorf("open: %w", WithHint(&FormatError{"pack", 12, "bad table", io.EOF}, "run %s", "check"))
	if !errors.Is(err, ErrCorrupt) || !errors.Is(err, io.EOF) || Hint(err) != "run check" {
		t.Errorf("%v, hint %q", err, Hint(err))
	}
	if got := err.Error(); got != "open: pack at byte 12: bad table: EOF" {
		t.Error(got)
	}
	if WithHint(nil, "x") != nil || Hint(io.EOF) != "" {
		t.Error("hint of nothing")
	}
}

func TestPointID(t *testing.T) {
	id := NewPointID()
	got, err := ParsePointID(id.String())
	if err != nil || got != id {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "abc", "ABCDEF0123456789", "abcdef012345678g", "abcdef01234567890"} {
		if _, err := ParsePointID(bad); err == nil {
			t.Errorf("%q parsed", bad)
		}
	}
}

func TestIntersectExtents(t *testing.T) {
	a := []Extent{{0, 10}, {20, 10}, {40, 10}, {60, 5}}
	b := []Extent{{5, 20}, {29, 13}, {45, 20}}
	want := []Extent{{5, 5}, {20, 5}, {29, 1}, {40, 2}, {45, 5}, {60, 5}}
	if got := IntersectExtents(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
