package chunkstore

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/blkbak/blkbak"
)

var makeGolden = flag.Bool("make-golden", false, "make testdata/golden-v1 anew; only when there is none of this version in use")

const golden = "testdata/golden-v1"

// goldenObjects are what the fixture holds. Noise is stored raw, the rest is not.
func goldenObjects() [][]byte {
	return [][]byte{
		bytes.Repeat([]byte("golden "), 300),
		noise(700),
		[]byte("x"),
		bytes.Repeat([]byte{1, 2, 3, 4}, 1024),
	}
}

// TestGolden reads a repository of format version 1, as it was made when that
// version was new, and encodes again what has only one form.
func TestGolden(t *testing.T) {
	if *makeGolden {
		writeGolden(t)
	}
	dir := filepath.Join(t.TempDir(), "repo") // reading may write a cache
	if err := os.CopyFS(dir, os.DirFS(golden)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "sess"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := reopen(t, dir)
	if s.Config().ChunkSize != 8192 || s.Config().ID.String() != "00112233445566aa" {
		t.Errorf("config %+v", s.Config())
	}
	wantAll(t, s, goldenObjects())
	if p := verify(t, s); len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
	outcomes, err := s.Outcomes(t.Context())
	if err != nil || len(outcomes) != 2 {
		t.Fatalf("outcomes %v, %v", outcomes, err)
	}
	for _, o := range outcomes {
		if o.Err != nil || o.Committed != (string(o.Body) == "golden body") {
			t.Errorf("outcome %+v", o)
		}
		what := uint16(sealRevoked)
		if o.Committed {
			what = sealCommit
		}
		wantFile(t, outcomeName(o.Session), bytes.Join(seal(what, o.Body), nil))
	}
	for _, name := range files(t, golden, "idx") {
		wantFile(t, name, reencodeSegment(t, s, name))
	}
	for _, name := range files(t, golden, "packs") {
		wantFile(t, name, reencodePack(t, name))
	}
}

func wantFile(t *testing.T, name string, got []byte) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join(golden, name))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is encoded to other bytes, %v", name, err)
	}
}

func reencodeSegment(t *testing.T, s *Store, name string) []byte {
	t.Helper()
	seg, err := openSegment(t.Context(), s.backend, name)
	if err != nil {
		t.Fatal(err)
	}
	defer seg.close()
	var packs []packRef
	for i := range seg.packCount() {
		packs = append(packs, seg.pack(uint32(i)))
	}
	var entries []indexEntry
	for i := range seg.count() {
		entries = append(entries, indexEntry(seg.entry(i)))
	}
	slices.Reverse(entries) // it sorts them
	return buildSegment(packs, entries)
}

// reencodePack takes a pack apart and puts it together. What an object is
// compressed to may change with the coder: its frame is taken as it is.
func reencodePack(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(golden, name))
	if err != nil {
		t.Fatal(err)
	}
	ref, err := parsePackName(name)
	if err != nil {
		t.Fatal(err)
	}
	_, table, err := readPackTable(name, bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var p pack
	p.start(ref, table[0].kind)
	for _, e := range table {
		_, payload, err := parseFrame(name, int64(e.off), b[e.off:int64(e.off)+e.frameLen()])
		if err != nil {
			t.Fatal(err)
		}
		p.add(e, payload)
	}
	p.finish()
	return p.buf
}

func writeGolden(t *testing.T) {
	t.Helper()
	if _, err := Init(t.Context(), golden, 8192); err != nil {
		t.Fatal(err)
	}
	body := `{"id":"00112233445566aa","created":"2026-11-24T00:00:00Z","chunk_size":8192,"features":[]}`
	if err := os.WriteFile(filepath.Join(golden, "config"), bytes.Join(seal(sealConfig, []byte(body)), nil), 0o600); err != nil {
		t.Fatal(err)
	}
	s := reopen(t, golden)
	w := begin(t, s)
	for i, b := range goldenObjects() {
		if _, err := w.Put(t.Context(), Kind(1+i%2), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(t.Context(), []byte("golden body")); err != nil {
		t.Fatal(err)
	}
	if err := s.backend.Create(t.Context(), outcomeName(blkbak.PointID{7}), seal(sealRevoked, nil)...); err != nil {
		t.Fatal(err)
	}
}
