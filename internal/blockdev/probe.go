package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Content is what the superblock at the start of a device says it holds. Names
// and text forms are those of blkid(8).
type Content struct {
	Type  string // "ext4", "xfs", "btrfs", "crypto_LUKS", "LVM2_member", "gpt", ...; "" when nothing is recognised
	UUID  string
	Label string
}

// probeSize covers every superblock looked at: that of btrfs ends last, and the
// swap signature of 64 KiB pages lies right before it.
const probeSize = 64<<10 + 4096

// Probe tells what r holds, by the magic numbers in its first 68 KiB. Nothing
// that it reads is trusted beyond a length check; damaged superblocks give odd
// text, never an error. The error is one of reading.
func Probe(r io.ReaderAt) (Content, error) {
	buf := AlignedBuffer(probeSize)
	n, err := r.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Content{}, fmt.Errorf("probe: %w", err)
	}
	// What lies past the end reads as zeros, which is no magic.
	clear(buf[n:])
	for _, p := range probes {
		if c, ok := p(buf); ok {
			c.UUID, c.Label = printable(c.UUID), printable(c.Label)
			return c, nil
		}
	}
	return Content{}, nil
}

// probes are tried in order. Containers come before filesystems: the remains of
// an old filesystem inside a container's data say nothing. Partition tables come
// last, since boot sectors of filesystems carry their magic too.
var probes = []func(b []byte) (Content, bool){
	probeLUKS, probeLVM, probeRAID, probeCOW,
	probeXFS, probeBtrfs, probeExt, probeSwap, probeNTFS, probeExFAT, probeVFAT,
	probeGPT, probeDOS,
}

func at(b []byte, off int, magic string) bool {
	return off >= 0 && off+len(magic) <= len(b) && string(b[off:off+len(magic)]) == magic
}

// text is a field padded with zeros.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

// uuid is the usual text form of 16 bytes, "" for zeros.
func uuid(b []byte) string {
	if bytes.Equal(b[:16], make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// LUKS1 and LUKS2 share the start (cryptsetup, luks.h and luks2.h): magic,
// be16 version at 6, and the UUID as text at 168; LUKS2 has a label at 24.
func probeLUKS(b []byte) (Content, bool) {
	if !at(b, 0, "LUKS\xba\xbe") {
		return Content{}, false
	}
	c := Content{Type: "crypto_LUKS", UUID: text(b[168:208])}
	if binary.BigEndian.Uint16(b[6:]) == 2 {
		c.Label = text(b[24:72])
	}
	return c, true
}

// LVM2 (lib/format_text/layout.h, lib/label/label.h): the label "LABELONE" in
// one of the first four sectors, le32 at 20 the offset of the header that begins
// with 32 characters of UUID.
func probeLVM(b []byte) (Content, bool) {
	for s := 0; s < 4*512; s += 512 {
		if !at(b, s, "LABELONE") || !at(b, s+24, "LVM2 001") {
			continue
		}
		c := Content{Type: "LVM2_member"}
		if off := binary.LittleEndian.Uint32(b[s+20:]); off <= 512-32 {
			u := string(b[s+int(off) : s+int(off)+32])
			c.UUID = strings.Join([]string{u[:6], u[6:10], u[10:14], u[14:18], u[18:22], u[22:26], u[26:]}, "-")
		}
		return c, true
	}
	return Content{}, false
}

// md version 1.1 at 0 and 1.2 at 4096 (include/uapi/linux/raid/md_p.h, struct
// mdp_superblock_1): set_uuid at 16, set_name at 32. Versions 0.90 and 1.0 are
// at the end of the device, and what is inside shows through.
func probeRAID(b []byte) (Content, bool) {
	for _, s := range []int{0, 4096} {
		if at(b, s, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00") {
			return Content{"linux_raid_member", uuid(b[s+16:]), text(b[s+32 : s+64])}, true
		}
	}
	return Content{}, false
}

// A snapshot's exception store (drivers/md/dm-snap-persistent.c).
func probeCOW(b []byte) (Content, bool) {
	return Content{Type: "DM_snapshot_cow"}, at(b, 0, "SnAp")
}

// XFS (fs/xfs/libxfs/xfs_format.h, struct xfs_dsb): sb_uuid at 32, sb_fname at 108.
func probeXFS(b []byte) (Content, bool) {
	return Content{"xfs", uuid(b[32:]), text(b[108:120])}, at(b, 0, "XFSB")
}

// btrfs (include/uapi/linux/btrfs_tree.h, struct btrfs_super_block) at 64 KiB:
// fsid at 32, magic at 64, label at 299.
func probeBtrfs(b []byte) (Content, bool) {
	s := b[64<<10:]
	return Content{"btrfs", uuid(s[32:]), text(s[299 : 299+256])}, at(s, 64, "_BHRfS_M")
}

// ext2, 3, 4 (fs/ext4/ext4.h, struct ext4_super_block) at 1024: magic at 56,
// feature words at 92, 96, 100, s_uuid at 104, s_volume_name at 120.
func probeExt(b []byte) (Content, bool) {
	s := b[1024:]
	if !at(s, 56, "\x53\xef") {
		return Content{}, false
	}
	const (
		hasJournal = 0x4 // compat
		journalDev = 0x8 // incompat
		// What ext3 knows; any other feature makes it ext4.
		ext3Incompat = 0x2 | 0x4 | 0x10 // filetype, recover, meta_bg
		ext3ROCompat = 0x1 | 0x2 | 0x4  // sparse_super, large_file, btree_dir
	)
	compat := binary.LittleEndian.Uint32(s[92:])
	incompat := binary.LittleEndian.Uint32(s[96:])
	roCompat := binary.LittleEndian.Uint32(s[100:])
	c := Content{"ext2", uuid(s[104:]), text(s[120:136])}
	switch {
	case incompat&journalDev != 0:
		c.Type = "jbd"
	case incompat&^ext3Incompat != 0 || roCompat&^ext3ROCompat != 0:
		c.Type = "ext4"
	case compat&hasJournal != 0:
		c.Type = "ext3"
	}
	return c, true
}

// Swap (include/linux/swap.h, union swap_header): the magic ends the first page,
// whatever its size; uuid at 1036, label at 1052.
func probeSwap(b []byte) (Content, bool) {
	for page := 4096; page <= 64<<10; page *= 2 {
		if at(b, page-10, "SWAPSPACE2") {
			return Content{"swap", uuid(b[1036:]), text(b[1052:1068])}, true
		}
	}
	return Content{}, false
}
