package agent

import (
	"slices"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
)

// A large network is divided into areas (package decide). An agent has the records of its own
// area's members and of all gateways; everybody else is far: this agent knows of it what
// gateways tell, and its record only once it was looked for (far.go). Far agents are peers as
// others are, but no member of this agent's own trees, pictures and neighbourhood.
//
// In a network that isn't divided nobody is far, and nothing of this does anything.

// A place is what the loop keeps of the area in which this agent is.
type place struct {
	sizes  decide.Sizes
	abode  decide.Abode
	former []decide.Kept // links in the area before, as long as they are used
	gate   *gate         // nil: this agent is no gateway
	out    int           // for how many epochs it is one that the others don't reckon with
	told   uint64        // version of what it told of an area, 0: nothing
	fars   int           // peers that are far
	area   uint32        // of what was looked at last
	moving bool
	wide   [32]byte       // hash of the records that
	epoch  int64          // and the epoch in which
	beyond *decide.Beyond // is made
}

// divided says whether this agent is in an area, or comes from one.
func (n *node) divided() bool {
	area, moving := n.store.Area()
	return area != 0 || moving
}

// beyond returns what gateways tell.
func (n *node) beyond() *decide.Beyond {
	a := &n.area
	wide, epoch := n.store.WideHash(), decide.EpochOf(n.wall())
	if a.beyond == nil || a.wide != wide || a.epoch != epoch {
		a.beyond, a.wide, a.epoch = decide.NewBeyond(decide.Living(n.self, epoch, decide.Gates(n.store))), wide, epoch
	}
	return a.beyond
}

// isFar says whether an agent is none of this agent's area, or of one that it was in a moment
// ago.
func (n *node) isFar(id overlay.AgentID, m discovery.Member) bool {
	area, moving := n.store.Area()
	_, ok := n.store.Record(id, discovery.KindMember)
	return !ok || m.Area != area && !moving
}

// near returns how many others aren't far.
func (n *node) near() int { return len(n.peers) - n.area.fars }

// setFar notes whether a peer is far.
func (n *node) setFar(p *peer, far bool) {
	if p.far == far {
		return
	}
	if p.far = far; far {
		n.area.fars++
	} else {
		n.area.fars--
	}
}

// mindArea follows which area this agent is in.
func (n *node) mindArea(now overlay.Instant) {
	a := &n.area
	area, moving := n.store.Area()
	if area == a.area && moving == a.moving {
		return
	}
	if a.area, a.moving = area, moving; !moving {
		a.former = nil
	}
	for _, p := range n.peers {
		n.setFar(p, n.isFar(p.id, p.member))
	}
	n.spread.met, n.spread.stirred, n.warm.stale = true, true, true
	n.routing.broke = true
	n.publish(now)
}

// inArea returns what of those tell who are in this agent's area now.
func (n *node) inArea(told []decide.Told) []decide.Told {
	area, _ := n.store.Area()
	return slices.DeleteFunc(told, func(t decide.Told) bool {
		p := n.peers[t.ID]
		return p != nil && p.member.Area != area
	})
}

// dwell decides in which area this agent is to be, by an epoch's picture.
func (n *node) dwell(now overlay.Instant, picture *decide.Picture) {
	area, moving := n.store.Area()
	next := n.area.abode.Step(n.area.sizes, decide.Situation{
		Self: n.self, Area: area, Moving: moving, Picture: picture, Beyond: n.beyond(), Predict: n.costOf,
		Gone: func(to uint32) bool {
			for id, p := range n.peers {
				if _, ok := n.store.Record(id, discovery.KindMember); ok && p.member.Area == to {
					return true
				}
			}
			return false
		},
	})
	if next != area {
		n.enter(now, next)
	}
}

// costOf returns what a link to an agent costs as it was measured, or else as coordinates
// predict; 0 is unknown.
func (n *node) costOf(id overlay.AgentID) int32 {
	if p := n.peers[id]; p != nil && p.direct() {
		if v := p.pair(n.now()); v.RTT > 0 {
			return decide.CandidateCost(v.RTT)
		}
	}
	if n.predict != nil {
		if rtt, _, ok := n.predict.RTT(n.self, id); ok {
			return decide.CandidateCost(rtt)
		}
	}
	return 0
}

// enter takes this agent to another area. The links that it has stay for as long as it is
// moving.
func (n *node) enter(now overlay.Instant, area uint32) {
	was, _ := n.store.Area()
	n.log.Info("this agent goes to another area", "from", was, "to", area)
	l := &n.linking
	n.retire()
	n.area.former = l.kept
	l.links, l.kept, l.named, l.former, l.repeat = decide.NewLinks(n.self), nil, nil, nil, 0
	n.store.Enter(n.wall(), area)
	n.own.member, n.control.next = 0, 0 // tell
	n.mindArea(now)
}

// keptBefore returns what is intended with a link of the area before.
func (n *node) keptBefore(id overlay.AgentID) (t discovery.Intent) {
	for _, k := range n.area.former {
		if k.Peer == id {
			return k.Intent
		}
	}
	return t
}
