package blockdev

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// blkid asks the reference what it sees.
func blkid(t *testing.T, image string) Content {
	t.Helper()
	out, err := exec.Command("blkid", "-p", "-o", "export", image).Output()
	if err != nil {
		t.Fatalf("blkid %s: %v", image, err)
	}
	tags := map[string]string{}
	for line := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		tags[k] = strings.ReplaceAll(v, `\ `, " ")
	}
	c := Content{tags["TYPE"], tags["UUID"], tags["LABEL"]}
	if c.Type == "" {
		c = Content{Type: tags["PTTYPE"], UUID: tags["PTUUID"]}
	}
	return c
}

// makers make an image with each tool's own defaults and with options that move
// what Probe looks at. IMG stands for the image.
var makers = []string{
	"mke2fs -q -t ext2 -L plain IMG", "mke2fs -q -t ext3 IMG", "mke2fs -q -t ext4 -L sixteen-letters- IMG",
	"mke2fs -q -O journal_dev IMG", "mke2fs -q -t ext4 -b 1024 -O ^has_journal IMG",
	"mkfs.xfs -q -L twelve-chars IMG", "mkfs.xfs -q -b size=1024 IMG",
	"mkfs.btrfs -q -L with~space IMG", "mkfs.btrfs -q IMG",
	"mkswap -L swappy IMG", "mkswap -p 65536 IMG",
	"mkfs.vfat -F 32 -n LABEL IMG", "mkfs.vfat -F 16 IMG", "mkfs.ntfs -F -q IMG", "mkfs.exfat IMG",
	"cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 --key-file /proc/version IMG",
	"cryptsetup -q luksFormat --type luks2 --label lucky --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /proc/version IMG",
	"sgdisk -n 1 IMG", "sfdisk -q IMG",
}

func TestProbeAgainstBlkid(t *testing.T) {
	if _, err := exec.LookPath("blkid"); err != nil {
		t.Skip(err)
	}
	for _, m := range makers {
		t.Run(strings.NewReplacer("IMG", "", "/", "_").Replace(m), func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			args := strings.Fields(m)
			for i, a := range args {
				args[i] = strings.NewReplacer("IMG", img, "~", " ").Replace(a)
			}
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skip(err)
			}
			size := int64(320 << 20) // what mkfs.xfs wants at least
			if err := os.WriteFile(img, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(img, size); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(args[0], args[1:]...)
			if args[0] == "sfdisk" {
				cmd.Stdin = strings.NewReader("label: dos\n2048,,L\n")
			}
			if out, err := cmd.CombinedOutput(); strings.Contains(string(out), "BusyBox") {
				t.Skip("not the real tool")
			} else if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			d, err := Open(img, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			got, err := Probe(d)
			if want := blkid(t, img); got != want || err != nil {
				t.Errorf("got %+v, %v; blkid says %+v", got, err, want)
			}
		})
	}
}

// TestProbeHostile puts each magic number in an image of otherwise hostile bytes
// and cuts it at every 64 bytes: any answer will do, in printable text.
func TestProbeHostile(t *testing.T) {
	magics := map[int]string{
		0: "LUKS\xba\xbe\x00\x02", 512: "LABELONE", 536: "LVM2 001", 1080: "\x53\xef", 4086: "SWAPSPACE2",
		65600: "_BHRfS_M", 3: "NTFS    ", 510: "\x55\xaa", 82: "FAT32   ",
	}
	for off, magic := range magics {
		img := bytes.Repeat([]byte{0xff}, probeSize+100)
		copy(img[off:], magic)
		if off == 512 {
			copy(img[536:], magics[536])
		}
		for n := 0; n <= len(img); n += 64 {
			c, err := Probe(bytes.NewReader(img[:n]))
			if err != nil {
				t.Fatalf("%q cut at %d: %v", magic, n, err)
			}
			if strings.ContainsFunc(c.Label+c.UUID, func(r rune) bool { return r < ' ' || r == 0xfffd }) {
				t.Fatalf("%q cut at %d: %+v is not printable", magic, n, c)
			}
		}
	}
}

func TestProbeNothing(t *testing.T) {
	for _, n := range []int64{0, 1, 512, 1 << 20} {
		c, err := Probe(io.NewSectionReader(zeros{}, 0, n))
		if c != (Content{}) || err != nil {
			t.Errorf("%d zeros: %+v, %v", n, c, err)
		}
	}
	boom := errors.New("boom")
	if _, err := Probe(failing{boom}); !errors.Is(err, boom) {
		t.Errorf("a read error came out as %v", err)
	}
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }
