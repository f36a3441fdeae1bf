package overlay

import "encoding/binary"

// reassemblySlots is how many cut frames of one peer can be incomplete at
// once; the oldest gives way. It covers the reordering of 32 datagrams.
const reassemblySlots = 32

// Items receives what an Unpacker finds in a datagram's body. Slices are valid
// during the call only.
type Items interface {
	Frame(f *Frame)
	Probe(p Probe)
	ProbeReply(p Probe)
	Ack(a Ack)
	Train(t Train)
	Notice(n Notice)
	Request(msg []byte)
	// Reserve takes a message about reservations; it is only valid until Reserve returns.
	Reserve(msg []byte)
	Bye()
}

// An Unpacker takes the bodies of one peer's datagrams apart, joins the pieces
// of cut frames, and makes super-frames whole again. Its memory is bounded by
// reassemblySlots frames. The zero value is ready; it is not safe for concurrent
// use.
type Unpacker struct {
	slots *[reassemblySlots]partial // made when the first piece comes
	super rebuilder
	udp   coalescer
	frame Frame
	// Malformed counts bodies whose items didn't fit, Unknown items of a type
	// that this version doesn't know, and Incomplete cut frames whose pieces
	// didn't all come.
	Malformed, Unknown, Incomplete uint64
}

// A partial is a frame whose pieces come in.
type partial struct {
	number        uint32
	have          int
	start, offset byte
	frame         []byte // nil: the slot is free
	buf           []byte
}

// Unpack calls to for every item of body. The chunks of a super-frame, and frames
// that may become one, are held back until it is whole, something else comes, or
// Flush is called; until then body must stay as it is.
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

// Flush delivers what is held back. It is to be called when a batch ends.
func (u *Unpacker) Flush(to Items) {
	u.super.flush(to)
	u.udp.flush(to)
}

func (u *Unpacker) item(kind byte, c []byte, to Items) {
	switch kind {
	case itemFrame:
		u.whole(c, Offload{}, false, to)
	case itemPartial:
		if len(c) < partialHeaderLen {
			u.Malformed++
			return
		}
		u.whole(c[partialHeaderLen:], Offload{Start: uint16(c[0]), Offset: uint16(c[1])}, true, to)
	case itemPiece:
		if frame, o := u.piece(c); frame != nil {
			u.whole(frame, o, false, to)
		}
	case itemChunk:
		u.udp.flush(to) // it came before
		if k, ok := parseChunk(c); !ok || !u.super.add(&k, to) {
			u.Malformed++
		}
	case itemAck:
		if a, ok := parseAck(c); ok {
			to.Ack(a)
		} else {
			u.Malformed++
		}
	case itemProbe, itemProbeReply:
		p, ok := parseProbe(c, kind == itemProbeReply)
		if !ok {
			u.Malformed++
		} else if kind == itemProbe {
			to.Probe(p)
		} else {
			to.ProbeReply(p)
		}
	case itemTrain:
		if t, known, ok := parseTrain(c); !known {
			u.Unknown++
		} else if ok {
			to.Train(t)
		} else {
			u.Malformed++
		}
	case itemNotice:
		if n, known, ok := parseNotice(c); !known {
			u.Unknown++
		} else if ok {
			to.Notice(n)
		} else {
			u.Malformed++
		}
	case itemRequest, itemReserve:
		u.opaque(kind, c, to)
	case itemBye:
		to.Bye()
	default:
		u.Unknown++
	}
}

// opaque delivers bytes that mean nothing here.
func (u *Unpacker) opaque(kind byte, c []byte, to Items) {
	switch {
	case kind == itemRequest && len(c) > 0 && len(c) <= MaxRequest:
		to.Request(c)
	case kind == itemReserve && len(c) > 0 && len(c) <= MaxReserve:
		to.Reserve(c)
	default:
		u.Malformed++
	}
}

// whole delivers a frame that is no super-frame, now or with those that follow
// it: lasts says that it stays as it is until Flush.
func (u *Unpacker) whole(frame []byte, o Offload, lasts bool, to Items) {
	if len(frame) < MinFrame || len(frame) > MaxFrame || !o.checksumFits(len(frame)) || o.Start > 0 && o.Start < MinFrame {
		u.Malformed++
		return
	}
	u.super.flush(to) // it came before this one
	if lasts && u.udp.add(frame, o, to) {
		return
	}
	u.udp.flush(to)
	u.frame.Head, u.frame.Offload = frame, o
	to.Frame(&u.frame)
}

// piece takes in a piece and returns its frame if that is complete now. Each
// datagram is opened once (the replay window sees to that), so counting bytes
// is enough to know; a peer that overlaps its pieces garbles its own frame.
func (u *Unpacker) piece(c []byte) ([]byte, Offload) {
	if len(c) <= pieceHeaderLen {
		u.Malformed++
		return nil, Offload{}
	}
	number := binary.BigEndian.Uint32(c)
	at, total := int(binary.BigEndian.Uint16(c[4:])), int(binary.BigEndian.Uint16(c[6:]))
	data := c[pieceHeaderLen:]
	if total < MinFrame || total > MaxFrame || at+len(data) > total {
		u.Malformed++
		return nil, Offload{}
	}
	if u.slots == nil {
		u.slots = new([reassemblySlots]partial)
	}
	s := &u.slots[number%reassemblySlots]
	if s.frame == nil || s.number != number || len(s.frame) != total {
		if s.frame != nil {
			u.Incomplete++
		}
		s.begin(number, total)
		s.start, s.offset = c[8], c[9]
	}
	s.have += copy(s.frame[at:], data)
	if s.have < total {
		return nil, Offload{}
	}
	frame := s.frame
	s.frame = nil
	return frame, Offload{Start: uint16(s.start), Offset: uint16(s.offset)}
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
