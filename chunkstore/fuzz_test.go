package chunkstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/blkbak/blkbak"
	"github.com/klauspost/compress/zstd"
)

// samplePack is a pack of n objects, and its name.
func samplePack(n int) (*pack, packRef) {
	ref := packRef{blkbak.PointID{1, 2, 3}, 7}
	p := new(pack)
	p.start(ref, KindData)
	for _, b := range objects(9, n) {
		payload, codec := encode(nil, b)
		p.add(tableEntry{id: Sum(b), plain: uint32(len(b)), codec: codec, kind: KindData}, payload)
	}
	p.finish()
	return p, ref
}

// FuzzPackTable: a table that is accepted is encoded to the same bytes. With
// reseal the checksum is made right first, so that changes get past it.
func FuzzPackTable(f *testing.F) {
	for _, n := range []int{0, 1, 3} {
		p, _ := samplePack(n)
		f.Add(p.buf, false)
		f.Add(p.buf, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, reseal bool) {
		if n := len(b); reseal && n >= packTrailerSize {
			b = slices.Clone(b)
			table := binary.LittleEndian.Uint64(b[n-32:])
			if table <= uint64(n-packTrailerSize) {
				sum := Sum(b[table : n-packTrailerSize])
				copy(b[n-64:], sum[:])
			}
		}
		trailer, table, err := readPackTable("p", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			wantCorrupt(t, err)
			return
		}
		var again []byte
		for _, e := range table {
			again = e.appendBinary(again)
			// What the table says of a frame can be read without harm.
			frame := b[e.off : int64(e.off)+e.frameLen()]
			if _, err := e.checkFrame("p", frame, nil); err != nil {
				wantCorrupt(t, err)
			}
		}
		if !bytes.Equal(again, b[trailer.table:len(b)-packTrailerSize]) {
			t.Fatal("encoded to other bytes")
		}
	})
}

// FuzzSegment: a lookup in a segment of the right shape ends well whatever is in
// it; one that is verified is encoded to the same bytes.
func FuzzSegment(f *testing.F) {
	for _, n := range []int{0, 1, 40} {
		var entries []indexEntry
		for i, b := range objects(10, n) {
			entries = append(entries, newIndexEntry(Sum(b), uint32(i%3), int64(i*100), 50))
		}
		seg := buildSegment([]packRef{{blkbak.PointID{1}, 0}, {blkbak.PointID{1}, 1}, {blkbak.PointID{2}, 0}}, entries)
		f.Add(seg, false)
		f.Add(seg, true)
		wild := slices.Clone(seg)
		for i := indexHeaderSize + 3*indexPackSize; i < len(wild)-32; i += 7 {
			wild[i] = 0xff
		}
		f.Add(wild, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, reseal bool) {
		if n := len(b) - 32; reseal && n >= 0 {
			b = slices.Clone(b)
			sum := Sum(b[:n])
			copy(b[n:], sum[:])
		}
		s, err := parseSegment("s", b)
		if err != nil {
			wantCorrupt(t, err)
			return
		}
		ids := []ID{{}, Sum([]byte("x")), {0xff, 0xff, 0xff, 0xff}}
		for i := range min(s.count(), 50) {
			var id ID
			copy(id[:], s.entry(i)[:indexIDSize])
			ids = append(ids, id)
		}
		verr := s.verify()
		for i, id := range ids {
			places := s.search(id, nil)
			if len(places) > maxPlaces {
				t.Fatalf("%d places", len(places))
			}
			if verr == nil && i >= 3 && len(places) == 0 {
				t.Fatalf("entry %d of a sound segment is not found", i-3)
			}
		}
		if verr != nil {
			wantCorrupt(t, verr)
			return
		}
		if s.k != fanoutBits(s.count()) {
			return // sound, and not as this program makes it
		}
		packs := make([]packRef, s.packCount())
		for i := range packs {
			packs[i] = s.pack(uint32(i))
		}
		var again bytes.Buffer
		err = writeSegment(&again, s.sources, packs, s.count(), func(yield func(indexEntry) bool) {
			for i := range s.count() {
				if !yield(indexEntry(s.entry(i))) {
					return
				}
			}
		})
		if err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("encoded to other bytes, %v", err)
		}
	})
}

// FuzzUnseal: what is accepted is sealed to the same bytes.
func FuzzUnseal(f *testing.F) {
	for _, body := range []string{"", "{}"} {
		f.Add(bytes.Join(seal(sealCommit, []byte(body)), nil), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, reseal bool) {
		if n := len(b) - 32; reseal && n >= 0 {
			b = slices.Clone(b)
			sum := Sum(b[:n])
			copy(b[n:], sum[:])
		}
		what, body, err := unseal("f", b)
		if err != nil {
			wantCorrupt(t, err)
			return
		}
		if !bytes.Equal(bytes.Join(seal(what, body), nil), b) {
			t.Fatal("sealed to other bytes")
		}
	})
}

// FuzzFrame: a frame is refused, or unfolds to what it says, in no more memory.
func FuzzFrame(f *testing.F) {
	for _, b := range objects(11, 3) {
		payload, codec := encode(nil, b)
		f.Add(append(tableEntry{plain: uint32(len(b)), stored: uint32(len(payload)), codec: codec, kind: 1}.appendFrame(nil), payload...))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		e, payload, err := parseFrame("f", 64, frame)
		if err != nil {
			wantCorrupt(t, err)
			return
		}
		if again := append(e.appendFrame(nil), payload...); !bytes.Equal(again, frame) {
			t.Fatal("encoded to other bytes")
		}
		plain, err := decode(nil, e.codec, payload, int(e.plain))
		if err == nil && len(plain) != int(e.plain) {
			t.Fatalf("%d bytes, %d expected", len(plain), e.plain)
		}
		if cap(plain) > MaxObject {
			t.Fatalf("%d bytes taken", cap(plain))
		}
	})
}

func wantCorrupt(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, blkbak.ErrCorrupt) {
		t.Fatal(err)
	}
}

// A few bytes that claim or make many are refused without taking the memory.
func TestDecompressionBomb(t *testing.T) {
	zeros := make([]byte, 64<<20)
	for name, size := range map[string]bool{"says its size": true, "does not": false} {
		var bomb bytes.Buffer
		z, err := zstd.NewWriter(&bomb, zstd.WithWindowSize(zstd.MaxWindowSize))
		if err != nil {
			t.Fatal(err)
		}
		payload := z.EncodeAll(zeros, nil)
		if !size {
			for i := range 64 { // in pieces, when it cannot know
				z.Write(zeros[i<<20 : (i+1)<<20])
			}
			z.Close()
			payload = bomb.Bytes()
		}
		for _, n := range []int{1, 64 << 10, MaxObject} {
			decode(nil, codecZstd, payload, n) // what the coder keeps for later is no part of it
			const times = 4
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range times {
				if _, err := decode(nil, codecZstd, payload, n); err == nil {
					t.Error("accepted")
				}
			}
			runtime.ReadMemStats(&after)
			allocated := int64(after.TotalAlloc-before.TotalAlloc) / times
			if limit := int64(n + 1<<20); allocated > limit {
				t.Errorf("frame of %d bytes that %s, where %d are expected: %d bytes allocated", len(payload), name, n, allocated)
			}
		}
	}
}

// Numbers at their extremes in a segment that nobody verified.
func TestSegmentWithWildNumbers(t *testing.T) {
	var entries []indexEntry
	for _, b := range objects(12, 400) {
		entries = append(entries, newIndexEntry(Sum(b), 0, 64, 50))
	}
	good := buildSegment([]packRef{{blkbak.PointID{1}, 0}}, entries)
	fanout := indexHeaderSize + indexPackSize
	for _, x := range []uint32{0, 1, 399, 400, 401, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32} {
		for at := fanout; at < fanout+4*(1<<fanoutBits(400)+1); at += 4 {
			b := slices.Clone(good)
			binary.LittleEndian.PutUint32(b[at:], x)
			s, err := parseSegment("s", b)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				s.search(ID(e), nil)
			}
			if !bytes.Equal(b, good) && s.verify() == nil {
				t.Errorf("%d at %d verified", x, at)
			}
		}
	}
}
