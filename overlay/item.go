package overlay

import "encoding/binary"

// The body of a data datagram is a run of items, each with a header of three
// bytes:
//
//	0     type
//	1–2   length of the content, big endian
//	3–    content
//
// A frame that doesn't fit whole travels as pieces in several datagrams; the
// content of a piece starts with
//
//	0–3   frame number, of the session's direction
//	4–5   offset of these bytes in the frame
//	6–7   length of the frame
//
// Unknown types are counted and skipped.
const (
	itemPadding    = 0 // the rest of the body is nothing
	itemFrame      = 1 // a whole frame
	itemPiece      = 2 // a piece of a frame
	itemProbe      = 3 // see Probe
	itemProbeReply = 4
	itemBye        = 5 // the sender leaves; no content

	itemHeaderLen  = 3
	pieceHeaderLen = 8
	probeLen       = 16

	// cutMin is how much room must be left in a datagram for a frame to be cut
	// there: with less, the room is padded, because a cut makes the frame
	// depend on two datagrams.
	cutMin = 256
)

// A Probe asks its receiver for a reply at once; both are items.
//
//	0–3    number
//	4–11   the asker's clock when it sent the probe, nanoseconds; only the
//	       asker reads it
//	12–15  reply: how long the receiver held the probe, microseconds
type Probe struct {
	Number     uint32
	Sent       Instant
	HoldMicros uint32
}

// AppendProbe appends the item of a probe, or of a reply to it, to body b.
func AppendProbe(b []byte, p Probe, reply bool) []byte {
	kind := byte(itemProbe)
	if reply {
		kind = itemProbeReply
	}
	b = append(b, kind, 0, probeLen)
	b = binary.BigEndian.AppendUint32(b, p.Number)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Sent))
	return binary.BigEndian.AppendUint32(b, p.HoldMicros)
}

// AppendBye appends the item that says that the sender leaves to body b.
func AppendBye(b []byte) []byte { return append(b, itemBye, 0, 0) }

func parseProbe(c []byte) (Probe, bool) {
	if len(c) < probeLen {
		return Probe{}, false
	}
	return Probe{
		Number:     binary.BigEndian.Uint32(c),
		Sent:       Instant(binary.BigEndian.Uint64(c[4:])),
		HoldMicros: binary.BigEndian.Uint32(c[12:]),
	}, true
}
