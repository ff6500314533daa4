package chunkstore

import (
	"context"
	"encoding/binary"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/internal/binread"
)

// A sealed file is a small file that vouches for itself:
//
//	off  size
//	0    8     magic "blkbakSF"
//	8    2     version, 1
//	10   2     what is inside: one of the seal constants
//	12   4     flags, 0; a reader refuses those that it does not know
//	16   8     length of the body
//	24   n     body
//	24+n 32    BLAKE3 of everything before
const (
	sealMagic   = "blkbakSF"
	sealVersion = 1
	sealHeader  = 24
	sealMax     = 64 << 20 // no file that needs sealing is near this size
)

const (
	sealConfig  = 1
	sealCommit  = 2
	sealRevoked = 3
	sealSession = 4
)

// seal returns the pieces of a sealed file.
func seal(what uint16, body []byte) [][]byte {
	h := make([]byte, 0, sealHeader)
	h = append(h, sealMagic...)
	h = binary.LittleEndian.AppendUint16(h, sealVersion)
	h = binary.LittleEndian.AppendUint16(h, what)
	h = binary.LittleEndian.AppendUint32(h, 0)
	h = binary.LittleEndian.AppendUint64(h, uint64(len(body)))
	sum := sumAll(h, body)
	return [][]byte{h, body, sum[:]}
}

// unseal checks a sealed file and returns what is inside and the body.
func unseal(name string, b []byte) (what uint16, body []byte, err error) {
	c := binread.New(name, 0, b)
	if magic := c.Bytes(8); magic != nil && string(magic) != sealMagic {
		return 0, nil, blkbak.Corruptf(name, 0, "not a sealed file")
	}
	version, what, flags, n := c.Uint16(), c.Uint16(), c.Uint32(), c.Uint64()
	switch {
	case c.Err() != nil:
	case version != sealVersion:
		return 0, nil, blkbak.Corruptf(name, 8, "version %d, this program knows %d", version, sealVersion)
	case flags != 0:
		return 0, nil, blkbak.Corruptf(name, 12, "unknown flags %#x", flags)
	case n > sealMax:
		return 0, nil, blkbak.Corruptf(name, 16, "body of %d bytes", n)
	default:
		body = c.Bytes(int(n))
	}
	want := c.Bytes(len(ID{}))
	if err := c.Done(); err != nil {
		return 0, nil, err
	}
	if Sum(b[:len(b)-len(want)]) != ID(want) {
		return 0, nil, blkbak.Corruptf(name, -1, "checksum does not match")
	}
	return what, body, nil
}

// readAll reads a whole small file.
func readAll(ctx context.Context, b Backend, name string, limit int64) ([]byte, error) {
	o, err := b.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if o.Size() > limit {
		return nil, blkbak.Corruptf(name, -1, "%d bytes, the limit is %d", o.Size(), limit)
	}
	p := make([]byte, o.Size())
	return p, readFull(name, o, p, 0)
}
