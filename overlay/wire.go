package overlay

import "encoding/binary"

// Every datagram of ours starts with a header of 16 bytes:
//
//	 0      kind | version<<4     the two top bits are zero: that tells it from
//	                              the control plane's datagrams on the same port
//	 1      labels                of a path: see path.go. 0: there is none
//	 2      lane, class           data: which of the sender's lanes; LaneDelay
//	 3      reserved, zero        ignored on receipt
//	 4–7    receiver's index      which session; big endian (handshakes: below)
//	 8–15   counter               of the session's direction; big endian; the three top
//	                              bytes say the space: see Space
//	16–     sealed body, 16-byte tag
//
// Bytes 4–15 are the AEAD's nonce, the whole header its associated data.
// Handshake messages use bytes 4–15 for the two indices; see handshake.go.
const (
	// HeaderLen is the length of a datagram's header.
	HeaderLen = 16
	// TagLen is the length of the AEAD's tag at a datagram's end.
	TagLen = 16
	// Version is the wire version that this code speaks: 1 to 3 fit.
	Version = 1
)

// Kind tells what a datagram is.
type Kind uint8

// The kinds of datagrams; unknown ones are counted and dropped.
const (
	_              Kind = iota
	KindData            // sealed items: frames, and what rides along
	KindInitiation      // first handshake message
	KindResponse        // second handshake message
	KindProbe           // sealed items: probes, their replies, byes
	KindRelay           // a datagram for another agent, or by way of one
	KindTrain           // sealed item: a car of a train
)

const laneByte = 2 // in a header

// LaneDelay is the bit of a header's lane byte that says ClassDelay.
const LaneDelay = 0x80

// ParseKind returns what datagram b is: its kind if it is one of ours, is of
// this version, and complete enough to have a header; else ok is false.
func ParseKind(b []byte) (kind Kind, ok bool) {
	if len(b) < HeaderLen || b[0]>>4 != Version {
		return 0, false
	}
	kind = Kind(b[0] & 0x0f)
	if kind < KindData || kind > KindTrain || b[1] != 0 && kind != KindRelay {
		return 0, false
	}
	return kind, true
}

// putHeader writes a header into b's first HeaderLen bytes.
func putHeader(b []byte, kind Kind, labels, lane byte, index uint32, counter uint64) {
	_ = b[HeaderLen-1]
	b[0] = byte(kind) | Version<<4
	b[1], b[laneByte], b[3] = labels, lane, 0
	binary.BigEndian.PutUint32(b[4:], index)
	binary.BigEndian.PutUint64(b[8:], counter)
}

// Lane returns the lane byte of the header of b, which is of KindData or
// KindRelay.
func Lane(b []byte) byte { return b[laneByte] }

// ReceiverIndex returns the index in the header of b.
func ReceiverIndex(b []byte) uint32 { return binary.BigEndian.Uint32(b[4:]) }

// Counter returns the counter in the header of b.
func Counter(b []byte) uint64 { return binary.BigEndian.Uint64(b[8:]) }
