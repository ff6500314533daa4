package blockdev

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The probes of what a PC's firmware also reads: FAT and its relatives, and
// partition tables.

// NTFS boot sector: serial number at 72. Its label is a file, not looked for.
func probeNTFS(b []byte) (Content, bool) {
	serial := binary.LittleEndian.Uint64(b[72:])
	return Content{Type: "ntfs", UUID: fmt.Sprintf("%016X", serial)}, at(b, 3, "NTFS    ")
}

// exFAT boot sector (exFAT specification, section 3.1): serial number at 100.
func probeExFAT(b []byte) (Content, bool) {
	return Content{Type: "exfat", UUID: fatSerial(b[100:])}, at(b, 3, "EXFAT   ")
}

func fatSerial(b []byte) string {
	n := binary.LittleEndian.Uint32(b)
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
}

// FAT (Microsoft FAT specification, section 3): the type's name is at 82 for
// FAT32 and at 54 for the others, serial and label right before it.
func probeVFAT(b []byte) (Content, bool) {
	if !at(b, 510, "\x55\xaa") {
		return Content{}, false
	}
	base := 0
	switch {
	case at(b, 82, "FAT32   "):
		base = 67
	case at(b, 54, "FAT12   "), at(b, 54, "FAT16   "), at(b, 54, "FAT     "):
		base = 39
	default:
		return Content{}, false
	}
	label := strings.TrimRight(string(b[base+4:base+15]), " ")
	if label == "NO NAME" {
		label = ""
	}
	return Content{"vfat", fatSerial(b[base:]), label}, true
}

// GPT (UEFI specification, section 5.3.2): the header is the second sector, the
// disk's GUID at 56, its first three fields little-endian.
func probeGPT(b []byte) (Content, bool) {
	for _, sector := range []int{512, 4096} {
		if !at(b, sector, "EFI PART") {
			continue
		}
		g := b[sector+56:]
		return Content{Type: "gpt", UUID: fmt.Sprintf("%08x-%04x-%04x-%x-%x",
			binary.LittleEndian.Uint32(g), binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]),
			g[8:10], g[10:16])}, true
	}
	return Content{}, false
}

// DOS partition table: four entries at 446, each starting with 0 or 0x80, at
// least one of them in use; the disk's identifier at 440. Boot sectors of other
// kinds end with the same magic, but have code where the entries are.
func probeDOS(b []byte) (Content, bool) {
	if !at(b, 510, "\x55\xaa") {
		return Content{}, false
	}
	used := false
	for e := 446; e < 510; e += 16 {
		if b[e]&0x7f != 0 {
			return Content{}, false
		}
		used = used || b[e+4] != 0 && binary.LittleEndian.Uint32(b[e+12:]) != 0
	}
	return Content{Type: "dos", UUID: fmt.Sprintf("%08x", binary.LittleEndian.Uint32(b[440:]))}, used
}
