package agent

import (
	"fmt"
	"time"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/measure"
	"farlan/overlay"
)

// A wayFacts is what there is to say about the way to a peer.
type wayFacts struct {
	path, transport string // as the peer's view says
	state           measure.State
	left            bool
	known           time.Duration // how long the peer is known
	since           time.Duration // it is in its state
	indirect        time.Duration // it is not reached from this agent's port
	addrs           int           // that it tells and that this host can send to
	told            int           // that it tells
	here, there     discovery.Mapping
	stream          bool // the control plane reaches it by TCP
	anyDirect       bool // any other peer is reached directly by UDP
}

// reason says why a peer isn't reached better; "" if it is reached directly, by UDP,
// which is the best there is.
func (f wayFacts) reason() string {
	switch {
	case f.path == "self":
		return ""
	case f.left:
		return "it has left"
	case f.state == measure.Gone:
		return fmt.Sprintf("gone: silent for %v", f.since.Round(time.Second))
	case f.state == measure.Idle:
		return "idle: nothing is sent to it now; a session is opened when needed"
	case f.path == "direct" && f.transport == "stream":
		return "stream: " + f.noUDP()
	case f.path == "direct" && f.state == measure.Suspect:
		return "suspect: it has not answered the last probes"
	case f.path == "direct":
		return ""
	case f.path == "relayed":
		return "relayed: " + f.noUDP()
	case f.told == 0:
		return "none: it tells no address of its own, and has not called yet"
	case f.addrs == 0:
		return "none: all its addresses are of a family that this host doesn't have, or the overlay's own"
	}
	return fmt.Sprintf("none: no handshake was answered for %v, at %d addresses or by way of others", f.known.Round(time.Second), f.addrs)
}

// noUDP says why no datagram of ours passes directly.
func (f wayFacts) noUDP() string {
	const by = discovery.MappingByDestination
	tries := int(f.indirect / directEvery)
	switch {
	case f.here == by && f.there == by:
		return "both NATs map by destination"
	case f.stream && !f.anyDirect:
		return "UDP gets nothing out: the control connection is by TCP, and no member is reached by UDP"
	case f.stream:
		return "UDP doesn't pass between the two: the control connection is by TCP"
	case f.addrs == 0:
		return "this host can send to none of its addresses"
	case tries < 2:
		return "not tried directly for long enough yet"
	case f.here == by && f.there != discovery.MappingNone:
		return fmt.Sprintf("the NAT here maps by destination, and the other side lets nothing in that it didn't ask for (%d tries)", tries)
	case f.there == by && f.here != discovery.MappingNone:
		return fmt.Sprintf("the NAT there maps by destination, and this side lets nothing in that it didn't ask for (%d tries)", tries)
	}
	return fmt.Sprintf("no direct datagram passed in the last %d tries, at %d addresses: a firewall, most likely", tries, f.addrs)
}

// reason says why a peer whose view is v isn't reached better, nil if it is reached as
// well as can be.
func (n *node) reason(now overlay.Instant, p *peer, v peerView) *string {
	f := wayFacts{
		path: v.Path, state: p.state, left: p.member.Left, since: now.Sub(p.since), known: now.Sub(p.known),
		addrs: len(n.reachable(p.member.Addrs)), told: len(p.member.Addrs),
		here: n.mapping, there: p.member.Mapping, stream: n.p2p.Transport(p.id) == p2p.TCP,
		anyDirect: len(n.seenByOthers()) > 0,
	}
	if v.Transport != nil {
		f.transport = *v.Transport
	}
	if p.indirect != 0 {
		f.indirect = now.Sub(p.indirect)
	}
	if why := f.reason(); why != "" {
		return &why
	}
	return nil
}

// watchWays notes since when peers are not reached from this agent's port.
func (n *node) watchWays(now overlay.Instant) {
	for _, p := range n.byIndex {
		switch {
		case p == nil:
		case p.byPort() && p.state == measure.Up:
			p.indirect = 0
		case p.indirect == 0:
			p.indirect = now
		}
	}
}
