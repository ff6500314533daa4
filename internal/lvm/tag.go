package lvm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/blkbak/blkbak"
)

// Mark is the tag of every volume that blkbak made.
const Mark = "blkbak"

// maxTag is the length that every LVM 2.02.89 and later takes.
const maxTag = 1024

// Tag makes the tag for a key and a value: "blkbak.KEY=VALUE". LVM allows
// A-Za-z0-9_+.-/=!:&# in tags; other bytes of the value, and &, are written as &
// and two hex digits. A key is made of lower-case letters and hyphens.
func Tag(key, value string) (string, error) {
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') }) {
		return "", fmt.Errorf("tag key %q: %w", key, blkbak.ErrUsage)
	}
	var b strings.Builder
	b.WriteString(Mark + "." + key + "=")
	for i := range len(value) {
		if c := value[i]; c != '&' && tagByte(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "&%02x", c)
		}
	}
	if b.Len() > maxTag {
		return "", fmt.Errorf("tag %s: %d bytes, LVM takes %d: %w", key, b.Len(), maxTag, blkbak.ErrUsage)
	}
	return b.String(), nil
}

// ParseTag undoes Tag; ok is false for any other tag.
func ParseTag(tag string) (key, value string, ok bool) {
	rest, ok := strings.CutPrefix(tag, Mark+".")
	if !ok {
		return "", "", false
	}
	key, esc, ok := strings.Cut(rest, "=")
	if !ok {
		return "", "", false
	}
	var b strings.Builder
	for i := 0; i < len(esc); i++ {
		if esc[i] != '&' {
			b.WriteByte(esc[i])
			continue
		}
		if i+3 > len(esc) {
			return "", "", false
		}
		n, err := strconv.ParseUint(esc[i+1:i+3], 16, 8)
		if err != nil {
			return "", "", false
		}
		b.WriteByte(byte(n))
		i += 2
	}
	// There is one way to write a tag: this one.
	if again, err := Tag(key, b.String()); err != nil || again != tag {
		return "", "", false
	}
	return key, b.String(), true
}

func tagByte(c byte) bool {
	return c < 0x80 && nameRune(rune(c)) || strings.IndexByte("/=!:&#", c) >= 0
}

// checkTag refuses what LVM would.
func checkTag(tag string) error {
	bad := tag == "" || tag[0] == '-' || len(tag) > maxTag
	for i := range len(tag) {
		bad = bad || !tagByte(tag[i])
	}
	if bad {
		return fmt.Errorf("tag %q: LVM does not allow it: %w", tag, blkbak.ErrUsage)
	}
	return nil
}
