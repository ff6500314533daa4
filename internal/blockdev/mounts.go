package blockdev

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Mount is one mount point of this process's mount namespace.
type Mount struct {
	ID, Parent   int
	Major, Minor uint32 // of the filesystem; major 0 for those with no device of their own, btrfs too
	Root         string // what of the filesystem is mounted here
	Point        string
	Options      []string
	FSType       string
	Source       string // usually the device's path
}

// maxMountLine bounds one line of mountinfo: overlay mounts name all their layers.
const maxMountLine = 1 << 20

// ParseMountInfo reads the text of /proc/self/mountinfo, described in
// proc_pid_mountinfo(5):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//	id parent maj:min root point options [tags...] - type source super-options
func ParseMountInfo(r io.Reader) ([]Mount, error) {
	var mounts []Mount
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxMountLine)
	for line := 1; s.Scan(); line++ {
		if s.Text() == "" {
			continue
		}
		m, err := parseMount(s.Text())
		if err != nil {
			return nil, fmt.Errorf("mountinfo line %d: %w", line, err)
		}
		mounts = append(mounts, m)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("mountinfo: %w", err)
	}
	return mounts, nil
}

func parseMount(line string) (m Mount, err error) {
	f := strings.Split(line, " ")
	sep := -1
	for i := 6; i < len(f); i++ {
		if f[i] == "-" {
			sep = i
			break
		}
	}
	// The source may be empty text, but type and source are there.
	if sep < 0 || len(f) < sep+3 {
		return m, fmt.Errorf("too few fields in %q", line)
	}
	if m.ID, err = strconv.Atoi(f[0]); err != nil {
		return m, err
	}
	if m.Parent, err = strconv.Atoi(f[1]); err != nil {
		return m, err
	}
	if m.Major, m.Minor, err = parseNumber(f[2]); err != nil {
		return m, err
	}
	m.Root, m.Point = unescape(f[3]), unescape(f[4])
	m.Options = strings.Split(f[5], ",")
	m.FSType, m.Source = f[sep+1], unescape(f[sep+2])
	return m, nil
}

// parseNumber reads a device number "major:minor".
func parseNumber(s string) (major, minor uint32, err error) {
	a, b, ok := strings.Cut(s, ":")
	if !ok {
		return 0, 0, fmt.Errorf("device number %q", s)
	}
	x, err := strconv.ParseUint(a, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("device number %q", s)
	}
	y, err := strconv.ParseUint(b, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("device number %q", s)
	}
	return uint32(x), uint32(y), nil
}

// unescape undoes the kernel's mangle_path: space, tab, newline, backslash and
// hash stand as a backslash and three octal digits. Anything else stays.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Use is one reason why a device or file must not be overwritten.
type Use struct {
	Kind   string // "mounted", "swap", "holder", "loop"
	Detail string // the mount point, the swap file, the name of the device on top
	Part   string // the partition that is in use, "" for the device itself
}

func (u Use) String() string {
	s := ""
	if u.Part != "" {
		s = "partition " + u.Part + " "
	}
	switch u.Kind {
	case "mounted":
		return s + "mounted on " + u.Detail
	case "swap":
		return s + "in use as swap"
	case "holder":
		return s + "part of " + u.Detail
	}
	return s + "backing " + u.Detail
}
