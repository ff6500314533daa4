package lvm

import (
	"fmt"
	"strings"

	"github.com/blkbak/blkbak"
)

// maxName is LVM's NAME_LEN less its terminator.
const maxName = 127

// checkName refuses what LVM would, and what its tools would take for an option.
func checkName(what, s string) error {
	bad := s == "" || s == "." || s == ".." || len(s) > maxName || s[0] == '-' ||
		strings.ContainsFunc(s, func(r rune) bool { return !nameRune(r) })
	if bad {
		return fmt.Errorf("%s name %q: LVM does not allow it: %w", what, s, blkbak.ErrUsage)
	}
	return nil
}

func nameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("+_.-", r)
}

// ParseName reads a volume's name in any of the forms that LVM's tools take:
// vg/lv, /dev/vg/lv, /dev/mapper/vg-lv. It does not look whether there is one.
func ParseName(s string) (vg, lv string, err error) {
	if dm, ok := strings.CutPrefix(s, "/dev/mapper/"); ok {
		var layer string
		if vg, lv, layer = SplitDMName(dm); layer != "" {
			return "", "", fmt.Errorf("volume %q: a layer of a volume, not a volume: %w", s, blkbak.ErrUsage)
		}
	} else {
		vg, lv, _ = strings.Cut(strings.TrimPrefix(s, "/dev/"), "/")
	}
	if checkName("group", vg) != nil || checkName("volume", lv) != nil {
		err := fmt.Errorf("volume %q: not a volume's name: %w", s, blkbak.ErrUsage)
		return "", "", blkbak.WithHint(err, "name it VG/LV or /dev/VG/LV")
	}
	return vg, lv, nil
}

// DMName is the name that device-mapper has for a volume, or for a layer of it:
// "cow" for a snapshot's exception store, "real" for an origin's own data. The
// device is /dev/mapper/ and this.
func DMName(vg, lv, layer string) string {
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	name := double(vg) + "-" + double(lv)
	if layer != "" {
		name += "-" + double(layer)
	}
	return name
}

// SplitDMName undoes DMName. Where name is not of that form, all are "".
func SplitDMName(name string) (vg, lv, layer string) {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch {
		case name[i] != '-':
			b.WriteByte(name[i])
		case i+1 < len(name) && name[i+1] == '-':
			b.WriteByte('-')
			i++
		default:
			parts = append(parts, b.String())
			b.Reset()
		}
	}
	parts = append(parts, b.String())
	if len(parts) < 2 || len(parts) > 3 {
		return "", "", ""
	}
	for _, p := range parts {
		if p == "" {
			return "", "", ""
		}
	}
	if len(parts) == 3 {
		layer = parts[2]
	}
	return parts[0], parts[1], layer
}
