package reserve

import (
	"encoding/binary"
	"errors"
	"time"

	"farlan/overlay"
)

// A Flow is whose frames a reservation serves: those from one station to another, or, where
// the stations are zero, all from one agent to another.
type Flow struct {
	From, To     overlay.AgentID
	Source, Dest overlay.MAC
}

// back returns the flow in the other direction.
func (f Flow) back() Flow { return Flow{f.To, f.From, f.Dest, f.Source} }

// between returns the flow and its opposite as one: with the lower agent first.
func (f Flow) between() Flow {
	if f.To.Compare(f.From) < 0 {
		return f.back()
	}
	return f
}

// A line is what one agent coordinates at a time: two stations, or agents, whichever sends.
// Epochs are a line's. What an owner declared is a line of its own for each agent that asks.
type line struct {
	between  Flow
	declared bool
	by       overlay.AgentID // of declared ones
}

// A Why says why an agent doesn't grant, or no longer.
type Why uint8

// The reasons.
const (
	Nothing   Why = iota
	Full          // not that much at this egress: the message says how much
	OverQuota     // the asker has had enough: the message says how much is left
	OldEpoch      // another agent coordinates, or the same one since its restart
	Busy          // it starts, or has too many: ask again
	Denied        // not by this agent, or not here
	Useless       // no driver can
	Failed        // the driver said no, or lost it
	Ended         // it came to its end
	whys
)

var whyNames = [...]string{"", "no capacity left", "quota", "another coordinator", "busy", "denied", "no driver", "driver", "ended"}

// String returns a few words.
func (w Why) String() string {
	if int(w) < len(whyNames) {
		return whyNames[w]
	}
	return "why?"
}

// A kind says what a message is.
type kind uint8

// The kinds. Each of ask to status is a request about one segment, from its coordinator, and is
// answered by one answer that repeats its number; an answer may also come by itself, when the
// segment's state changed. claim asks the other end of a line for the right to coordinate it;
// the answer to it is a yield, with the reason if it is refused.
const (
	_          kind = iota
	ask             // hold: rate, lease, next, text (the owner)
	commit          // make firm
	activate        // serve packets
	renew           // rate and lease from now on
	release         // give back, from any state
	status          // only tell
	answer          // state, rate, up, lease left; why and free if something was refused; text
	claim           // lease; rate of inner bits that the sender wants
	yield           // why, and the epoch that counts
	kindsBound      //
)

// A message goes from one agent to another:
//
//	0        version, 1
//	1        kind
//	2        flags: 1 up (answer), 2 an owner declared it, 4 a circuit is stacked on it
//	3        State of the segment (answer)
//	4        Why
//	5        Kind that is wanted, or granted
//	6        the segment's number
//	7        length of the text
//	8–23     the reservation
//	24–31    epoch of the line
//	32–35    number of the request, from 1, rising with each one for the segment
//	36–39    lease in milliseconds, from when the message was sent
//	40–47    rate, kbit/s of underlay packets
//	48–55    rate that is free
//	56–87    the agent that the flow comes from
//	88–119   the one it goes to
//	120–151  the one to which the segment's agent sends it
//	152–157  the station that it comes from
//	158–163  the one it goes to
//	164–195  the agent from which it comes to the segment's agent; zero where the flow begins
//	196      the segment's label (answer): by what number of a datagram its agent, a relay, knows
//	         that it is of this flow; 0: none
//	197      the label of the segment after this one; 0: none, or not known
//	198      zero (2)
//	200–     text, 64 bytes at most: the owner, or a reason
//
// All is big endian; later versions append. Who sent it the agent knows by the session.
type message struct {
	kind     kind
	up       bool
	declared bool
	stacked  bool
	state    State
	why      Why
	promise  Kind
	id       ID
	epoch    uint64
	number   uint32
	lease    time.Duration // whole milliseconds
	rate     Rate
	free     Rate
	flow     Flow
	next     overlay.AgentID
	prev     overlay.AgentID
	label    byte
	onward   byte // the next one's label
	text     string
}

const (
	messageVersion = 1
	messageLen     = 200
	maxText        = 64
	flagUp         = 1
	flagDeclared   = 2
	flagStacked    = 4

	// maxEpoch leaves room for the next one.
	maxEpoch = 1 << 62
	// maxLease is the longest that anything is leased for.
	maxLease = time.Hour
)

var errMessage = errors.New("a message about reservations that makes no sense")

// line returns what a message is about. Of declared ones that is who coordinates: the sender
// of a request, this agent of an answer.
func (m *message) line(by overlay.AgentID) line {
	l := line{between: m.flow.between(), declared: m.declared}
	if m.declared {
		l.by = by
	}
	return l
}

func (m *message) encode() []byte {
	flags := flag(m.up, flagUp) | flag(m.declared, flagDeclared) | flag(m.stacked, flagStacked)
	text := printable(m.text, maxText)
	b := make([]byte, 0, messageLen+maxText)
	b = append(b, messageVersion, byte(m.kind), flags, byte(m.state), byte(m.why), byte(m.promise), m.id.Segment, byte(len(text)))
	b = append(b, m.id.Reservation[:]...)
	b = binary.BigEndian.AppendUint64(b, m.epoch)
	b = binary.BigEndian.AppendUint32(b, m.number)
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(m.lease, 0), maxLease)/time.Millisecond))
	b = binary.BigEndian.AppendUint64(b, uint64(m.rate))
	b = binary.BigEndian.AppendUint64(b, uint64(m.free))
	b = appendFlow(b, &m.flow, &m.next)
	b = append(append(b, m.prev[:]...), m.label, m.onward, 0, 0)
	return append(b, text...)
}

func appendFlow(b []byte, f *Flow, next *overlay.AgentID) []byte {
	b = append(append(append(b, f.From[:]...), f.To[:]...), next[:]...)
	return append(append(b, f.Source[:]...), f.Dest[:]...)
}

// parseMessage reads a message; known is false if it is of a later version or kind.
func parseMessage(b []byte) (m message, known bool, err error) {
	if len(b) == 0 {
		return m, false, errMessage
	}
	if b[0] != messageVersion || len(b) > 1 && b[1] >= byte(kindsBound) {
		return m, false, nil
	}
	if len(b) < messageLen || b[7] > maxText || len(b) < messageLen+int(b[7]) {
		return m, false, errMessage
	}
	m = message{
		kind: kind(b[1]), up: b[2]&flagUp != 0, declared: b[2]&flagDeclared != 0, stacked: b[2]&flagStacked != 0,
		state: State(b[3]), why: Why(b[4]), promise: Kind(b[5]), id: ID{[16]byte(b[8:24]), b[6]},
		epoch: binary.BigEndian.Uint64(b[24:]), number: binary.BigEndian.Uint32(b[32:]),
		lease: time.Duration(binary.BigEndian.Uint32(b[36:])) * time.Millisecond,
		rate:  Rate(binary.BigEndian.Uint64(b[40:])), free: Rate(binary.BigEndian.Uint64(b[48:])),
		flow: Flow{overlay.AgentID(b[56:88]), overlay.AgentID(b[88:120]), overlay.MAC(b[152:158]), overlay.MAC(b[158:164])},
		next: overlay.AgentID(b[120:152]), prev: overlay.AgentID(b[164:196]), label: b[196], onward: b[197],
		text: printable(string(b[messageLen:messageLen+int(b[7])]), maxText),
	}
	if !m.sensible() {
		return m, false, errMessage
	}
	return m, true, nil
}

func (m *message) sensible() bool {
	return m.kind > 0 && m.state <= Orphan && m.why < whys && m.promise <= Priority &&
		m.epoch < maxEpoch && m.lease <= maxLease && m.rate >= 0 && m.rate <= maxRate && m.free >= 0 && m.free <= maxRate &&
		!m.flow.From.IsZero() && !m.flow.To.IsZero() && m.flow.From != m.flow.To && !m.flow.Source.Group() && !m.flow.Dest.Group()
}

// printable returns text of n bytes at most, without what would disturb a terminal.
func printable(s string, n int) string {
	b := []byte(s[:min(len(s), n)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '_'
		}
	}
	return string(b)
}
