package overlay

import (
	"crypto/sha256"
	"encoding/binary"
)

// A datagram for an agent that can't be reached directly goes by other members.
// The sender chooses the way and says it in front (as segment routing does, RFC
// 8402), so agents that disagree can't make a loop. A relayed datagram is
//
//	 0–15   header of KindRelay: byte 1 says how many labels follow; index and
//	        counter are of the session with the agent that receives it next
//	16      which label is the receiver's
//	17      reservation: what the receiver calls the one by which it passes this
//	        datagram on; 0: by none
//	18–     labels, 4 bytes each: the sender's, those of the agents on the way,
//	        the destination's. 16–17 and the labels are sealed
//	        tag, 16 bytes
//	        the datagram for the destination, with a header of its own
//
// Each agent on the way opens the front, which proves that a member sent it,
// and seals it anew for the next one. What lies behind is sealed for the
// destination alone: nobody on the way can read or forge it, and a copy of it
// counts as a replay there.
const (
	// MaxLabels is how many labels a path has at most: eight hops.
	MaxLabels = 9
	minLabels = 3

	pathHeaderLen = 2
	labelLen      = 4
)

// A Label names an agent in a path. Two members may share one, which is a matter
// of chance at 2^-32 for each pair: then nothing is relayed to or by them.
type Label uint32

// Label returns the agent's label.
func (a AgentID) Label() Label {
	h := sha256.Sum256(append([]byte("farlan label 1"), a[:]...))
	return Label(binary.BigEndian.Uint32(h[:]))
}

// RelayOverhead is how many bytes a path of some labels puts in front of a
// datagram.
func RelayOverhead(labels int) int { return HeaderLen + pathLen(labels) + TagLen }

func pathLen(labels int) int { return pathHeaderLen + labelLen*labels }

// AppendRelayed appends datagram d with a path in front to b, for the second
// agent of the path, with which hop is the session. The lane byte is that of d
// if it has one. It returns nil if the session is over, or if there are fewer
// labels than three or more than MaxLabels.
func AppendRelayed(b []byte, hop *Session, lane byte, path []Label, d []byte) []byte {
	return AppendReserved(b, hop, lane, 0, path, d)
}

// AppendReserved is AppendRelayed of a datagram for which the second agent of the path
// reserved capacity that it calls by a number.
func AppendReserved(b []byte, hop *Session, lane, reservation byte, path []Label, d []byte) []byte {
	if len(path) < minLabels || len(path) > MaxLabels {
		return nil
	}
	start := len(b)
	b = append(b, make([]byte, HeaderLen)...)
	b = append(b, 1, reservation)
	for _, l := range path {
		b = binary.BigEndian.AppendUint32(b, uint32(l))
	}
	b = append(b, make([]byte, TagLen)...)
	if !sealFront(hop, lane, b[start:], len(path)) {
		return nil
	}
	return append(b, d...)
}

func sealFront(hop *Session, lane byte, d []byte, labels int) bool {
	return hop.seal(SpaceWay, KindRelay, byte(labels), lane, d[:HeaderLen+pathLen(labels)]) != nil
}

// A Transit is a relayed datagram whose front was opened: it shares its memory.
type Transit struct {
	datagram []byte
	labels   int
}

// TransitFront returns the front of relayed datagram d, which its session opens,
// or nil if d isn't complete.
func TransitFront(d []byte) []byte {
	if len(d) < HeaderLen || d[1] < minLabels || d[1] > MaxLabels || len(d) < RelayOverhead(int(d[1]))+HeaderLen {
		return nil
	}
	return d[:RelayOverhead(int(d[1]))]
}

// ParseTransit returns relayed datagram d, whose front was opened in place; ok is
// false if the path makes no sense.
func ParseTransit(d []byte) (r Transit, ok bool) {
	r = Transit{d, int(d[1])}
	at := r.at()
	return r, at > 0 && at < r.labels
}

func (r Transit) at() int { return int(r.datagram[HeaderLen]) }

// Label returns label i of the path, from 0, the sender's.
func (r Transit) Label(i int) Label {
	return Label(binary.BigEndian.Uint32(r.datagram[HeaderLen+pathHeaderLen+labelLen*i:]))
}

// Here returns the receiver's label.
func (r Transit) Here() Label { return r.Label(r.at()) }

// Back appends the path from its end to the sender to b.
func (r Transit) Back(b []Label) []Label {
	for i := r.labels - 1; i >= 0; i-- {
		b = append(b, r.Label(i))
	}
	return b
}

// Sender returns the label of the agent that chose the path.
func (r Transit) Sender() Label { return r.Label(0) }

// Next returns the label of the agent to pass the datagram on to; ok is false at
// the destination.
func (r Transit) Next() (l Label, ok bool) {
	if r.at()+1 == r.labels {
		return 0, false
	}
	return r.Label(r.at() + 1), true
}

// Reservation returns what the receiver calls the reservation by which it is asked to pass the
// datagram on, 0 for none. Nothing but its own table says whether that is so.
func (r Transit) Reservation() byte { return r.datagram[HeaderLen+1] }

// Inner returns the datagram for the destination.
func (r Transit) Inner() []byte { return r.datagram[RelayOverhead(r.labels):] }

// Pass makes the datagram, in place, the one for the next agent, with which hop
// is the session, and who calls the reservation by a number; false if the session is over.
func (r Transit) Pass(hop *Session, reservation byte) bool {
	r.datagram[HeaderLen]++
	r.datagram[HeaderLen+1] = reservation
	return sealFront(hop, r.datagram[laneByte], r.datagram, r.labels)
}
