package nbdserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/blkbak/blkbak"
	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// errHangup: the client ended the handshake as it may.
var errHangup = errors.New("client aborted the handshake")

// handshake is the state of a negotiation: proto.md, "Fixed newstyle negotiation".
type handshake struct {
	c        *conn
	ctx      context.Context // ends with the time limit
	noZeroes bool
	budget   int    // options that the client may still send
	out      []byte // replies to the current option
	contexts metaContexts
}

// option is one option as received. The data of one that is too long is gone.
type option struct {
	id     uint32
	data   []byte
	tooBig bool
}

// handshake negotiates until the client has chosen an export, which c.exp then is.
func (c *conn) handshake() error {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.opt.HandshakeTimeout)
	defer cancel()
	h := &handshake{c: c, ctx: ctx, budget: maxOptions}
	if err := h.greet(); err != nil {
		return fmt.Errorf("nbd handshake: %w", err)
	}
	for h.budget > 0 {
		h.budget--
		opt, err := h.next()
		if err != nil {
			return fmt.Errorf("nbd handshake: %w", err)
		}
		err = h.answer(opt)
		// Nothing that was promised to the client may stay behind.
		if len(h.out) > 0 {
			if _, werr := c.nc.Write(h.out); werr != nil {
				return fmt.Errorf("nbd handshake: send reply: %w", werr)
			}
			h.out = h.out[:0]
		}
		switch {
		case err != nil:
			return fmt.Errorf("nbd handshake: %w", err)
		case c.exp != nil:
			c.begin()
			return nil
		}
	}
	return errors.New("nbd handshake: too many options")
}

// greet exchanges the fixed beginnings.
func (h *handshake) greet() error {
	hello, err := binary.Append(nil, binary.BigEndian, protocol.NegotiationNewstyleHeader{
		OldstyleMagic:  protocol.NEGOTIATION_MAGIC_OLDSTYLE,
		OptionMagic:    protocol.NEGOTIATION_MAGIC_OPTION,
		HandshakeFlags: flagFixedNewstyle | flagNoZeroes,
	})
	if err != nil {
		return err
	}
	if _, err := h.c.nc.Write(hello); err != nil {
		return fmt.Errorf("send greeting: %w", err)
	}
	var p [4]byte
	if _, err := io.ReadFull(h.c.br, p[:]); err != nil {
		return fmt.Errorf("read client flags: %w", err)
	}
	flags := binary.BigEndian.Uint32(p[:])
	if unknown := flags &^ (clientFixedNewstyle | clientNoZeroes); unknown != 0 {
		return fmt.Errorf("unknown client flags %#x", unknown)
	}
	h.noZeroes = flags&clientNoZeroes != 0
	return nil
}

// next reads an option whole, so that whatever becomes of it, the one after it
// starts where it should.
//
//	off size
//	  0    8  magic IHAVEOPT
//	  8    4  option
//	 12    4  length of the data that follows
func (h *handshake) next() (option, error) {
	var p [optionHeaderSize]byte
	if _, err := io.ReadFull(h.c.br, p[:]); err != nil {
		return option{}, fmt.Errorf("read option: %w", err)
	}
	if m := binary.BigEndian.Uint64(p[:]); m != protocol.NEGOTIATION_MAGIC_OPTION {
		return option{}, fmt.Errorf("option with magic %#x", m)
	}
	opt := option{id: binary.BigEndian.Uint32(p[8:])}
	n := binary.BigEndian.Uint32(p[12:])
	var err error
	if n > maxOptionData {
		opt.tooBig = true
		_, err = io.CopyN(io.Discard, h.c.br, int64(n))
	} else {
		opt.data = make([]byte, n)
		_, err = io.ReadFull(h.c.br, opt.data)
	}
	if err != nil {
		return option{}, fmt.Errorf("read data of option %d: %w", opt.id, err)
	}
	return opt, nil
}

// answer deals with one option. An error ends the connection after what is in
// h.out has been sent.
func (h *handshake) answer(opt option) error {
	switch {
	case opt.id == optExportName:
		return h.exportName(opt)
	case opt.id == optAbort:
		h.reply(opt.id, repAck, nil)
		return errHangup
	case h.c.draining.Load():
		h.refuse(opt.id, repErrShutdown, "the server is shutting down")
		return errHangup
	case opt.tooBig:
		h.refuse(opt.id, repErrTooBig, "option data is longer than 64 KiB")
		return nil
	}
	switch opt.id {
	case optList:
		h.list(opt)
	case optInfo, optGo:
		h.info(opt)
	case optStructuredReply:
		if len(opt.data) != 0 {
			h.refuse(opt.id, repErrInvalid, "structured replies take no data")
			break
		}
		h.c.structured = true
		h.reply(opt.id, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		h.meta(opt)
	default:
		h.refuse(opt.id, repErrUnsup, "unknown option")
	}
	return nil
}

// reply appends an option reply.
func (h *handshake) reply(id, typ uint32, data []byte) {
	h.out, _ = binary.Append(h.out, binary.BigEndian, protocol.NegotiationReplyHeader{
		ReplyMagic: protocol.NEGOTIATION_MAGIC_REPLY, ID: id, Type: typ, Length: uint32(len(data)),
	})
	h.out = append(h.out, data...)
}

// refuse appends an error reply, which may carry words for people.
func (h *handshake) refuse(id, typ uint32, msg string) { h.reply(id, typ, []byte(msg)) }

// exportName answers the oldest way to choose an export. It has no form for an
// error, other than the end of the connection.
//
//	off size
//	  0    8  size of the export
//	  8    2  transmission flags
//	 10  124  zeros, unless both sides said NO_ZEROES
func (h *handshake) exportName(opt option) error {
	if opt.tooBig {
		return errors.New("export name is too long")
	}
	if h.c.draining.Load() {
		return errHangup
	}
	exp, _, msg, err := h.open(opt.data)
	if err != nil {
		return fmt.Errorf("%s: %w", msg, err)
	}
	h.out = binary.BigEndian.AppendUint64(h.out, uint64(exp.Size))
	h.out = binary.BigEndian.AppendUint16(h.out, h.transFlags())
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, 124)...)
	}
	h.choose(exp, string(opt.data))
	return nil
}

// choose ends the handshake with exp, asked for as name.
func (h *handshake) choose(exp *Export, name string) {
	h.c.exp = exp
	h.c.allocation = h.contexts.allocation && h.contexts.export == name
}

func (h *handshake) transFlags() uint16 {
	f := transHasFlags | transReadOnly | transSendFlush | transCanMultiConn
	if h.c.structured {
		f |= transSendDF
	}
	return f
}

// list answers with one reply for each export: u32 length of the name, the name,
// and the description in what is left.
func (h *handshake) list(opt option) {
	if len(opt.data) != 0 {
		h.refuse(opt.id, repErrInvalid, "list takes no data")
		return
	}
	infos, err := h.c.srv.opt.Exports.List(h.ctx)
	if err != nil {
		h.c.log.Warn("list exports", "err", err)
		h.refuse(opt.id, repErrUnknown, "the exports cannot be listed, the server's log says why")
		return
	}
	for _, e := range infos {
		if len(e.Name) > maxString {
			continue // no client could ask for it
		}
		p := binary.BigEndian.AppendUint32(nil, uint32(len(e.Name)))
		p = append(p, e.Name...)
		h.reply(opt.id, repServer, append(p, clip(e.Description)...))
	}
	h.reply(opt.id, repAck, nil)
	h.budget += 2 * len(infos) // clients ask about each of them next
}

// open opens an export. On an error it also returns the reply and the words for
// the client.
func (h *handshake) open(name []byte) (exp *Export, rep uint32, msg string, err error) {
	switch {
	case len(name) > maxString:
		return nil, repErrTooBig, "export name is too long", errors.New("longer than 4096 bytes")
	case !utf8.Valid(name) || bytes.IndexByte(name, 0) >= 0:
		return nil, repErrInvalid, "export name is not text", errors.New("not UTF-8 without NUL")
	}
	exp, err = h.c.srv.opt.Exports.Open(h.ctx, string(name))
	switch {
	case errors.Is(err, blkbak.ErrNotFound):
		return nil, repErrUnknown, fmt.Sprintf("no export is named %q", name), err
	case err != nil:
		h.c.log.Warn("open export", "export", string(name), "err", err)
		return nil, repErrUnknown, fmt.Sprintf("export %q cannot be opened, the server's log says why", name), err
	case exp.Size < 0:
		release(exp)
		return nil, repErrUnknown, "the export has no size", fmt.Errorf("export %q has size %d", name, exp.Size)
	}
	return exp, 0, "", nil
}

func release(e *Export) {
	if e.Release != nil {
		e.Release()
	}
}

// info answers INFO and GO, which differ only in that GO starts transmission. The
// data is a name with its length before it, then u16 a count and as many u16
// kinds of information that the client would like.
func (h *handshake) info(opt option) {
	name, rest, ok := cutString(opt.data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		h.refuse(opt.id, repErrInvalid, "lengths do not fit the option")
		return
	}
	exp, rep, msg, err := h.open(name)
	if err != nil {
		h.refuse(opt.id, rep, msg)
		return
	}
	h.describe(opt.id, exp, rest[2:])
	h.reply(opt.id, repAck, nil)
	if opt.id == optGo {
		h.choose(exp, string(name))
	} else {
		release(exp)
	}
}

// describe appends what there is to know about exp: always its size, flags and
// block sizes, and of the names what was asked for.
func (h *handshake) describe(id uint32, exp *Export, asked []byte) {
	p, _ := binary.Append(nil, binary.BigEndian, protocol.NegotiationReplyInfo{
		Type: infoExport, Size: uint64(exp.Size), TransmissionFlags: h.transFlags(),
	})
	h.reply(id, repInfo, p)
	var name, description bool
	for ; len(asked) > 0; asked = asked[2:] {
		switch binary.BigEndian.Uint16(asked) {
		case infoName:
			name = true
		case infoDescription:
			description = true
		}
	}
	text := func(kind uint16, s string) {
		p := binary.BigEndian.AppendUint16(nil, kind)
		h.reply(id, repInfo, append(p, clip(s)...))
	}
	if name {
		text(infoName, exp.Name)
	}
	if description && exp.Description != "" {
		text(infoDescription, exp.Description)
	}
	p, _ = binary.Append(nil, binary.BigEndian, protocol.NegotiationReplyBlockSize{
		Type: infoBlockSize, MinimumBlockSize: minBlock, PreferredBlockSize: preferredBlock, MaximumBlockSize: maxRequest,
	})
	h.reply(id, repInfo, p)
}

// clip shortens s to what a string may have in the protocol.
func clip(s string) string {
	if len(s) <= maxString {
		return s
	}
	return strings.ToValidUTF8(s[:maxString], "")
}

// cutString takes a string with its u32 length before it off the front of p.
func cutString(p []byte) (s, rest []byte, ok bool) {
	if len(p) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(p)
	if uint64(n) > uint64(len(p)-4) {
		return nil, nil, false
	}
	return p[4 : 4+n], p[4+n:], true
}
