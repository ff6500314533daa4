package blockdev

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const mountinfo = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:5 master:2 propagate_from:1 - proc proc rw
36 22 253:2 /sub /mnt/with\040space\011tab\134 rw,noatime - xfs /dev/mapper/vg--x-lv rw,attr2,inode64
37 22 0:44 / /data rw - btrfs /dev/sdb1 rw,space_cache=v2,subvolid=5,subvol=/
38 22 0:45 / /odd\04 rw - fuse  rw
39 22 0:46 / /hash rw - tmpfs a\043b rw
`

func TestParseMountInfo(t *testing.T) {
	got, err := ParseMountInfo(strings.NewReader(mountinfo))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{22, 1, 254, 0, "/", "/", []string{"rw", "relatime"}, "ext4", "/dev/vda"},
		{23, 22, 0, 21, "/", "/proc", []string{"rw", "nosuid", "nodev", "noexec", "relatime"}, "proc", "proc"},
		{36, 22, 253, 2, "/sub", "/mnt/with space\ttab\\", []string{"rw", "noatime"}, "xfs", "/dev/mapper/vg--x-lv"},
		{37, 22, 0, 44, "/", "/data", []string{"rw"}, "btrfs", "/dev/sdb1"},
		{38, 22, 0, 45, "/", `/odd\04`, []string{"rw"}, "fuse", ""},
		{39, 22, 0, 46, "/", "/hash", []string{"rw"}, "tmpfs", "a#b"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseMountInfoBad(t *testing.T) {
	good := strings.SplitAfter(mountinfo, "\n")[0]
	for _, bad := range []string{
		"x\n", "22 1 254:0 / / rw\n", "22 1 254:0 / / rw -\n", "22 1 254:0 / / rw - ext4\n",
		"a 1 254:0 / / rw - ext4 /dev/vda rw\n", "22 b 254:0 / / rw - ext4 /dev/vda rw\n",
		"22 1 254 / / rw - ext4 /dev/vda rw\n", "22 1 254:-1 / / rw - ext4 /dev/vda rw\n",
		"22 1 99999999999:1 / / rw - ext4 /dev/vda rw\n",
		strings.Repeat("y", maxMountLine+1),
	} {
		if m, err := ParseMountInfo(strings.NewReader(good + bad)); err == nil {
			t.Errorf("%.60q parsed: %+v", bad, m)
		}
	}
}

func FuzzParseMountInfo(f *testing.F) {
	f.Add(mountinfo)
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := ParseMountInfo(strings.NewReader(text))
		if err != nil {
			return
		}
		// What was read, written again in the kernel's form, reads the same.
		esc := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
		var b strings.Builder
		for _, m := range mounts {
			if strings.Contains(m.FSType, "\r") || strings.Contains(m.Source, "\r") {
				return
			}
			fmt.Fprintf(&b, "%d %d %d:%d %s %s %s - %s %s x\n", m.ID, m.Parent, m.Major, m.Minor,
				esc.Replace(m.Root), esc.Replace(m.Point), strings.Join(m.Options, ","), m.FSType, esc.Replace(m.Source))
		}
		again, err := ParseMountInfo(strings.NewReader(b.String()))
		if err != nil || !reflect.DeepEqual(again, mounts) {
			t.Errorf("%q, %v:\n%+v\n%+v", b.String(), err, mounts, again)
		}
	})
}
