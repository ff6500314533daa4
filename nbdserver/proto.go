package nbdserver

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// The numbers of the protocol, as doc/proto.md of NetworkBlockDevice/nbd gives
// them. Those that go-nbd's protocol package has are taken from it; it knows
// about a third.

// Handshake flags of the server (16 bits) and of the client (32 bits), which
// have the same values: proto.md, "Handshake flags", "Client flags".
const (
	flagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	flagNoZeroes      = uint16(1 << 1)

	clientFixedNewstyle = uint32(flagFixedNewstyle)
	clientNoZeroes      = uint32(flagNoZeroes)
)

// Transmission flags: proto.md, "Transmission flags".
const (
	transHasFlags     = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	transReadOnly     = uint16(1 << 1)
	transSendFlush    = uint16(1 << 2)
	transSendDF       = uint16(1 << 7)
	transCanMultiConn = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
)

// Options: proto.md, "Option types".
const (
	optExportName      = uint32(1)
	optAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList            = protocol.NEGOTIATION_ID_OPTION_LIST
	optInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo              = protocol.NEGOTIATION_ID_OPTION_GO
	optStructuredReply = uint32(8)
	optListMetaContext = uint32(9)
	optSetMetaContext  = uint32(10)
)

// Option replies: proto.md, "Option reply types".
const (
	repAck         = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer      = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo        = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repMetaContext = uint32(4)

	repErrUnsup    = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrInvalid  = uint32(1<<31 | 3)
	repErrUnknown  = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	repErrShutdown = uint32(1<<31 | 7)
	repErrTooBig   = uint32(1<<31 | 9)
)

// Kinds of information about an export: proto.md, "NBD_OPT_INFO and NBD_OPT_GO".
const (
	infoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	infoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	infoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	infoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

// Commands and their flags: proto.md, "Request types", "Command flags".
const (
	cmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	cmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	cmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	cmdFlush       = uint16(3)
	cmdTrim        = uint16(4)
	cmdWriteZeroes = uint16(6)
	cmdBlockStatus = uint16(7)

	cmdFlagDF     = uint16(1 << 2)
	cmdFlagReqOne = uint16(1 << 3)
)

// Structured replies: proto.md, "Structured reply flags", "... types".
const (
	magicStructured = uint32(0x668e33ef)

	chunkFlagDone = uint16(1 << 0)

	chunkOffsetData  = uint16(1)
	chunkOffsetHole  = uint16(2)
	chunkBlockStatus = uint16(5)
	chunkError       = uint16(1<<15 | 1)

	// Bits of base:allocation.
	stateHole = uint32(1 << 0)
	stateZero = uint32(1 << 1)
)

// errno is an error as the protocol knows it: proto.md, "Error values". The
// protocol allows no value that is not listed there.
type errno uint32

const (
	ePERM     = errno(protocol.TRANSMISSION_ERROR_EPERM)
	eIO       = errno(5)
	eINVAL    = errno(protocol.TRANSMISSION_ERROR_EINVAL)
	eSHUTDOWN = errno(108)
)

// Sizes of the fixed parts, in bytes.
const (
	optionHeaderSize     = 16
	requestSize          = 28
	simpleReplySize      = 16
	structuredHeaderSize = 20
)

// Limits. The block sizes are the ones that the protocol tells a client to assume
// when it hears none, so a client that does not ask is not misled.
const (
	minBlock       = 1
	preferredBlock = 4096
	maxRequest     = 32 << 20
	maxString      = 4096     // proto.md, "Values", on strings
	maxOptionData  = 64 << 10 // ours: the longest legal option is far shorter
	maxOptions     = 64       // ours, per handshake; each listed export adds some
)

// request is the header of a request: proto.md, "Request message".
//
//	off size
//	  0    4  magic 0x25609513
//	  4    2  command flags
//	  6    2  type
//	  8    8  cookie, returned with the reply
//	 16    8  offset, bytes
//	 24    4  length, bytes
type request struct {
	flags  uint16
	typ    uint16
	cookie uint64
	off    uint64
	length uint32
}

// parseRequest decodes the first requestSize bytes of p; false when the magic is
// wrong, after which nothing on the connection can be trusted.
func parseRequest(p []byte) (request, bool) {
	_ = p[requestSize-1]
	r := request{
		flags:  binary.BigEndian.Uint16(p[4:]),
		typ:    binary.BigEndian.Uint16(p[6:]),
		cookie: binary.BigEndian.Uint64(p[8:]),
		off:    binary.BigEndian.Uint64(p[16:]),
		length: binary.BigEndian.Uint32(p[24:]),
	}
	return r, binary.BigEndian.Uint32(p) == protocol.TRANSMISSION_MAGIC_REQUEST
}

// appendSimple appends the header of a simple reply: magic, error, cookie.
func appendSimple(p []byte, cookie uint64, e errno) []byte {
	p = binary.BigEndian.AppendUint32(p, protocol.TRANSMISSION_MAGIC_REPLY)
	p = binary.BigEndian.AppendUint32(p, uint32(e))
	return binary.BigEndian.AppendUint64(p, cookie)
}

// appendChunk appends the header of a chunk of a structured reply: magic, flags,
// type, cookie, length of what follows.
func appendChunk(p []byte, cookie uint64, flags, typ uint16, length uint32) []byte {
	p = binary.BigEndian.AppendUint32(p, magicStructured)
	p = binary.BigEndian.AppendUint16(p, flags)
	p = binary.BigEndian.AppendUint16(p, typ)
	p = binary.BigEndian.AppendUint64(p, cookie)
	return binary.BigEndian.AppendUint32(p, length)
}
