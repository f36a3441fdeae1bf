package overlay

import (
	"encoding/binary"
	"sync"
	"time"
)

// Machines say to all several times what they look for, or have, as a frame may be lost. It
// crosses the wide area once in a while.
const (
	// arpAgain is for how long a machine's look at an address, and its announcement of one, isn't
	// flooded again: it looks three times within four seconds, and announces twice within two
	// (RFC 5227 § 1.1).
	arpAgain = 1800 * time.Millisecond
	// mdnsAgain is for how long what was said by multicast DNS isn't: machines that hear a
	// question take it for their own (RFC 6762 § 7.3) and say nothing again within a second (§ 6).
	mdnsAgain = 900 * time.Millisecond

	againSlots = 1024
)

// again remembers what was flooded. When two things meet in one slot, the older is forgotten,
// and flooded again. The zero again is ready. Safe for concurrent use.
type again struct {
	mu    sync.Mutex
	slots []struct {
		sum  uint64
		last Instant
	}
}

// SaidAgain says whether all have heard a moment ago, from the same place, what a frame from
// there says, so that it need not be flooded.
func (s *Switch) SaidAgain(now Instant, from Place, frame []byte, h *Heard) bool {
	switch {
	case h.Said == SaidARP && (h.Probe || h.Announces):
		return s.again.said(now, hash(hash(offset, frame[6:12]), frame[h.At:h.At+28]), from, h.VLANs, arpAgain)
	case h.Said == SaidMDNS && h.At+8 <= len(frame):
		u := frame[h.At:]
		sum := hash(offset, u[8:])
		if !forAll(u) {
			sum = hash(sum, frame[6:12])
		}
		kind, _, _ := etherType(frame) // who hears IPv4 may not hear IPv6
		return s.again.said(now, sum^uint64(binary.BigEndian.Uint16(u))<<32^uint64(kind)<<48, from, h.VLANs, mdnsAgain)
	}
	return false
}

// forAll says whether u, the UDP packet of a multicast DNS message, is one question the answer
// to which all hear: it comes from the port of multicast DNS, asks for no answer to the asker
// alone, and knows no answers (RFC 6762 § 5.4, § 6.7).
func forAll(u []byte) bool {
	const header = 8 + 12
	if len(u) < header+5 || binary.BigEndian.Uint16(u) != portMDNS || u[10]&0x80 != 0 || binary.BigEndian.Uint64(u[12:]) != 1<<48 {
		return false
	}
	return u[len(u)-2] == 0 && u[len(u)-1] == 1 // its class, without the bit for that
}

const offset = 14695981039346656037

// hash is FNV-1a.
func hash(sum uint64, b []byte) uint64 {
	for _, x := range b {
		sum = (sum ^ uint64(x)) * 1099511628211
	}
	return sum
}

// said notes that something is flooded, and says whether it was in the time before, and so isn't.
func (a *again) said(now Instant, sum uint64, from Place, vlans uint32, within time.Duration) bool {
	sum = mix(sum^uint64(vlans), offset^uint64(from))
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.slots == nil {
		a.slots = make([]struct {
			sum  uint64
			last Instant
		}, againSlots)
	}
	slot := &a.slots[sum%againSlots]
	if slot.sum == sum && now.Sub(slot.last) < within {
		return true
	}
	slot.sum, slot.last = sum, now
	return false
}
