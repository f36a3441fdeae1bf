package nat

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"farlan/overlay"
)

// Outside ports that are chosen: RFC 4787 REQ-3 leaves out the well-known ones.
const (
	firstPort = 1024
	lastPort  = 65535
)

// sweepPause bounds how often a full table is searched for what has run out.
const sweepPause = time.Second

// An insideKey is what a mapping is found by on the way out: remote is as much
// of the remote endpoint as mappings depend on.
type insideKey struct {
	protocol         byte
	endpoint, remote netip.AddrPort
}

// An outsideKey is what a mapping is found by on the way in. A firewall's has
// the host's own address, a NAT's none: that address may change.
type outsideKey struct {
	protocol byte
	addr     netip.Addr
	port     uint16
}

// A filterKey lets as much of a remote endpoint as filters depend on send to a
// mapping.
type filterKey struct {
	mapping outsideKey
	remote  netip.AddrPort
}

// A mapping joins an inside endpoint to an outside port. Its filters never last
// longer than it does, so a port that is used again has none.
type mapping struct {
	inside  insideKey
	outside outsideKey
	until   overlay.Instant
}

// outer returns the outside endpoint of a mapping.
func (n *NAT) outer(m *mapping) netip.AddrPort {
	if n.Firewall {
		return m.inside.endpoint
	}
	return netip.AddrPortFrom(n.public, m.outside.port)
}

func (n *NAT) lifetime(protocol byte) time.Duration {
	switch protocol {
	case protoTCP:
		return TCPLifetime
	case protoUDP:
		return n.UDPLife
	}
	return EchoLifetime
}

// open returns the mapping for a packet from an inside endpoint to a remote
// one, made if need be, and lets the remote one answer.
func (n *NAT) open(now overlay.Instant, protocol byte, from, to netip.AddrPort, rnd *rand.Rand) (*mapping, Drop) {
	key := insideKey{protocol, from, n.Mapping.part(to)}
	m := n.inside[key]
	if m == nil || !now.Before(m.until) {
		if m = n.add(now, key, rnd); m == nil {
			return nil, Full
		}
	}
	m.until = now.Add(n.lifetime(protocol))
	if n.Filtering == EndpointIndependent {
		return m, Passed
	}
	filter := filterKey{m.outside, n.Filtering.part(to)}
	if _, ok := n.filters[filter]; !ok && len(n.filters) >= n.MaxFilters {
		if n.sweep(now); len(n.filters) >= n.MaxFilters {
			return nil, Full
		}
	}
	n.filters[filter] = m.until
	return m, Passed
}

// add makes a mapping; nil if there is no room or no port.
func (n *NAT) add(now overlay.Instant, key insideKey, rnd *rand.Rand) *mapping {
	if old := n.inside[key]; old != nil {
		n.remove(old)
	}
	if len(n.outside) >= n.MaxMappings {
		if n.sweep(now); len(n.outside) >= n.MaxMappings {
			return nil
		}
	}
	at := outsideKey{protocol: key.protocol}
	if n.Firewall {
		at.addr, at.port = key.endpoint.Addr(), key.endpoint.Port()
	} else if at.port = n.port(now, key, rnd); at.port == 0 {
		return nil
	}
	if old := n.outside[at]; old != nil {
		n.remove(old)
	}
	m := &mapping{inside: key, outside: at}
	n.inside[key], n.outside[at] = m, m
	return m
}

func (n *NAT) remove(m *mapping) {
	delete(n.inside, m.inside)
	delete(n.outside, m.outside)
}

// port chooses a free outside port; 0 if there is none.
func (n *NAT) port(now overlay.Instant, key insideKey, rnd *rand.Rand) uint16 {
	if p := key.endpoint.Port(); n.Ports == Preserved && p != 0 && n.isFree(now, key.protocol, p) {
		return p
	}
	start := int(n.next) - firstPort
	if n.Ports != Sequential {
		start = rnd.IntN(lastPort - firstPort + 1)
	}
	for i := range lastPort - firstPort + 1 {
		p := uint16(firstPort + (start+i)%(lastPort-firstPort+1))
		if !n.isFree(now, key.protocol, p) {
			continue
		}
		if n.next = p + 1; n.next < firstPort { // after the last
			n.next = firstPort
		}
		return p
	}
	return 0
}

func (n *NAT) isFree(now overlay.Instant, protocol byte, port uint16) bool {
	m := n.outside[outsideKey{protocol: protocol, port: port}]
	return m == nil || !now.Before(m.until)
}

// at returns the mapping that an outside endpoint belongs to, or nil.
func (n *NAT) at(now overlay.Instant, protocol byte, outside netip.AddrPort) *mapping {
	key := outsideKey{protocol: protocol, port: outside.Port()}
	if n.Firewall {
		key.addr = outside.Addr()
	} else if outside.Addr() != n.public {
		return nil
	}
	if m := n.outside[key]; m != nil && now.Before(m.until) {
		return m
	}
	return nil
}

// find returns the mapping that a packet from a remote endpoint to an outside
// one may use.
func (n *NAT) find(now overlay.Instant, protocol byte, outside, remote netip.AddrPort) (*mapping, Drop) {
	m := n.at(now, protocol, outside)
	if m == nil {
		return nil, Unmapped
	}
	if n.Filtering == EndpointIndependent {
		return m, Passed
	}
	if !now.Before(n.filters[filterKey{m.outside, n.Filtering.part(remote)}]) {
		return nil, Filtered
	}
	return m, Passed
}

// sweep removes what has run out.
func (n *NAT) sweep(now overlay.Instant) {
	if n.swept != 0 && now.Sub(n.swept) < sweepPause {
		return
	}
	n.swept = now
	for _, m := range n.outside {
		if !now.Before(m.until) {
			n.remove(m)
		}
	}
	for key, until := range n.filters {
		if !now.Before(until) {
			delete(n.filters, key)
		}
	}
}

// Mappings returns how many mappings live.
func (n *NAT) Mappings(now overlay.Instant) int {
	live := 0
	for _, m := range n.outside {
		if now.Before(m.until) {
			live++
		}
	}
	return live
}
