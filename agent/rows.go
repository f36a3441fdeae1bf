package agent

import (
	"slices"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// tellLinks publishes this agent's rows of the map, if they are news.
func (n *node) tellLinks(now overlay.Instant) {
	own := &n.own
	if n.stun.holds(now) || n.meetsFormer(now) {
		return
	}
	links, facts, agents := n.rowsToTell(now), n.ownFacts(now), n.near()+1
	if !own.rows.Due(now, links, facts, agents) {
		return
	}
	// Instants of the rows are this agent's, those of the record the wall clock's.
	if body, err := discovery.AppendLinks(nil, now, facts, links); err != nil {
		n.log.Error("can't tell of this agent's links", "error", err)
	} else if v, ok := n.sign(discovery.KindLinks, body); ok {
		own.linksVersion = v
		own.rows.Told(now, links, facts, agents)
		n.keepInMind(now, links)
	}
}

// metAgainFor is how long an agent that starts anew waits at most for those that it kept links
// with before it tells of its links: who heard of fewer would take the others for broken.
const metAgainFor = 5 * time.Second

// meetsFormer says whether some of those with whom this agent kept links in an earlier life
// are still to be met.
func (n *node) meetsFormer(now overlay.Instant) bool {
	if now.Sub(n.epoch) >= metAgainFor {
		return false
	}
	return slices.ContainsFunc(n.linking.former, func(r discovery.Row) bool {
		id, ok := n.store.Find(r.Peer)
		return !ok || n.peers[id] == nil || n.peers[id].state != measure.Up
	})
}

// keepInMind has the disk remember which links are kept, if that has changed.
func (n *node) keepInMind(now overlay.Instant, told []discovery.Link) {
	var kept []overlay.AgentID
	for _, l := range told {
		if l.Kept() {
			kept = append(kept, l.Peer)
		}
	}
	if !slices.Equal(kept, n.own.kept) {
		if n.own.kept = kept; n.stale == 0 {
			n.stale = now
		}
	}
}

// ownFacts returns what this agent tells of itself.
func (n *node) ownFacts(now overlay.Instant) discovery.Facts {
	f := discovery.Facts{Access: n.access(now), NoTransit: n.relaysNothing(), Cost: n.cfg.Wishes.Cost}
	if limit := n.cfg.Wishes.TransitLimit.BitsPerSecond(); limit > 0 {
		f.TransitLimit = max(limit-n.routing.passed.rate, 1000)
	}
	if up := f.Access.Up; up > 0 {
		sent := int64(0)
		for _, p := range n.peers {
			sent += p.carried.rate
		}
		f.LeftUp = max(up-sent, 1000)
	}
	if down := f.Access.Down; down > 0 {
		f.LeftDown = max(down-n.routing.taken.rate, 1000)
	}
	return f
}

// access returns what this agent's own way to all others carries: what its owner says,
// or what several paths have for a bottleneck.
func (n *node) access(now overlay.Instant) (a measure.Access) {
	var up, down []int64
	for _, p := range n.byIndex {
		if p == nil {
			continue
		}
		if v := p.pair(now); !v.CapacityBound {
			up = append(up, v.Capacity)
		}
		p.mu.Lock()
		down = append(down, p.trains.in.Rate)
		p.mu.Unlock()
	}
	a.Up, a.UpSource = measure.AccessRate(n.cfg.Uplink.Up.BitsPerSecond(), up)
	a.Down, a.DownSource = measure.AccessRate(n.cfg.Uplink.Down.BitsPerSecond(), down)
	return a
}

// ownLinks returns the agents that this one has a link to, and those that it reaches by
// way of others, both ascending.
func (n *node) ownLinks(now overlay.Instant) (links, relayed []discovery.Link) {
	links = []discovery.Link{}
	for _, p := range n.view.Load().linked {
		if p.state != measure.Up || p.far {
			continue
		}
		v := p.pair(now)
		if l := (discovery.Link{Peer: p.id, Pair: v, Intent: n.intent(v, p)}); l.Relayed {
			relayed = append(relayed, l)
		} else {
			links = append(links, l)
		}
	}
	return links, relayed
}

// rowsToTell returns the rows that this agent tells, ascending: its links, and as far as
// there is room beside them the agents that it reaches by way of others.
func (n *node) rowsToTell(now overlay.Instant) []discovery.Link {
	links, relayed := n.ownLinks(now)
	links, relayed = n.lasting(links), n.lasting(relayed)
	links = n.linksToTell(now, links)
	if room := linksTold - len(links); len(relayed) > 0 && room > 0 {
		links = append(slices.Clip(links), relayed[:min(room, len(relayed))]...)
		slices.SortFunc(links, func(a, b discovery.Link) int { return a.Peer.Compare(b.Peer) })
	}
	return links
}

// lasting leaves out of links those with whom no session is wanted, or not for long: they
// would come and go.
func (n *node) lasting(links []discovery.Link) []discovery.Link {
	if !n.warm.sparse {
		return links
	}
	return slices.DeleteFunc(links, func(l discovery.Link) bool { return n.peers[l.Peer].warmth != steady })
}

// linksToTell returns which of its links this agent tells of: all, or when they are too
// many those of which others must know, then those that it told of before, then those that
// it would measure, then the nearest.
func (n *node) linksToTell(now overlay.Instant, all []discovery.Link) []discovery.Link {
	own := &n.own
	if len(all) <= linksTold {
		return all
	}
	told := linksOf(own.rows.Links)
	if first := own.chosen == nil; first || now.Sub(own.chose) >= neighboursEvery {
		own.chosen, own.chose = n.neighbours(now, all, linksTold), now
		own.watched = n.neighbours(now, all, watched)
		n.chooseWatched(n.view.Load().linked)
		told = slices.DeleteFunc(slices.Clone(told), func(l discovery.Link) bool { return !first && !slices.Contains(own.chosen, l.Peer) })
	}
	for _, id := range own.chosen {
		if at, ok := slices.BinarySearchFunc(told, id, comparePeer); !ok && len(told) < linksTold {
			told = slices.Insert(slices.Clone(told), at, discovery.Link{Peer: id})
		}
	}
	must, rest := mustTell(all)
	told = slices.DeleteFunc(slices.Clone(told), func(l discovery.Link) bool {
		_, ok := slices.BinarySearchFunc(must, l.Peer, comparePeer)
		return ok
	})
	most := max(linksTold-len(must), 0)
	rows := append(must, discovery.Tellable(n.self, rest, told[:min(len(told), most)], most)...)
	slices.SortFunc(rows, func(a, b discovery.Link) int { return a.Peer.Compare(b.Peer) })
	return rows
}

// mustTell returns which links all others are to know of, as far as there are not too many:
// those that are kept, and those of which an operator wants something; and the rest.
func mustTell(links []discovery.Link) (must, rest []discovery.Link) {
	for _, l := range links {
		if l.Kept() || l.Prefer || l.Forbid || l.Cost > 0 {
			must = append(must, l)
		} else {
			rest = append(rest, l)
		}
	}
	return must, rest
}

// linksOf returns the rows that are links.
func linksOf(rows []discovery.Link) []discovery.Link {
	return slices.DeleteFunc(slices.Clone(rows), func(l discovery.Link) bool { return l.Relayed })
}

func comparePeer(l discovery.Link, id overlay.AgentID) int { return l.Peer.Compare(id) }

// neighboursEvery is how often an agent chooses anew whom it measures: an epoch.
const neighboursEvery = measure.NeighbourEpoch

// neighbours returns whom of its links this agent measures, ascending.
func (n *node) neighbours(now overlay.Instant, links []discovery.Link, k int) []overlay.AgentID {
	all := make([]measure.Candidate, 0, len(links))
	for _, l := range links {
		c := measure.Candidate{ID: l.Peer, RTT: l.RTT}
		if c.RTT == 0 && n.predict != nil {
			c.RTT, _, _ = n.predict.RTT(n.self, l.Peer)
		}
		c.Traffic = n.sentTo(l.Peer)
		all = append(all, c)
	}
	return measure.Neighbours(n.self, all, measure.EpochOf(now), k)
}
