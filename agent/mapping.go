package agent

import (
	"net/netip"
	"slices"

	"farlan/discovery"
	"farlan/measure"
)

// findMapping says what the NAT in front of this agent does, by the addresses at which
// others see it, which are all of one family. One that sees it at an address of its own
// is on this side of the NAT, and tells nothing as soon as another one tells.
func findMapping(own, seen []netip.AddrPort) discovery.Mapping {
	outside := slices.DeleteFunc(slices.Clone(seen), func(a netip.AddrPort) bool { return slices.Contains(own, a) })
	switch {
	case len(seen) == 0:
		return discovery.MappingUnknown
	case len(outside) == 0:
		return discovery.MappingNone
	case len(outside) == 1:
		return discovery.MappingUnknown
	}
	for _, a := range outside {
		if a != outside[0] {
			return discovery.MappingByDestination
		}
	}
	return discovery.MappingSame
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
