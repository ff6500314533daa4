package blockdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Mounts lists the mount points of this process's mount namespace.
func Mounts() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseMountInfo(f)
}

// MountsOf lists where the block device path is mounted. A device is recognised
// by its number, under any name; a filesystem of several devices that hides
// their numbers (btrfs) only by the one that mountinfo names as its source.
func MountsOf(path string) ([]Mount, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !isBlock(st) {
		return nil, nil
	}
	all, err := Mounts()
	if err != nil {
		return nil, err
	}
	major, minor := number(st)
	return mountsOf(all, major, minor), nil
}

func mountsOf(all []Mount, major, minor uint32) []Mount {
	var found []Mount
	for _, m := range all {
		hit := m.Major == major && m.Minor == minor
		if !hit && m.Major == 0 && strings.HasPrefix(m.Source, "/") {
			if st, err := os.Stat(m.Source); err == nil && isBlock(st) {
				a, b := number(st)
				hit = a == major && b == minor
			}
		}
		if hit {
			found = append(found, m)
		}
	}
	return found
}

// InUse lists who uses the block device or regular file path: where it is
// mounted, whether it is swap, which devices are built on it (device-mapper, md,
// loop), and the same for the partitions of a disk. It sees this mount namespace
// only; Options.Exclusive asks the kernel, and is the stronger test for devices.
func InUse(path string) ([]Use, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	swaps, err := swapFiles()
	if err != nil {
		return nil, err
	}
	if !isBlock(st) {
		return fileUses(path, st, swaps)
	}
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	major, minor := number(st)
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)
	uses, err := deviceUses(dir, "", major, minor, mounts, swaps)
	if err != nil {
		return nil, err
	}
	parts, _ := filepath.Glob(dir + "/*/partition")
	for _, p := range parts {
		sub := filepath.Dir(p)
		text, err := readLine(filepath.Join(sub, "dev"))
		if err != nil {
			return nil, err
		}
		a, b, err := parseNumber(text)
		if err != nil {
			return nil, err
		}
		more, err := deviceUses(sub, filepath.Base(sub), a, b, mounts, swaps)
		if err != nil {
			return nil, err
		}
		uses = append(uses, more...)
	}
	return uses, nil
}

func deviceUses(dir, part string, major, minor uint32, mounts []Mount, swaps []string) ([]Use, error) {
	var uses []Use
	for _, m := range mountsOf(mounts, major, minor) {
		uses = append(uses, Use{"mounted", m.Point, part})
	}
	for _, name := range swaps {
		if st, err := os.Stat(name); err == nil && isBlock(st) {
			if a, b := number(st); a == major && b == minor {
				uses = append(uses, Use{"swap", name, part})
			}
		}
	}
	holders, err := os.ReadDir(filepath.Join(dir, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, h := range holders {
		name := h.Name()
		if dm, err := readLine(filepath.Join("/sys/class/block", name, "dm/name")); err == nil {
			name += " (" + dm + ")"
		}
		uses = append(uses, Use{"holder", name, part})
	}
	return uses, nil
}

// fileUses finds the loop devices and the swap that a regular file backs.
func fileUses(path string, st fs.FileInfo, swaps []string) ([]Use, error) {
	var uses []Use
	for _, name := range swaps {
		if other, err := os.Stat(name); err == nil && os.SameFile(st, other) {
			uses = append(uses, Use{"swap", name, ""})
		}
	}
	loops, _ := filepath.Glob("/sys/class/block/loop*/loop/backing_file")
	for _, l := range loops {
		name, err := readLine(l)
		if err != nil {
			continue // detached meanwhile
		}
		if other, err := os.Stat(name); err == nil && os.SameFile(st, other) {
			dev := filepath.Base(filepath.Dir(filepath.Dir(l)))
			uses = append(uses, Use{"loop", dev, ""})
		}
	}
	return uses, nil
}

// swapFiles lists the first column of /proc/swaps, below its heading.
func swapFiles() ([]string, error) {
	f, err := os.Open("/proc/swaps")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without swap
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, err
	}
	return parseSwaps(string(text)), nil
}

func parseSwaps(text string) []string {
	var names []string
	for i, line := range strings.Split(text, "\n") {
		if name, _, ok := strings.Cut(line, " "); ok && i > 0 {
			names = append(names, unescape(strings.TrimRight(name, "\t")))
		}
	}
	return names
}

func readLine(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSuffix(string(b), "\n"), err
}
