package nbdserver

import (
	"encoding/binary"
	"strings"
)

// Metadata contexts: proto.md, "Metadata querying". A client selects them for one
// export, and BLOCK_STATUS then answers for each. There is one so far.
const (
	allocationName = "base:allocation"
	allocationID   = uint32(1)
)

// metaContexts is what a client has selected, and for which export.
type metaContexts struct {
	export     string
	allocation bool
}

// meta answers LIST_META_CONTEXT and SET_META_CONTEXT. The data is the name of an
// export, then a u32 count and as many queries, each a string with its length
// before it. The reply to each context is u32 its id and its name.
func (h *handshake) meta(opt option) {
	set := opt.id == optSetMetaContext
	if set {
		h.contexts = metaContexts{} // replaced even by a failure
	}
	if set && !h.c.structured {
		h.refuse(opt.id, repErrInvalid, "metadata contexts need structured replies")
		return
	}
	name, queries, ok := parseQueries(opt.data)
	if !ok {
		h.refuse(opt.id, repErrInvalid, "lengths do not fit the option")
		return
	}
	exp, rep, msg, err := h.open(name)
	if err != nil {
		h.refuse(opt.id, rep, msg)
		return
	}
	release(exp)

	found := !set && len(queries) == 0 // lists all
	for _, q := range queries {
		// "base:" asks for the whole namespace, which is for lists only.
		found = found || q == allocationName || !set && q == allocationName[:strings.IndexByte(allocationName, ':')+1]
	}
	if found {
		id := uint32(0) // means nothing in a list
		if set {
			id = allocationID
			h.contexts = metaContexts{export: string(name), allocation: true}
		}
		h.reply(opt.id, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), allocationName...))
	}
	h.reply(opt.id, repAck, nil)
}

// parseQueries decodes the data of a metadata option; false if it does not fit.
func parseQueries(p []byte) (export []byte, queries []string, ok bool) {
	export, p, ok = cutString(p)
	if !ok || len(p) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(p)
	p = p[4:]
	for ; n > 0; n-- {
		var q []byte
		if q, p, ok = cutString(p); !ok {
			return nil, nil, false
		}
		queries = append(queries, string(q))
	}
	return export, queries, len(p) == 0
}
