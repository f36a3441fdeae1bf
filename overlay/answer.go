package overlay

import (
	"encoding/binary"
	"net/netip"
)

// A Turn is where a question goes that was asked of all.
type Turn uint8

// The turns of questions.
const (
	AskAll   Turn = iota // to all: nobody here knows
	AskNone              // to nobody: all were asked a moment ago, or it hears it anyway
	AskOwner             // to who has the address, alone
	Answered             // to nobody: it is answered here
	AskHere              // to this agent's other ports, and no further
)

// An Owner is a machine that has an address that was asked for.
type Owner struct {
	IP     netip.Addr
	MAC    MAC
	Place  Place
	Router bool // as its neighbour advertisement said
}

// Ask says where a frame goes that asks all for the machine that has an address, from port
// from: where h says so, and the destination is a group. An answer is given here if the owner
// is far, itself gave it a moment ago, and its agent is there and was since before that, which
// present says of a place: one that starts anew may have other machines. Who sees whether an
// address is free, and who would hear of a machine that has the asker's own, get no answer but
// an owner's.
func (s *Switch) Ask(now Instant, from Place, src MAC, h *Heard, present func(Place) (since Instant, ok bool)) (Owner, Turn) {
	t := &s.Bindings
	t.mu.Lock()
	defer t.mu.Unlock()
	a := address{h.Target, h.VLANs}
	b := t.at[a]
	if b == nil || b.mac == src || b.contested != 0 && now.Sub(b.contested) < contestTime {
		return Owner{}, t.all(now, a, h)
	}
	place, known := s.Stations.Lookup(now, b.mac)
	if !known {
		place = b.place
	}
	owner := Owner{h.Target, b.mac, place, b.router}
	_, far := place.Agent()
	since, there := Instant(0), known
	if far {
		since, there = present(place)
	}
	switch {
	case place == from && known:
		return owner, AskNone
	case !there:
		return owner, t.all(now, a, h)
	case b.asked != 0 && now.Sub(b.asked) >= ownerTime: // it hasn't answered
		return owner, t.all(now, a, h)
	case !far, b.seen < since, h.Probe, !known, now.Sub(b.seen) >= answerFor, h.Said == SaidNeighbour && !b.advert, b.helped == src && now.Sub(b.answered) < helpsFor:
		if b.asked == 0 {
			b.asked = now
		}
		return owner, AskOwner
	}
	b.helped, b.answered = src, now
	return owner, Answered
}

func (t *Bindings) all(now Instant, a address, h *Heard) Turn {
	if !h.Probe && !t.mayAskAll(now, a) {
		return AskNone
	}
	return AskAll
}

// AppendAnswer appends the frame to b by which an owner would answer frame, which asks for it
// and says h: an ARP reply (RFC 826), or a solicited neighbour advertisement (RFC 4861 § 7.2.4).
func AppendAnswer(b, frame []byte, h *Heard, o Owner) []byte {
	asker := MAC(frame[6:12])
	b = append(append(b, asker[:]...), o.MAC[:]...)
	b = append(b, frame[12:h.At]...)
	p := frame[h.At:]
	if h.Said == SaidARP {
		b = append(b, p[:6]...)
		b = append(b, 0, 2)
		target := o.IP.As4()
		b = append(append(b, o.MAC[:]...), target[:]...)
		return append(b, p[8:18]...)
	}
	target := o.IP.As16()
	start := len(b)
	b = append(b, 0x60, 0, 0, 0, 0, 32, protocolICMPv6, 255)
	b = append(append(b, target[:]...), p[8:24]...)
	flags := byte(0x60) // solicited, override
	if o.Router {
		flags |= 0x80
	}
	b = append(b, neighbourAdvertisement, 0, 0, 0, flags, 0, 0, 0)
	b = append(append(b, target[:]...), 2, 1)
	b = append(b, o.MAC[:]...)
	icmp := b[start+40:]
	binary.BigEndian.PutUint16(icmp[2:], ^fold(add(pseudoSum(b[start:], len(icmp), protocolICMPv6), icmp)))
	return b
}
