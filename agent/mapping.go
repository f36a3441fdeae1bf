package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"farlan/discovery"
	"farlan/measure"
)

// findMapping says what the NAT in front of this agent does, by the addresses at which
// others see it, which are all of one family. One that sees it at an address of its own
// is on this side of the NAT, and tells nothing as soon as another one tells. Behind
// several NATs those that are between two of them see it at another address than those
// that are outside of all, who are the most.
func findMapping(own, seen []netip.AddrPort) discovery.Mapping {
	ports := make(map[netip.Addr][]uint16)
	most := 0
	for _, a := range seen {
		if !slices.Contains(own, a) {
			ports[a.Addr()] = append(ports[a.Addr()], a.Port())
			most = max(most, len(ports[a.Addr()]))
		}
	}
	switch {
	case len(seen) == 0:
		return discovery.MappingUnknown
	case most == 0:
		return discovery.MappingNone
	case most == 1: // each alone
		return discovery.MappingUnknown
	}
	for _, at := range ports {
		if len(at) == most && !mostAgree(at) {
			return discovery.MappingByDestination
		}
	}
	return discovery.MappingSame
}

// mostAgree says whether more than half of the ports are one: others may be from before
// the NAT forgot.
func mostAgree(ports []uint16) bool {
	votes := make(map[uint16]int)
	for _, p := range ports {
		if votes[p]++; votes[p]*2 > len(ports) {
			return true
		}
	}
	return false
}

// seenByOthers returns where the members that this agent reaches from its port by IPv4
// see it.
func (n *node) seenByOthers() []netip.AddrPort {
	var all []netip.AddrPort
	for _, p := range n.byIndex {
		if p == nil || p.state != measure.Up || !p.byPort() {
			continue
		}
		if a := p.seen.Load(); a != nil && a.IsValid() && a.Addr().Unmap().Is4() {
			all = append(all, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
	return all
}

// throughTCP returns with how many members this agent has pipes through TCP because no
// UDP passes.
func (n *node) throughTCP() (through int) {
	for _, p := range n.byIndex {
		if n.pipes.cut != 0 && p != nil && p.pipe.is != nil && p.pipe.is.opened {
			through++
		}
	}
	return through
}

// checkUDP says whether UDP passes, and what stands between this agent and the others.
func (n *node) checkUDP() healthView {
	h := healthView{Check: "udp", OK: true, Detail: "NAT: " + n.mapping.String()}
	if through := n.throughTCP(); through > 0 {
		h.OK = false
		h.Detail = fmt.Sprintf("no UDP passes: datagrams go through TCP to %d members", through)
		h.Hint = "let UDP pass from this host's port to any, and the answers: it is faster"
	}
	return h
}

// watchMapping looks what the NAT in front of this agent does, and tells the others
// when that has changed. What isn't known any more is taken to be as it was, unless
// this host has moved.
func (n *node) watchMapping() {
	if n.roaming.moved > n.mappedAt {
		n.mapping, n.mappedAt = discovery.MappingUnknown, n.roaming.moved
	}
	if m := findMapping(n.addresses(), n.seenByOthers()); m != discovery.MappingUnknown && m != n.mapping {
		n.mapping = m
		n.own.member = 0 // told at the next look
	}
}
