package lvm

import (
	"errors"
	"strings"
	"testing"

	"github.com/blkbak/blkbak"
)

func TestParseName(t *testing.T) {
	for s, want := range map[string][2]string{
		"vg/lv":                     {"vg", "lv"},
		"/dev/vg-x/data-1":          {"vg-x", "data-1"},
		"/dev/mapper/vg--x-data--1": {"vg-x", "data-1"},
		"/dev/mapper/a-b":           {"a", "b"},
		"v+g_.1/l.v":                {"v+g_.1", "l.v"},
	} {
		if vg, lv, err := ParseName(s); vg != want[0] || lv != want[1] || err != nil {
			t.Errorf("%q: %q, %q, %v", s, vg, lv, err)
		}
	}
	for _, s := range []string{"", "/", "vg", "vg/", "/lv", "/dev/sda", "vg/lv/x", "-f/lv", "vg/-f", "--all/x", "vg/lv x", "vg/..", "./lv",
		"vg/lv;rm", "/dev/mapper/vg", "/dev/mapper/vg-lv-cow", "/dev/mapper/", "vg/\x00", "vg/ü", "vg/" + strings.Repeat("a", 128), "@tag/x"} {
		if vg, lv, err := ParseName(s); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%q: %q, %q, %v", s, vg, lv, err)
		}
	}
}

func TestDMName(t *testing.T) {
	for name, parts := range map[string][3]string{
		"vg-lv":             {"vg", "lv", ""},
		"vg--x-data--1":     {"vg-x", "data-1", ""},
		"vg--x-data--1-cow": {"vg-x", "data-1", "cow"},
		"a----b-c-real":     {"a--b", "c", "real"},
		"vg-pool_tdata":     {"vg", "pool_tdata", ""},
	} {
		if got := DMName(parts[0], parts[1], parts[2]); got != name {
			t.Errorf("%v: %q, want %q", parts, got, name)
		}
		if a, b, c := SplitDMName(name); [3]string{a, b, c} != parts {
			t.Errorf("%q: %q, %q, %q", name, a, b, c)
		}
	}
	for _, bad := range []string{"", "vg", "-vg", "vg-", "a-b-c-d", "a--b", "a---"} {
		if a, b, c := SplitDMName(bad); a+b+c != "" {
			t.Errorf("%q: %q, %q, %q", bad, a, b, c)
		}
	}
}

func FuzzDMName(f *testing.F) {
	f.Add("vg-x", "data-1", "cow")
	f.Fuzz(func(t *testing.T, vg, lv, layer string) {
		if checkName("", vg) != nil || checkName("", lv) != nil || layer != "" && checkName("", layer) != nil {
			return
		}
		// A hyphen at an edge cannot be told from the separator: neither can LVM.
		for _, s := range []string{vg, lv, layer} {
			if strings.HasPrefix(s, "-") || strings.HasSuffix(s, "-") {
				return
			}
		}
		if a, b, c := SplitDMName(DMName(vg, lv, layer)); a != vg || b != lv || c != layer {
			t.Errorf("%q, %q, %q came back as %q, %q, %q", vg, lv, layer, a, b, c)
		}
	})
}

func TestTag(t *testing.T) {
	got, err := Tag("volume", "host/vg 1/data&é")
	if want := "blkbak.volume=host/vg&201/data&26&c3&a9"; got != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "blkbak", "blkbak.=x", "blkbak.Key=x", "blkbak.key", "blkbak.k=&4", "blkbak.k=&zz", "blkbak.k=&41", "blkbak.k=&2F", "blkbak.k=a b", "other.k=v"} {
		if k, v, ok := ParseTag(bad); ok {
			t.Errorf("%q: %q, %q", bad, k, v)
		}
	}
	for _, c := range [][2]string{{"", "x"}, {"a b", "x"}, {"k", strings.Repeat("x", maxTag)}} {
		if tag, err := Tag(c[0], c[1]); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%q: %q, %v", c, tag, err)
		}
	}
}

func FuzzTag(f *testing.F) {
	f.Add("blkbak.volume=a&20b", "any value: \x00\xff")
	f.Fuzz(func(t *testing.T, tag, value string) {
		if k, v, ok := ParseTag(tag); ok {
			if again, err := Tag(k, v); again != tag || err != nil {
				t.Errorf("%q became %q, %v", tag, again, err)
			}
		}
		made, err := Tag("k", value)
		if err != nil {
			return
		}
		if err := checkTag(made); err != nil {
			t.Error(err)
		}
		if k, v, ok := ParseTag(made); k != "k" || v != value || !ok {
			t.Errorf("%q became %q, %q, %v", value, k, v, ok)
		}
	})
}
