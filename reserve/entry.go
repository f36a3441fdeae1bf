package reserve

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"time"

	"farlan/overlay"
)

// The journal is entries, one behind the other, each about one segment, or one reservation, as
// it is from then on; what is over in its last entry needs no more:
//
//	0–3   length of the body
//	4–7   CRC-32C of kind and body
//	8     kind: 1 segment, 2 reservation
//	9–    body
//
// All is big endian. Of a segment the body is
//
//	0     State, 1 goal, 2 Verb of the call that may be under way, 3 Kind wanted, 4 Kind granted
//	5     flags: 1 declared, 2 stacked
//	6     Why
//	7     the segment's number
//	8     reservation (16)
//	24    epoch, 32 number of the request (4)
//	36    rates: wanted, asked, granted (8 each)
//	60    end, end as asked (8 each)
//	76    the flow's agents, the next agent, the flow's stations (108), as in messages
//	184   the coordinator
//	216   the agent before (32), label, the next one's
//	250   driver, egress, owner, handle: a length (2) and the text each
//
// and of a reservation
//
//	0     State
//	1     flags: 1 declared, 2 circuit, 4 it was firm
//	2     Kind wanted
//	3     how many relays, 4 and of the other direction
//	5     zero (3)
//	8     reservation (16)
//	24    epoch
//	32    rates: agreed, wanted, back (8 each)
//	56    end, until, began, lease (8 each)
//	88    the flow's agents, nobody, the flow's stations (108)
//	196   the relays, 32 each
//	      owner: a length (2) and the text
const (
	entryHead    = 9
	maxEntry     = 1 << 16
	ofSegment    = 1
	ofRoute      = 2
	segmentFixed = 250
	routeFixed   = 196
	flagCircuit  = 2
	stackedFlag  = 2
	flagFirm     = 4
	declaredFlag = 1
	maxHandle    = 4096
	// stray is the segment number of what a driver holds and the journal doesn't know.
	stray = math.MaxUint8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// enter writes how a segment is to the journal, if it has changed. What is stray is found again
// without.
func (b *Broker) enter(s *segment) {
	if body := s.encode(); s.id.Segment != stray && !bytes.Equal(body, s.entry) {
		s.entry = body
		b.record(ofSegment, body)
	}
}

func (b *Broker) enterReservation(r *reservation) { b.record(ofRoute, r.encode()) }

func (b *Broker) record(kind byte, body []byte) {
	b.journal = appendEntry(b.journal, kind, body)
	b.made++
}

// Snapshot returns a journal of what there is now, to take the place of one that became long.
// When it is safely stored, Written(entry) says so; what Flush gave before it isn't needed then.
func (b *Broker) Snapshot() (journal []byte, entry uint64) {
	for _, s := range b.order {
		if s.id.Segment != stray && (s.state != Requested || s.call != 0) {
			journal = appendEntry(journal, ofSegment, s.encode())
		}
	}
	for _, r := range b.course {
		if !r.state.Over() {
			journal = appendEntry(journal, ofRoute, r.encode())
		}
	}
	b.journal = nil
	return journal, b.made
}

func appendEntry(dst []byte, kind byte, body []byte) []byte {
	sum := crc32.Update(crc32.Checksum([]byte{kind}, castagnoli), castagnoli, body)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	dst = binary.BigEndian.AppendUint32(dst, sum)
	return append(append(dst, kind), body...)
}

func flag(is bool, f byte) byte {
	if is {
		return f
	}
	return 0
}

func (s *segment) encode() []byte {
	b := make([]byte, 0, segmentFixed+64)
	b = append(b, byte(s.state), byte(s.goal), byte(s.verb), byte(s.promise), byte(s.grant.Kind), flag(s.declared, declaredFlag)|flag(s.stacked, stackedFlag), byte(s.why), s.id.Segment)
	b = append(b, s.id.Reservation[:]...)
	b = binary.BigEndian.AppendUint64(b, s.epoch)
	b = binary.BigEndian.AppendUint32(b, s.number)
	for _, x := range [...]int64{int64(s.rate), int64(s.asked), int64(s.grant.Rate), int64(s.end), int64(s.until)} {
		b = binary.BigEndian.AppendUint64(b, uint64(x))
	}
	b = appendFlow(b, &s.flow, &s.next)
	b = append(b, s.peer[:]...)
	b = append(append(b, s.prev[:]...), s.label, s.onward)
	for _, t := range [...]string{s.driver, s.egress, s.owner, s.grant.Handle} {
		b = appendText(b, t)
	}
	return b
}

func appendText(b []byte, t string) []byte {
	t = t[:min(len(t), maxHandle)]
	return append(binary.BigEndian.AppendUint16(b, uint16(len(t))), t...)
}

// texts reads what appendText wrote, all of it.
func texts(b []byte, all ...*string) bool {
	for _, t := range all {
		if len(b) < 2 {
			return false
		}
		n := int(binary.BigEndian.Uint16(b))
		if n > maxHandle || len(b) < 2+n {
			return false
		}
		*t, b = string(b[2:2+n]), b[2+n:]
	}
	return len(b) == 0
}

func number64(b []byte, at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }

func parseFlow(b []byte) (f Flow, next overlay.AgentID) {
	return Flow{overlay.AgentID(b), overlay.AgentID(b[32:]), overlay.MAC(b[96:]), overlay.MAC(b[102:])}, overlay.AgentID(b[64:])
}

func parseSegment(b []byte) (*segment, bool) {
	if len(b) < segmentFixed {
		return nil, false
	}
	s := &segment{
		state: State(b[0]), goal: State(b[1]), verb: Verb(b[2]), promise: Kind(b[3]), declared: b[5]&declaredFlag != 0, stacked: b[5]&stackedFlag != 0, why: Why(b[6]),
		id: ID{[16]byte(b[8:]), b[7]}, epoch: uint64(number64(b, 24)), number: binary.BigEndian.Uint32(b[32:]),
		rate: Rate(number64(b, 36)), asked: Rate(number64(b, 44)), end: overlay.Instant(number64(b, 60)), until: overlay.Instant(number64(b, 68)),
		peer: overlay.AgentID(b[184:]), prev: overlay.AgentID(b[216:]), label: b[248], onward: b[249],
	}
	s.grant = Grant{ID: s.id, Kind: Kind(b[4]), Rate: Rate(number64(b, 52)), End: s.until}
	s.flow, s.next = parseFlow(b[76:])
	ok := s.state <= Orphan && s.goal <= Released && s.verb <= DoUsage && s.promise <= Priority && s.grant.Kind <= Priority && s.why < whys &&
		inRange(s.rate, s.asked, s.grant.Rate) && texts(b[segmentFixed:], &s.driver, &s.egress, &s.owner, &s.grant.Handle)
	return s, ok
}

func inRange(all ...Rate) bool {
	for _, r := range all {
		if r < 0 || r > maxRate {
			return false
		}
	}
	return true
}

func (r *reservation) encode() []byte {
	q := &r.req
	b := make([]byte, 0, routeFixed+64)
	b = append(b, byte(r.state), flag(r.declared, declaredFlag)|flag(q.Circuit, flagCircuit)|flag(r.firm, flagFirm), byte(q.Kind), byte(len(q.Path)), byte(len(q.Back)), byte(r.final), 0, 0)
	b = append(b, r.id[:]...)
	b = binary.BigEndian.AppendUint64(b, r.epoch)
	for _, x := range [...]int64{int64(r.rate), int64(q.Rate), int64(q.BackRate), int64(r.end), int64(r.until), int64(r.began), int64(r.life)} {
		b = binary.BigEndian.AppendUint64(b, uint64(x))
	}
	b = appendFlow(b, &q.Flow, new(overlay.AgentID))
	for _, a := range q.Path {
		b = append(b, a[:]...)
	}
	for _, a := range q.Back {
		b = append(b, a[:]...)
	}
	return appendText(b, q.Owner)
}

func parseReservation(b []byte) (*reservation, bool) {
	if len(b) < routeFixed || b[3] > maxRelays || b[4] > maxRelays || len(b) < routeFixed+32*int(b[3]+b[4]) {
		return nil, false
	}
	r := &reservation{
		state: State(b[0]), final: State(b[5]), declared: b[1]&declaredFlag != 0, firm: b[1]&flagFirm != 0, id: [16]byte(b[8:]), epoch: uint64(number64(b, 24)),
		rate: Rate(number64(b, 32)), end: overlay.Instant(number64(b, 56)), until: overlay.Instant(number64(b, 64)),
		began: overlay.Instant(number64(b, 72)), life: time.Duration(number64(b, 80)),
	}
	q := &r.req
	q.Kind, q.Circuit, q.Rate, q.BackRate, q.For = Kind(b[2]), b[1]&flagCircuit != 0, Rate(number64(b, 40)), Rate(number64(b, 48)), r.until.Sub(r.began)
	q.Flow, _ = parseFlow(b[88:])
	at := routeFixed
	for i := range int(b[3] + b[4]) {
		if a := overlay.AgentID(b[at:]); i < int(b[3]) {
			q.Path = append(q.Path, a)
		} else {
			q.Back = append(q.Back, a)
		}
		at += 32
	}
	ok := texts(b[at:], &q.Owner) && r.state <= Orphan && r.final <= Orphan && inRange(r.rate) && r.rate > 0 && r.life >= 0 && r.life <= maxLease && q.validate(q.Flow.From) == nil
	return r, ok
}

// A Journal is what was read of one.
type Journal struct {
	segments     []*segment
	reservations []*reservation
	// Torn is how many bytes at the end make no sense: a write that a crash cut short, or
	// damage. They are to be kept aside and told of; what was to be seen there is still found
	// by what drivers list.
	Torn int
}

// ReadJournal reads a journal up to its end, or to what makes no sense.
func ReadJournal(b []byte) *Journal {
	j := new(Journal)
	segments, routes := make(map[ID]int), make(map[[16]byte]int)
	for ; len(b) > 0; b = b[entryHead+binary.BigEndian.Uint32(b):] {
		if len(b) < entryHead || binary.BigEndian.Uint32(b) > maxEntry || len(b) < entryHead+int(binary.BigEndian.Uint32(b)) {
			break
		}
		kind, body := b[8], b[entryHead:entryHead+binary.BigEndian.Uint32(b)]
		if crc32.Checksum(b[8:entryHead+len(body)], castagnoli) != binary.BigEndian.Uint32(b[4:]) {
			break
		}
		s, is := parseSegment(body)
		r, ok := parseReservation(body)
		if kind == ofSegment && is {
			j.segments = keepLast(j.segments, segments, s.id, s)
		} else if kind == ofRoute && ok {
			j.reservations = keepLast(j.reservations, routes, r.id, r)
		} else {
			break
		}
	}
	j.Torn = len(b)
	return j
}

// keepLast puts what is newest of an id in the place of what was there.
func keepLast[K comparable, T any](all []T, at map[K]int, id K, x T) []T {
	if i, ok := at[id]; ok {
		all[i] = x
		return all
	}
	at[id] = len(all)
	return append(all, x)
}
