package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
)

// cowFiles puts stores that a kernel made into dir; where they come from is told
// in testdata/ORIGIN of package cow.
func cowFiles(dir string) error {
	d, err := zstd.NewReader(nil)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, name := range []string{"scatter-8k", "empty-4k", "overflow-origin"} {
		packed, err := os.ReadFile(filepath.Join("../../cow/testdata", name, "cow.zst"))
		if err != nil {
			return err
		}
		data, err := d.DecodeAll(packed, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".cow"), data, 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "zeros"), make([]byte, 64<<10), 0o600); err != nil {
		return err
	}
	return imageFiles(d, dir)
}

// imageFiles unpacks a volume before and after writes, t0 and t1, and the store
// of the snapshot that was made between, cow.
func imageFiles(d *zstd.Decoder, dir string) error {
	for _, name := range []string{"t1", "cow"} {
		packed, err := os.ReadFile(filepath.Join("../../cow/testdata/boundary-257", name+".zst"))
		if err != nil {
			return err
		}
		data, err := d.DecodeAll(packed, nil)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	t1, err := os.ReadFile(filepath.Join(dir, "t1"))
	if err != nil {
		return err
	}
	store, err := os.Open(filepath.Join(dir, "cow"))
	if err != nil {
		return err
	}
	defer store.Close()
	st, err := store.Stat()
	if err != nil {
		return err
	}
	s, err := cow.Read(context.Background(), store, st.Size(), cow.Options{OriginSize: int64(len(t1))})
	if err != nil {
		return err
	}
	overlay, err := s.Overlay(context.Background(), bytes.NewReader(t1))
	if err != nil {
		return err
	}
	t0, err := io.ReadAll(overlay)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "t0"), t0, 0o600)
}

// TestCowDump compares the extents of real stores with what another reader, not
// ours, found in them.
func TestCowDump(t *testing.T) {
	dir := t.TempDir()
	if err := cowFiles(dir); err != nil {
		t.Fatal(err)
	}
	for name, chunk := range map[string]int64{"scatter-8k": 8192, "overflow-origin": 4096, "empty-4k": 4096} {
		text, err := os.ReadFile("../../cow/testdata/" + name + "/cow.exceptions.tsv")
		if err != nil {
			t.Fatal(err)
		}
		var want []blkbak.Extent
		for line := range strings.Lines(string(text)) {
			var from, to int64
			if _, err := fmt.Sscan(line, &from, &to); err != nil {
				t.Fatal(err)
			}
			want = append(want, blkbak.Extent{Off: from * chunk, Len: chunk})
		}
		exceptions := len(want)
		want = blkbak.MergeExtents(want)

		var out, bitmap bytes.Buffer
		file := filepath.Join(dir, name+".cow")
		run(t.Context(), []string{"cow", "dump", "--json", file}, nil, &out, io.Discard)
		var got struct {
			Exceptions int
			Extents    [][2]int64
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Exceptions != exceptions || len(got.Extents) != len(want) {
			t.Fatalf("%s: %d exceptions in %d extents, want %d in %d", name, got.Exceptions, len(got.Extents), exceptions, len(want))
		}
		for i, e := range got.Extents {
			if (blkbak.Extent{Off: e[0], Len: e[1]}) != want[i] {
				t.Errorf("%s: extent %d is %v, want %v", name, i, e, want[i])
			}
		}

		if run(t.Context(), []string{"cow", "hints", "--format=bitmap", file}, nil, &bitmap, io.Discard) != exitDone {
			continue // the one that overflowed is no base
		}
		set := 0
		for _, b := range bitmap.Bytes() {
			set += bits.OnesCount8(b)
		}
		if set != exceptions {
			t.Errorf("%s: %d bits are set for %d exceptions", name, set, exceptions)
		}
	}
}
