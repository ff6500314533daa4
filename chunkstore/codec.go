package chunkstore

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// MaxObject is the largest plaintext of one object in bytes: a frame's length has
// 24 bits in the index.
const MaxObject = 8 << 20

// Codecs of a frame.
const (
	codecRaw  = 0
	codecZstd = 1
)

// The coders keep state that is expensive to make; each hands out as many inner
// coders as there are processors and lends them to concurrent calls.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		// The lowest level: the others cost far more time than they save room
		// (docs/adr/0004). Frames need no checksum, the name is one.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20), zstd.WithZeroFrames(false))
		if err != nil {
			panic(err) // the options above are constants
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0),
			zstd.WithDecoderMaxMemory(MaxObject), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic(err)
		}
		return d
	})
)

// encode appends the stored form of plain to dst: compressed where that saves at
// least 1/32, else the bytes as they are. There is no guess beforehand at what is
// compressible: the coder itself gives up on noise at the speed of memory.
func encode(dst, plain []byte) (out []byte, codec uint8) {
	out = encoder().EncodeAll(plain, dst)
	if n := len(out) - len(dst); n <= len(plain)-len(plain)/32 {
		return out, codecZstd
	}
	return append(dst, plain...), codecRaw
}

// decode turns a stored payload into exactly n bytes of plaintext, in dst's
// memory where that suffices.
func decode(dst []byte, codec uint8, payload []byte, n int) ([]byte, error) {
	if cap(dst) < n {
		dst = make([]byte, 0, n)
	}
	var err error
	switch codec {
	case codecRaw:
		if len(payload) != n {
			return nil, fmt.Errorf("%d bytes stored raw, %d expected", len(payload), n)
		}
		dst = append(dst[:0], payload...)
	case codecZstd:
		// The capacity is the bound: a frame that unfolds to more is refused.
		if dst, err = decoder().DecodeAll(payload, dst[:0:n]); err != nil {
			return nil, fmt.Errorf("decompress: %w", err)
		}
		if len(dst) != n {
			return nil, fmt.Errorf("decompressed to %d bytes, %d expected", len(dst), n)
		}
	default:
		return nil, fmt.Errorf("unknown codec %d", codec)
	}
	return dst, nil
}
