package agent

import (
	"slices"

	"farlan/discovery"
	"farlan/overlay"
)

// recordChanged acts on a new record, or on one that expired.
func (n *node) recordChanged(now overlay.Instant, c discovery.Change) {
	if c.Kind == discovery.KindRotation {
		n.keys.due, n.stale = true, now
		return
	}
	n.spread.stirred, n.spread.met = true, n.spread.met || c.Kind == discovery.KindMember
	if n.stale == 0 && c.Kind != discovery.KindLinks && c.Kind != discovery.KindTraffic && c.Kind != discovery.KindBackbone {
		n.stale = now
	}
	if c.Cause != nil {
		n.excluded(c)
		n.forgetFar(c.Origin)
	}
	if c.Origin == n.self {
		if c.Cause != nil {
			return
		}
		// Our own record of a former life, or one less: say again who we are.
		r, _ := n.store.Record(n.self, c.Kind)
		n.own.due(c.Kind, r.Version)
		if c.Kind == discovery.KindArea || c.Kind == discovery.KindBackbone {
			n.toldAgain(c.Kind, r.Version)
		}
		if c.Kind == discovery.KindLinks {
			n.rememberLinks()
		}
		return
	}
	switch c.Kind {
	case discovery.KindMember, discovery.KindArea:
		n.memberChanged(now, c.Origin)
	case discovery.KindLinks:
		n.noteLinks(c.Origin)
		if n.guesser != nil {
			n.guesser.changed(c.Origin)
		}
	}
}

// memberChanged acts on what a member says of itself now. With one that has left, or
// that may not do what it says it does, there are no sessions.
func (n *node) memberChanged(now overlay.Instant, id overlay.AgentID) {
	m, ok := n.store.Member(id)
	if !ok {
		if !n.keepsFar(id) {
			n.forget(id)
		}
		return
	}
	p := n.peers[id]
	met := p == nil
	if met {
		p = n.meet(now, id)
		n.log.Info("member found", "name", m.Name, "id", id)
	}
	moved := p.member.Addrs != nil && !slices.Equal(p.member.Addrs, m.Addrs)
	p.member = m
	p.trust.Store(uint32(n.trustOf(p)))
	if n.setFar(p, n.isFar(id, m)); !p.far {
		p.way = farWay{}
	}
	allowed := n.allowed(now, p, m)
	if p.barred = m.Left || !allowed; p.barred {
		why := "left"
		if !allowed {
			why = "it bridges a LAN without the right"
		}
		n.gone(now, p, why)
		n.sessions.Forget(id)
		p.pipe.end()
		return
	}
	n.contact(now, p)
	n.warmTo(now, p, n.warmthOf(now, p))
	switch {
	case p.warmth == cold:
	case moved:
		n.readdressed(now, p)
	case met && n.hiddenFrom(m):
		n.sessions.Renew(now, id)
	}
}

// meet makes a peer for a member.
func (n *node) meet(now overlay.Instant, id overlay.AgentID) *peer {
	i := slices.Index(n.byIndex, nil)
	if i < 0 {
		i = len(n.byIndex)
		n.byIndex = append(n.byIndex, nil)
	}
	p := newPeer(id, i, now, n.lanes+len(n.sockets)+1) // and the answerers, and the byways
	n.byIndex[i] = p
	n.peers[id] = p
	n.mindSparse()
	n.warm.stale = n.warm.sparse
	n.control.met = now
	n.control.finds.Forget(id)
	return p
}

// forget drops a member whose record expired.
func (n *node) forget(id overlay.AgentID) {
	p := n.peers[id]
	if p == nil {
		return
	}
	n.setFar(p, false)
	n.sessions.Forget(id)
	p.pipe.end()
	n.sw.Stations.Forget(p.place())
	if n.guesser != nil {
		n.guesser.forget(id)
	}
	delete(n.routing.told, id)
	n.afar.forget(p)
	n.dropHeld(n.held.take(p))
	p.silenced.Store(true)
	p.out.Store(nil) // what it relayed takes another way
	delete(n.peers, id)
	n.byIndex[p.index] = nil
}
