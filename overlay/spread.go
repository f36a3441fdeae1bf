package overlay

import (
	"encoding/binary"
	"time"
)

// A Spread is the item in front of frames that are flooded and that who gets them passes on,
// down the tree of the agent from whose ports they came:
//
//	0–3    label of that agent, the origin
//	4      how many links the datagram has gone on its leg, this one included
//	5      leg; reserved, zero, ignored on receipt if the item ends after the number
//	6–13   number of the datagram, by the origin: each more than the one before, after a
//	       restart, too, so it starts with the wall clock's microseconds
//	14–21  in a network that is divided into areas: the first 8 bytes of the origin's id
//	22–25  there, too: label of the agent down whose tree it goes; in the origin's area
//	       that is the origin
//
// It is the first item of its datagram, and nothing but frames follows it: all else is
// about the session of two agents, and must not be passed on to a third. So who passes it on
// changes nothing but the links that it has gone, and the leg and its root where another one
// begins.
type Spread struct {
	Origin Label
	Links  uint8
	Number uint64

	// Of a divided network; Name is 0 in others.
	Leg  Leg
	Name uint64
	Root Label
}

// A Leg is the part of its way on which a datagram that floods a divided network is. The
// values are on the wire.
type Leg uint8

// The legs, in order. A datagram never goes back to an earlier one.
const (
	LegInside   Leg = iota // in the origin's area
	LegBetween             // among gateways of areas
	LegArriving            // in another area
	legs
)

// SpreadOverhead is how many bytes a Spread takes in a datagram of a network that isn't
// divided.
const SpreadOverhead = itemHeaderLen + spreadLen

func appendSpread(b []byte, s Spread) []byte {
	length := byte(spreadLen)
	if s.Name != 0 {
		length = farSpreadLen
	}
	b = append(b, itemSpread, 0, length)
	b = binary.BigEndian.AppendUint32(b, uint32(s.Origin))
	b = append(b, s.Links, byte(s.Leg))
	b = binary.BigEndian.AppendUint64(b, s.Number)
	if s.Name == 0 {
		return b
	}
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, s.Name), uint32(s.Root))
}

// IsSpread says whether the first item of a body is a Spread, or is to be one.
func IsSpread(body []byte) bool { return len(body) > 0 && body[0] == itemSpread }

// ParseSpread returns the Spread of a body, the items that follow it, which are a part of
// body, and how many there are. It is false if it isn't one, if something else than frames
// follows, or if nothing does.
func ParseSpread(body []byte) (s Spread, frames []byte, count int, ok bool) {
	if len(body) < SpreadOverhead || !IsSpread(body) {
		return s, nil, 0, false
	}
	c := body[itemHeaderLen:]
	s = Spread{Origin: Label(binary.BigEndian.Uint32(c)), Links: c[4], Number: binary.BigEndian.Uint64(c[6:])}
	switch length := binary.BigEndian.Uint16(body[1:]); {
	case length == spreadLen:
		frames = c[spreadLen:]
	case length == farSpreadLen && len(c) >= farSpreadLen:
		s.Leg, s.Name, s.Root = Leg(c[5]), binary.BigEndian.Uint64(c[14:]), Label(binary.BigEndian.Uint32(c[22:]))
		frames = c[farSpreadLen:]
		if s.Leg >= legs || s.Name == 0 {
			return s, nil, 0, false
		}
	default:
		return s, nil, 0, false
	}
	for b := frames; len(b) > 0 && b[0] != itemPadding; count++ {
		if len(b) < itemHeaderLen {
			return s, nil, 0, false
		}
		switch n := itemHeaderLen + int(binary.BigEndian.Uint16(b[1:])); {
		case b[0] != itemFrame && b[0] != itemPiece && b[0] != itemPartial && b[0] != itemChunk, n > len(b):
			return s, nil, 0, false
		default:
			b = b[n:]
		}
	}
	return s, frames, count, s.Links > 0 && count > 0
}

// OpenedSpread returns the body of datagram d, which was opened in place and may be sealed
// anew.
func OpenedSpread(d []byte) []byte { return d[HeaderLen : len(d)-TagLen] }

// AgeSpread counts one link more in datagram d, which was opened and holds a Spread.
func AgeSpread(d []byte) { d[HeaderLen+itemHeaderLen+4]++ }

// TurnSpread begins another leg for datagram d, which was opened and holds a Spread of a
// divided network: down the tree of the agent with a label, over its first link. It is false,
// and nothing is changed, if the Spread isn't of a divided network.
func TurnSpread(d []byte, leg Leg, root Label) bool {
	if binary.BigEndian.Uint16(d[HeaderLen+1:]) != farSpreadLen {
		return false
	}
	c := d[HeaderLen+itemHeaderLen:]
	c[4], c[5] = 1, byte(leg)
	binary.BigEndian.PutUint32(c[22:], uint32(root))
	return true
}

const (
	// SpreadFactor is how many times the floods of one agent's budget a neighbour may pass
	// on of all agents together: of a LAN each machine of which speaks at the same time.
	SpreadFactor = 4

	numberWords = 16
	// numbersKept is how far a number may lie behind the highest: at FloodRate, what
	// comes in a quarter of a second. Lanes and classes don't keep their order.
	numbersKept = (numberWords - 1) * 64
	// numbersFor is how long numbers below those are refused after one was accepted last:
	// then the origin has started with a clock that is behind what it was.
	numbersFor = 10 * time.Second
)

// Floods is what an agent remembers of those of another one: which came, whichever way, and
// how many are left of its budget. Use NewFloods. Not safe for concurrent use.
type Floods struct {
	top    uint64 // the highest number
	last   Instant
	seen   [numberWords]uint64 // a ring of bits, as in a session's window (RFC 6479)
	budget Bucket              // of what comes from its ports
	passes Bucket              // of what it passes on
}

// NewFloods returns those of an agent from which none came.
func NewFloods() Floods {
	return Floods{budget: NewBucket(FloodRate, FloodBurst), passes: NewBucket(SpreadFactor*FloodRate, SpreadFactor*FloodBurst)}
}

// Passes says whether the agent may pass so many frames on.
func (f *Floods) Passes(now Instant, frames int) bool { return take(&f.passes, now, frames) }

// Take takes a datagram with so many frames from the agent's ports: the verdict is Flood,
// DropAgain or DropStorm.
func (f *Floods) Take(now Instant, number uint64, frames int) Verdict {
	switch {
	case !f.accept(now, number):
		return DropAgain
	case !take(&f.budget, now, frames):
		return DropStorm
	}
	return Flood
}

func take(b *Bucket, now Instant, frames int) bool {
	if b.Wait(now, int64(frames)) > 0 {
		return false
	}
	b.Take(now, int64(frames))
	return true
}

// accept notes a number, and says whether it was not noted before.
func (f *Floods) accept(now Instant, number uint64) bool {
	bit := uint64(1) << (number % 64)
	word := &f.seen[number/64%numberWords]
	switch {
	case f.last == 0, number < f.top && f.top-number >= numbersKept && now.Sub(f.last) >= numbersFor:
		f.seen = [numberWords]uint64{}
		f.top = number
	case number > f.top:
		for i := range min(number/64-f.top/64, numberWords) {
			f.seen[(f.top/64+1+i)%numberWords] = 0
		}
		f.top = number
	case f.top-number >= numbersKept, *word&bit != 0:
		return false
	}
	*word |= bit
	f.last = now
	return true
}
