package cow

// maxPiece bounds what is read at once of an area, and with it the memory that a
// large chunk size can claim.
const maxPiece = 128 << 10

// layout is the geometry of a store: where its metadata lies among its data.
type layout struct {
	chunk  int64  // bytes
	per    int64  // entries of an area
	stride uint64 // chunks from an area to the next
	chunks uint64 // whole chunks of the device
	areas  int64  // areas that lie within the device
	piece  int64  // bytes of metadata read at once; divides chunk
}

func newLayout(chunk, size int64) layout {
	l := layout{chunk: chunk, per: chunk / entrySize, piece: min(chunk, maxPiece)}
	l.stride = uint64(l.per) + 1
	l.chunks = uint64(size / chunk)
	if l.chunks > 1 {
		l.areas = int64((l.chunks-2)/l.stride + 1)
	}
	return l
}

// metaOffset is the device offset of byte m of the metadata, all areas taken as
// one run of bytes.
func (l layout) metaOffset(m int64) int64 {
	return (1+m/l.chunk*int64(l.stride))*l.chunk + m%l.chunk
}

// perArea is the number of pieces in an area, pieces that of the whole device.
func (l layout) perArea() int64 { return l.chunk / l.piece }
func (l layout) pieces() int64  { return l.areas * l.perArea() }

// isMetadata tells whether chunk n holds the header or an area.
func (l layout) isMetadata(n uint64) bool { return n == 0 || (n-1)%l.stride == 0 }
