package agent

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay/link"
)

// underlay returns the addresses under which others may reach this agent now, as many
// as a record holds. It is for the loop; advertised is for the others.
func (n *node) underlay() []netip.AddrPort {
	own := n.addresses()
	seen := n.reflexive(own)
	n.seenAt.Store(&seen)
	return advertised(own, seen)
}

// advertised is underlay with what the loop last knew of how others see this agent.
// It is safe for concurrent use.
func (n *node) advertised() []netip.AddrPort {
	var seen []netip.AddrPort
	if s := n.seenAt.Load(); s != nil {
		seen = *s
	}
	return advertised(n.addresses(), seen)
}

func advertised(own, seen []netip.AddrPort) []netip.AddrPort {
	return slices.Concat(own[:min(len(own), discovery.MaxAddrs-maxReflexive)], seen)
}

// addresses returns all addresses under which others may reach this agent now: those
// that the operator advertises, then the one that the router maps, then those of the
// host's interfaces that the agent listens on, but for the overlay's own.
func (n *node) addresses() []netip.AddrPort {
	all := slices.Clone(n.cfg.Advertise)
	if a, ok := n.mappedAddress(); ok && n.usable(a.Addr()) {
		all = append(all, a)
	}
	first := len(all)
	port := n.sockets[0].Delay.LocalAddr().Port()
	if !n.cfg.Listen.Addr().IsUnspecified() {
		all = append(all, netip.AddrPortFrom(n.cfg.Listen.Addr(), port))
	} else {
		for _, a := range hostAddrs() {
			if n.serves(a) && n.usable(a) {
				all = append(all, netip.AddrPortFrom(a, port))
			}
		}
	}
	for i := range all {
		if all[i].Port() == 0 {
			all[i] = netip.AddrPortFrom(all[i].Addr(), port)
		}
	}
	slices.SortStableFunc(all[first:], netip.AddrPort.Compare)
	return slices.Compact(all)
}

// maxReflexive is how many addresses an agent tells that only others know.
const maxReflexive = 2

// reflexive returns the addresses at which others see this agent and which are
// none of its own, those that most see first: it is behind a NAT. As soon as
// three tell, one alone isn't believed. Behind a NAT that takes another port for
// every destination none is of use but for its address and where its ports are, and
// the one that was told before, or the highest port, stands for all.
func (n *node) reflexive(own []netip.AddrPort) []netip.AddrPort {
	votes := make(map[netip.AddrPort]int)
	tell := 0
	for _, p := range n.byIndex {
		if p == nil || p.state != measure.Up || !p.byPort() {
			continue
		}
		if a := p.seen.Load(); a != nil && a.IsValid() {
			tell++
			votes[*a]++
		}
	}
	all := slices.SortedFunc(maps.Keys(votes), func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(votes[b], votes[a]), a.Compare(b))
	})
	all = slices.DeleteFunc(all, func(a netip.AddrPort) bool {
		return slices.Contains(own, a) || !n.usable(a.Addr()) || !a.Addr().IsGlobalUnicast() || a.Port() == 0
	})
	if tell > 2 && len(all) > 0 {
		if i := slices.IndexFunc(all, func(a netip.AddrPort) bool { return votes[a] < 2 }); i > 0 {
			all = all[:i]
		} else if i == 0 {
			stands := all[len(all)-1]
			for _, a := range all {
				if slices.Contains(n.own.addrs, a) {
					stands = a
				}
			}
			all = []netip.AddrPort{stands}
		}
	}
	return all[:min(len(all), maxReflexive)]
}

// hiddenFrom says that a member can't begin with this agent, whichever of the two is to:
// it has a public address, and this agent none of its own.
func (n *node) hiddenFrom(m discovery.Member) bool {
	return slices.ContainsFunc(m.Addrs, public) && !slices.ContainsFunc(n.addresses(), public)
}

// shared are the addresses between carriers' NATs and their customers' (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// public says whether an address is one that everybody can send to, as such.
func public(a netip.AddrPort) bool {
	ip := a.Addr()
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !shared.Contains(ip)
}

// serves says whether a socket of the agent's receives at a's family.
func (n *node) serves(a netip.Addr) bool {
	return slices.ContainsFunc(n.sockets, func(s *link.Port) bool {
		return s.Delay.LocalAddr().Addr().Is4() == a.Is4()
	})
}

// lookAtPorts finds out which addresses are the overlay's own, or circuits': those are for what
// they were reserved for.
func (n *node) lookAtPorts() {
	prefixes := overlayPrefixes(n.ports)
	if ends := n.reserving.ends; ends != nil && ends.file.Config.Subnet.IsValid() {
		prefixes = append(prefixes, ends.file.Config.Subnet)
	}
	n.overlays.Store(&prefixes)
}

// usable says whether a is not one of the overlay's own addresses, or a byway's.
func (n *node) usable(a netip.Addr) bool {
	if isByway(a) {
		return false
	}
	prefixes := n.overlays.Load()
	return prefixes == nil || !slices.ContainsFunc(*prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// reachable returns the addresses of addrs that this agent can send to.
func (n *node) reachable(addrs []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.AddrPort) bool {
		return !n.serves(a.Addr()) || !n.usable(a.Addr())
	})
}

// hostAddrs returns the addresses of this host that others can use.
func hostAddrs() []netip.Addr {
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var all []netip.Addr
	for _, i := range interfaces {
		ipnet, ok := i.(*net.IPNet)
		if !ok {
			continue
		}
		a, ok := netip.AddrFromSlice(ipnet.IP)
		if a = a.Unmap(); ok && a.IsGlobalUnicast() {
			all = append(all, a)
		}
	}
	return all
}

// packetOverhead is what IP and UDP headers add to a datagram to an address.
func packetOverhead(to netip.AddrPort) int {
	if to.Addr().Is4() {
		return 20 + 8
	}
	return 40 + 8
}
