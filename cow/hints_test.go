package cow

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/blkbak/blkbak"
)

func TestTextHints(t *testing.T) {
	es := []blkbak.Extent{{Off: 0, Len: 4096}, {Off: 1 << 40, Len: 12288}}
	for _, c := range []struct {
		es        []blkbak.Extent
		rbd, text string
	}{
		{nil, "[]\n", ""},
		{es[:1], `[{"offset":0,"length":4096,"exists":"true"}]` + "\n", "0 4096\n"},
		{es, `[{"offset":0,"length":4096,"exists":"true"},{"offset":1099511627776,"length":12288,"exists":"true"}]` + "\n",
			"0 4096\n1099511627776 12288\n"},
	} {
		var rbd, text bytes.Buffer
		if err := errors.Join(WriteRBDHints(&rbd, slices.Values(c.es)), WriteExtentHints(&text, slices.Values(c.es))); err != nil {
			t.Fatal(err)
		}
		if rbd.String() != c.rbd || text.String() != c.text {
			t.Errorf("%q, %q", rbd.String(), text.String())
		}
		var back []struct {
			Offset, Length int64
			Exists         string
		}
		if err := json.Unmarshal(rbd.Bytes(), &back); err != nil || len(back) != len(c.es) {
			t.Error(err)
		}
	}
}

func TestBitmapHints(t *testing.T) {
	for _, c := range []struct {
		es          []blkbak.Extent
		grain, size int64
		want        []byte
	}{
		{nil, 4096, 0, nil},
		{nil, 4096, 1, []byte{0}},
		{nil, 4096, 8*4096 + 1, []byte{0, 0}},
		{[]blkbak.Extent{{Off: 0, Len: 1}}, 4096, 0, []byte{1}},
		{[]blkbak.Extent{{Off: 4095, Len: 2}}, 4096, 0, []byte{3}},
		{[]blkbak.Extent{{Off: 7 * 4096, Len: 2 * 4096}}, 4096, 0, []byte{0x80, 1}},
		{[]blkbak.Extent{{Off: 0, Len: 1}, {Off: 100, Len: 1}, {Off: 16 * 4096, Len: 8 * 4096}}, 4096, 1 << 17, []byte{1, 0, 0xff, 0}},
	} {
		var b bytes.Buffer
		if err := WriteBitmapHints(&b, slices.Values(c.es), c.grain, c.size); err != nil || !bytes.Equal(b.Bytes(), c.want) {
			t.Errorf("%v: %x, %v", c.es, b.Bytes(), err)
		}
	}
	for _, c := range []struct {
		es          []blkbak.Extent
		grain, size int64
	}{
		{nil, 0, 1}, {nil, 1, -1},
		{[]blkbak.Extent{{Off: 0, Len: 4097}}, 4096, 4096},
		{[]blkbak.Extent{{Off: 8192, Len: 1}, {Off: 0, Len: 1}}, 4096, 0},
		{[]blkbak.Extent{{Off: -1, Len: 1}}, 4096, 0},
	} {
		if err := WriteBitmapHints(&bytes.Buffer{}, slices.Values(c.es), c.grain, c.size); !errors.Is(err, blkbak.ErrUsage) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// TestBitmapPlain compares with a bitmap made bit by bit.
func TestBitmapPlain(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		const size = 100_000
		grain := int64(1 + r.IntN(600))
		want := make([]byte, ((size-1)/grain+8)/8)
		var es []blkbak.Extent
		for off := int64(r.IntN(3000)); off < size; off += int64(r.IntN(9000)) {
			e := blkbak.Extent{Off: off, Len: 1 + r.Int64N(min(size-off, 7000))}
			es = append(es, e)
			for b := e.Off; b < e.End(); b++ {
				want[b/grain/8] |= 1 << (b / grain % 8)
			}
			off = e.End()
		}
		var b bytes.Buffer
		if err := WriteBitmapHints(&b, slices.Values(es), grain, size); err != nil || !bytes.Equal(b.Bytes(), want) {
			t.Fatalf("grain %d: differs, %v", grain, err)
		}
	}
}
