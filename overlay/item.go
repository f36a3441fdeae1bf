package overlay

import (
	"encoding/binary"
	"net/netip"
)

// The body of a sealed datagram is a run of items, each with a header of three
// bytes:
//
//	0     type
//	1–2   length of the content, big endian
//	3–    content
//
// A frame whose checksum is not computed yet has two bytes in front: where what
// the checksum covers starts, and where it belongs, counted from there (see
// Offload). A frame that doesn't fit whole travels as pieces in several
// datagrams; the content of a piece starts with
//
//	0–3   number of the frame, counted by the sender
//	4–5   offset of these bytes in the frame
//	6–7   length of the frame
//	8–9   as for a frame without checksum; zero if it has one
//
// A super-frame travels as chunks, one a datagram, each with all its headers, so
// that each is worth something alone:
//
//	0–1   number of the super-frame, counted by the sender
//	2     kind (Super), 0x80 for ECN
//	3     length of the headers: Ethernet to TCP or UDP
//	4–5   segment: payload bytes of each segment
//	6–7   offset of this chunk's bytes in the payload
//	8–9   length of the payload
//	10–   the headers as the sender's kernel made them, then payload
//
// Unknown types are counted and skipped.
const (
	itemPadding    = 0 // the rest of the body is nothing
	itemFrame      = 1 // a whole frame
	itemPiece      = 2 // a piece of a frame
	itemProbe      = 3 // see Probe
	itemProbeReply = 4
	itemBye        = 5  // the sender leaves; no content
	itemPartial    = 6  // a whole frame without its checksum
	itemChunk      = 7  // a chunk of a super-frame
	itemAck        = 8  // see Ack
	itemTrain      = 16 // see Train
	itemNotice     = 17 // see Notice
	itemRequest    = 18 // see AppendRequest
	itemSpread     = 19 // see Spread
	itemReserve    = 20 // see AppendReserve

	itemHeaderLen    = 3
	pieceHeaderLen   = 10
	partialHeaderLen = 2
	chunkHeaderLen   = 10
	probeLen         = 24
	replyLen         = probeLen + 2
	ackLen           = 44
	noticeLen        = 5
	spreadLen        = 14
	farSpreadLen     = spreadLen + 12

	chunkECN = 0x80

	// cutMin is how much room must be left in a datagram for a frame to be cut
	// there: with less, the room is padded, because a cut makes the frame
	// depend on two datagrams.
	cutMin = 256
)

// Overhead is what a datagram of one whole frame, or of one chunk of a
// super-frame with headers of n bytes, is longer than the frame or than the
// chunk's payload.
func Overhead(headers int) int {
	return HeaderLen + itemHeaderLen + chunkHeaderLen + headers + TagLen
}

// A Probe asks its receiver for a reply at once; both are items, and much alike: see
// measure.Path.
//
//	0–3    number, counted by the sender over its probes and replies; ProbeSpecial
//	       and above are for other purposes, and their replies have none: 0
//	4–7    the sender's clock when it was sent, microseconds modulo 2^32
//	8–11   echo: of a reply, the number of the probe that it answers; of a probe, that
//	       of the newest one of the other direction; 0: there is none
//	12–15  how long ago that came, microseconds
//	16–19  the highest counter that the sender has received in this session, modulo 2^32
//	20–23  how many datagrams it has received in it, modulo 2^32; 0: it isn't told
//	24–25  reply: the size of the datagram (UDP payload) that the probe came in
//	26–    reply to a probe that came directly: 4 or 6, and the address and port
//	       from which it came; nothing of that otherwise
type Probe struct {
	Number         uint32
	Sent           uint32
	Echo           uint32
	HoldMicros     uint32
	Highest, Count uint32
	Size           uint16         // of replies only; so is:
	Seen           netip.AddrPort // invalid if it isn't told
}

// ProbeSpecial is the first number of probes that aren't counted.
const ProbeSpecial = 1<<32 - 16

// AppendProbe appends the item of a probe, or of a reply to one, to body b.
func AppendProbe(b []byte, p Probe, reply bool) []byte {
	kind := byte(itemProbe)
	if reply {
		kind = itemProbeReply
	}
	start := len(b)
	b = append(b, kind, 0, 0)
	for _, v := range [...]uint32{p.Number, p.Sent, p.Echo, p.HoldMicros, p.Highest, p.Count} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	if reply {
		b = binary.BigEndian.AppendUint16(b, p.Size)
		b = appendSeen(b, p.Seen)
	}
	b[start+2] = byte(len(b) - start - itemHeaderLen)
	return b
}

func appendSeen(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap().WithZone("")
	switch {
	case !ip.IsValid():
		return b
	case ip.Is4():
		four := ip.As4()
		b = append(append(b, 4), four[:]...)
	default:
		six := ip.As16()
		b = append(append(b, 6), six[:]...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// parseSeen reads what appendSeen wrote; the result is invalid if it isn't that.
func parseSeen(c []byte) netip.AddrPort {
	if len(c) == 0 || c[0] != 4 && c[0] != 6 {
		return netip.AddrPort{}
	}
	n := 4
	if c[0] == 6 {
		n = 16
	}
	if len(c) < 1+n+2 {
		return netip.AddrPort{}
	}
	ip, _ := netip.AddrFromSlice(c[1 : 1+n])
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(c[1+n:]))
}

// AppendBye appends the item that says that the sender leaves to body b.
func AppendBye(b []byte) []byte { return append(b, itemBye, 0, 0) }

func parseProbe(c []byte, reply bool) (p Probe, ok bool) {
	if len(c) < probeLen || reply && len(c) < replyLen {
		return Probe{}, false
	}
	for i, v := range [...]*uint32{&p.Number, &p.Sent, &p.Echo, &p.HoldMicros, &p.Highest, &p.Count} {
		*v = binary.BigEndian.Uint32(c[4*i:])
	}
	if reply {
		p.Size, p.Seen = binary.BigEndian.Uint16(c[probeLen:]), parseSeen(c[replyLen:])
	}
	return p, true
}

// An Ack says what an agent has received of a session, all in all; it rides
// along with what goes the other way.
//
//	0–3    the acknowledged session, by the index that the receiver of the
//	       acknowledgement knows it by
//	4–11   the highest counter received
//	12–19  how many datagrams were received
//	20–27  their bytes (UDP payload)
//	28–35  when the newest came, by the kernel's stamp; nanoseconds of the
//	       acknowledger's clock: only differences mean anything
//	36–39  when it was sent, microseconds of the clock that stamps probes, modulo 2^32
//	40–43  how long before that the newest came, microseconds; 0 if that isn't known
type Ack struct {
	Index                 uint32
	Highest, Count, Bytes uint64
	Stamp                 Instant
	Sent, HoldMicros      uint32
}

// AckDatagram is the length of a datagram that holds nothing but an Ack.
const AckDatagram = HeaderLen + itemHeaderLen + ackLen + TagLen

// AppendAck appends the item of an acknowledgement to body b.
func AppendAck(b []byte, a Ack) []byte {
	b = append(b, itemAck, 0, ackLen)
	b = binary.BigEndian.AppendUint32(b, a.Index)
	b = binary.BigEndian.AppendUint64(b, a.Highest)
	b = binary.BigEndian.AppendUint64(b, a.Count)
	b = binary.BigEndian.AppendUint64(b, a.Bytes)
	b = binary.BigEndian.AppendUint64(b, uint64(a.Stamp))
	b = binary.BigEndian.AppendUint32(b, a.Sent)
	return binary.BigEndian.AppendUint32(b, a.HoldMicros)
}

func parseAck(c []byte) (Ack, bool) {
	if len(c) < ackLen {
		return Ack{}, false
	}
	return Ack{
		Index:   binary.BigEndian.Uint32(c),
		Highest: binary.BigEndian.Uint64(c[4:]),
		Count:   binary.BigEndian.Uint64(c[12:]),
		Bytes:   binary.BigEndian.Uint64(c[20:]),
		Stamp:   Instant(binary.BigEndian.Uint64(c[28:])),
		Sent:    binary.BigEndian.Uint32(c[36:]), HoldMicros: binary.BigEndian.Uint32(c[40:]),
	}, true
}

// A Notice is what a member on a path and the one who chose it say to each other.
//
//	0    about what
//	1–4  label of the agent that it is about
type Notice struct {
	About NoticeAbout
	Label Label
}

// A NoticeAbout says what a Notice is about. The values are on the wire; unknown ones are
// counted and skipped.
type NoticeAbout uint8

// The things that are said.
const (
	_           NoticeAbout = iota
	NoticeNoWay             // I can't pass on what you send by me to that agent
	NoticeWant              // paths by you are of interest: find out what your link to that agent carries
)

// AppendNotice appends the item of a notice to body b.
func AppendNotice(b []byte, n Notice) []byte {
	b = append(b, itemNotice, 0, noticeLen, byte(n.About))
	return binary.BigEndian.AppendUint32(b, uint32(n.Label))
}

func parseNotice(c []byte) (n Notice, known, ok bool) {
	if len(c) < noticeLen {
		return n, true, false
	}
	n = Notice{NoticeAbout(c[0]), Label(binary.BigEndian.Uint32(c[1:]))}
	return n, n.About == NoticeNoWay || n.About == NoticeWant, true
}

// MaxRequest is how long a request is at most.
const MaxRequest = 64

// AppendRequest appends the item of a request about a link to body b: bytes, at least one and
// at most MaxRequest, that mean nothing to this package.
func AppendRequest(b, request []byte) []byte {
	return append(append(b, itemRequest, 0, byte(len(request))), request...)
}

// MaxReserve is how long a message about reservations is at most.
const MaxReserve = 512

// AppendReserve appends the item of a message about reservations to body b: bytes, at least one
// and at most MaxReserve, that mean nothing to this package.
func AppendReserve(b, msg []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, itemReserve), uint16(len(msg)))
	return append(b, msg...)
}
