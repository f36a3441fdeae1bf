package nat

import (
	"net/netip"
	"time"

	"farlan/overlay"
)

const (
	// maxFragments is how many packets in fragments are known at a time; a
	// new one takes the place of the oldest, whose later fragments are lost.
	maxFragments = 64
	// fragmentLife is how long later fragments are waited for: as Linux
	// waits for them to come together.
	fragmentLife = 30 * time.Second
)

// A fragment is a packet whose first fragment has passed: later ones have no
// ports, so they follow it (RFC 4787 REQ-14; those that overtake the first are
// dropped). Two inside hosts that use the same identification to the same
// remote one confuse it, as they do with any NAT that doesn't reassemble.
type fragment struct {
	source, destination netip.Addr // before translation
	protocol            byte
	id                  uint16

	side  side // which address is translated
	to    netip.Addr
	until overlay.Instant
}

type fragments struct {
	ring [maxFragments]fragment
	next int
}

// lead notes that a packet, not translated yet, passes and that its address on
// side s becomes to, if other fragments follow it.
func (n *NAT) lead(now overlay.Instant, p packet, s side, to netip.Addr) {
	if !p.leads() {
		return
	}
	f := &n.fragments
	f.ring[f.next] = fragment{
		p.addr(source), p.addr(destination), p.protocol(), p.word(4), s, to, now.Add(fragmentLife),
	}
	f.next = (f.next + 1) % maxFragments
}

// follow translates a later fragment as its first was.
func (n *NAT) follow(now overlay.Instant, p packet, s side) Drop {
	want := fragment{
		source: p.addr(source), destination: p.addr(destination), protocol: p.protocol(), id: p.word(4), side: s,
	}
	for i := range maxFragments { // the newest first
		f := n.fragments.ring[(n.fragments.next-1-i+2*maxFragments)%maxFragments]
		want.to, want.until = f.to, f.until
		if f != want || !now.Before(f.until) {
			continue
		}
		if !n.Firewall {
			p.readdress(s, f.to)
		}
		return Passed
	}
	return Fragment
}
