package overlay

import "encoding/binary"

// reassemblySlots is how many cut frames of one peer can be incomplete at
// once; the oldest gives way. It covers the reordering of 32 datagrams.
const reassemblySlots = 32

// Items receives what an Unpacker finds in a datagram's body. Slices are valid
// during the call only.
type Items interface {
	Frame(frame []byte)
	Probe(p Probe)
	ProbeReply(p Probe)
	Bye()
}

// An Unpacker takes the bodies of one peer's datagrams apart and joins the
// pieces of cut frames. Its memory is bounded by reassemblySlots frames. The
// zero value is ready; it is not safe for concurrent use.
type Unpacker struct {
	slots [reassemblySlots]partial
	// Malformed counts bodies whose items didn't fit, Unknown items of a type
	// that this version doesn't know, and Incomplete cut frames whose pieces
	// didn't all come.
	Malformed, Unknown, Incomplete uint64
}

// A partial is a frame whose pieces come in.
type partial struct {
	number uint32
	have   int
	frame  []byte // nil: the slot is free
	buf    []byte
}

// Unpack calls to for every item of body.
func (u *Unpacker) Unpack(body []byte, to Items) {
	for len(body) > 0 && body[0] != itemPadding {
		if len(body) < itemHeaderLen {
			u.Malformed++
			return
		}
		kind, n := body[0], int(binary.BigEndian.Uint16(body[1:]))
		body = body[itemHeaderLen:]
		if n > len(body) {
			u.Malformed++
			return
		}
		u.item(kind, body[:n:n], to)
		body = body[n:]
	}
}

func (u *Unpacker) item(kind byte, c []byte, to Items) {
	switch kind {
	case itemFrame:
		if len(c) < MinFrame || len(c) > MaxFrame {
			u.Malformed++
			return
		}
		to.Frame(c)
	case itemPiece:
		if frame := u.piece(c); frame != nil {
			to.Frame(frame)
		}
	case itemProbe, itemProbeReply:
		p, ok := parseProbe(c)
		if !ok {
			u.Malformed++
		} else if kind == itemProbe {
			to.Probe(p)
		} else {
			to.ProbeReply(p)
		}
	case itemBye:
		to.Bye()
	default:
		u.Unknown++
	}
}

// piece takes in a piece and returns its frame if that is complete now. Each
// datagram is opened once (the replay window sees to that), so counting bytes
// is enough to know; a peer that overlaps its pieces garbles its own frame.
func (u *Unpacker) piece(c []byte) []byte {
	if len(c) <= pieceHeaderLen {
		u.Malformed++
		return nil
	}
	number := binary.BigEndian.Uint32(c)
	at, total := int(binary.BigEndian.Uint16(c[4:])), int(binary.BigEndian.Uint16(c[6:]))
	data := c[pieceHeaderLen:]
	if total < MinFrame || total > MaxFrame || at+len(data) > total {
		u.Malformed++
		return nil
	}
	s := &u.slots[number%reassemblySlots]
	if s.frame == nil || s.number != number || len(s.frame) != total {
		if s.frame != nil {
			u.Incomplete++
		}
		s.begin(number, total)
	}
	s.have += copy(s.frame[at:], data)
	if s.have < total {
		return nil
	}
	frame := s.frame
	s.frame = nil
	return frame
}

// begin makes the slot ready for a frame. Its buffer grows to the longest
// frame seen, and stays.
func (s *partial) begin(number uint32, total int) {
	if cap(s.buf) < total {
		s.buf = make([]byte, max(total, 1600))
	}
	clear(s.buf[:total]) // a garbled frame must not show an older one's bytes
	s.number, s.have, s.frame = number, 0, s.buf[:total]
}
