package nat

import "farlan/overlay"

// errorIn lets an ICMP error in that quotes a packet of a mapping, whoever in
// the wide area says so: the mapping must hear whom that packet was for (RFC
// 5508 REQ-3 and 4). No mapping's life changes.
func (n *NAT) errorIn(now overlay.Instant, p packet) Drop {
	q, drop := n.quoted(p)
	if drop != Passed {
		return drop
	}
	m, drop := n.find(now, q.protocol(), q.local(source), q.remote(destination))
	if drop != Passed || n.Firewall {
		return drop
	}
	p.readdress(destination, m.inside.endpoint.Addr())
	p.requote(q.rewrite(source, m.inside.endpoint))
	return Passed
}

// errorOut lets an ICMP error out that quotes a packet that came in by a
// mapping, as if the NAT said it (RFC 5508 REQ-5 and 6).
func (n *NAT) errorOut(now overlay.Instant, p packet) Drop {
	q, drop := n.quoted(p)
	if drop != Passed {
		return drop
	}
	key := insideKey{q.protocol(), q.local(destination), n.Mapping.part(q.remote(source))}
	m := n.inside[key]
	switch {
	case m == nil || !now.Before(m.until):
		return Unmapped
	case n.Firewall:
		return Passed
	}
	p.readdress(source, n.public)
	p.requote(q.rewrite(destination, n.outer(m)))
	return Passed
}

// quoted returns the packet that an error quotes, if such ones pass.
func (n *NAT) quoted(p packet) (packet, Drop) {
	q, ok := p.quote()
	switch {
	case p.leads():
		return q, Fragment // its later ones would not pass
	case !ok:
		return q, Malformed
	case n.TCPOnly && q.protocol() != protoTCP:
		return q, Blocked
	}
	return q, Passed
}

// requote corrects an error's checksum after a change to what it quotes.
func (p packet) requote(d delta) {
	var unused delta
	unused.put(p.b, p.sumAt(), d.applied(p.word(p.sumAt())))
}
