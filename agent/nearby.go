package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"farlan/discovery/beacon"
	"farlan/measure"
	"farlan/overlay"
)

const (
	// maxNearby is how many agents are remembered that beacons named and that aren't
	// reached yet. Others are taken when their next beacons come.
	maxNearby = 256
	// nearbyFor is how long after its last beacon an agent is dialled.
	nearbyFor = 20 * time.Second
	// nearbyDials is how many dials may be under way when an agent that is alone dials
	// one more of those that beacons named: whoever answers tells of the others.
	nearbyDials = 4
)

// A hint is where a beacon said that an agent is.
type hint struct {
	since, last overlay.Instant // when it was heard of
	addrs       []netip.AddrPort
}

// openBeacon makes the lookout for members on the local network. An agent goes on
// without.
func (n *node) openBeacon() {
	if !n.cfg.Beacon {
		return
	}
	l, err := beacon.Open(beacon.Config{
		Self: n.self, Network: n.network, Addrs: n.addresses, Usable: n.underlayInterface,
		Found: func(id overlay.AgentID, addrs []netip.AddrPort) {
			n.mail.offer(func(now overlay.Instant) { n.nearby(now, id, addrs) })
		},
	})
	if err != nil {
		n.log.Warn("no beacons on the local network", "error", err)
		n.unlit = err.Error()
		return
	}
	n.lookout = l
}

// runBeacon runs the lookout. If it fails, the agent goes on, and says so.
func (n *node) runBeacon(ctx context.Context) error {
	if err := n.lookout.Run(ctx); err != nil {
		n.log.Warn("no beacons on the local network any more", "error", err)
		n.mail.put(func(overlay.Instant) { n.unlit = err.Error() })
	}
	return nil
}

// underlayInterface says whether an interface is none of the overlay's own.
func (n *node) underlayInterface(i net.Interface) bool {
	return !slices.ContainsFunc(n.ports, func(p *port) bool {
		// The bridge of a LAN port is the underlay, too, and the switch keeps beacons
		// out of such ports.
		return p.kind != "lan" && i.Name == p.bridge || i.Name == p.Name() && (p.kind != "lan" || p.bridge != "")
	})
}

// nearby takes an agent that a beacon named. Unlike those that the DHT names it is
// there at this moment, so it is dialled where the beacon says even if its record is
// known, unless it answers.
func (n *node) nearby(now overlay.Instant, id overlay.AgentID, addrs []netip.AddrPort) {
	c := &n.control
	h, ok := c.nearby[id]
	if !ok {
		if len(c.nearby) >= maxNearby {
			return
		}
		h.since = now
	}
	if !slices.Equal(h.addrs, addrs) && !c.connected[id] {
		delete(c.dials, id) // one that is under way, or failed, was of somewhere else
	}
	h.last, h.addrs = now, addrs
	c.nearby[id] = h
	n.approach(now)
}

// approach dials those that beacons named. An agent that is alone does so at once. For
// others the record most often comes from whoever is connected already; if it doesn't,
// the network is in pieces, and this joins them.
func (n *node) approach(now overlay.Instant) {
	c := &n.control
	for id, h := range c.nearby {
		p := n.peers[id]
		switch {
		case p != nil && p.state == measure.Up, c.connected[id], now.Sub(h.last) > nearbyFor:
			delete(c.nearby, id)
		case len(c.connected) == 0 && c.dialing < nearbyDials, now.Sub(h.since) >= foundPatience:
			n.dial(now, id, nil)
		}
	}
}

// checkBeacon says how the lookout does; ok is false if beacons are turned off.
func (n *node) checkBeacon() (h healthView, ok bool) {
	if n.lookout == nil && n.unlit == "" {
		return healthView{}, false
	}
	h = healthView{Check: "beacon"}
	var s beacon.State
	if n.lookout != nil {
		s = n.lookout.State()
	}
	switch {
	case n.unlit != "":
		h.Detail = n.unlit
	case len(s.Faults) > 0:
		h.Detail = strings.Join(s.Faults, "; ")
	case len(s.Links) == 0:
		h.OK, h.Detail = true, "no interface has an address that this agent can tell"
	default:
		h.OK, h.Detail = true, fmt.Sprintf("%d members heard on %s", s.Heard, strings.Join(s.Links, ", "))
	}
	if !h.OK {
		h.Hint = fmt.Sprintf("members on the local network aren't found by themselves: see who has UDP port %d ('ss -ulpn'), or use --beacon=off", overlay.BeaconPort)
	}
	return h, true
}
