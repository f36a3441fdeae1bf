package agent

import (
	"slices"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const (
	// A pair of stations is held up if its frames wait here, or on the way, for so long: as
	// queues that stand do (RFC 8289).
	waitsHere  = 5 * time.Millisecond
	waitsThere = 20 * time.Millisecond
	// newRoute is for how long the flow is watched on a new route before it is asked for more.
	newRoute = 10 * time.Second
)

// samples returns what this agent's stations sent to those of others in the last second, for who
// decides on reservations: those that send most, and those that have one.
func (n *node) samples(now overlay.Instant) (all []reserve.Sample) {
	pairs, total := n.pairs(), int64(0)
	for _, d := range pairs {
		total += d.Rate
	}
	seen := make(map[reserve.Flow]bool)
	most := make(map[overlay.AgentID]bool)
	for _, d := range pairs {
		p := n.peers[d.Agent]
		if p == nil || p.far {
			continue
		}
		f := reserve.Flow{From: n.self, To: d.Agent, Source: d.From, Dest: d.To}
		s := n.sample(now, f, p)
		s.Sent = reserve.Rate(d.Rate / 1000)
		switch { // who sends more than all others waits for itself, not for them
		case d.Reserved == nil && 2*d.Rate > total:
		case d.Wait >= waitsHere:
			s.Backlog = max(d.Waiting, 1)
		case d.Reserved == nil && d.Queue >= waitsThere:
			s.Backlog = max(d.Rate/8*d.Queue.Milliseconds()/1000, 1)
		}
		if !most[d.Agent] { // the one that sends most is what most comes back for
			most[d.Agent] = true
			s.Received = reserve.Rate(p.got.rate / 1000)
		}
		seen[f] = true
		all = append(all, s)
	}
	for _, w := range n.reserving.broker.List() {
		p := n.peers[w.Flow.To]
		if w.Flow.From == n.self && !seen[w.Flow] && p != nil && !w.Whole.Over() {
			seen[w.Flow] = true
			all = append(all, n.sample(now, w.Flow, p))
		}
	}
	return all
}

// sample returns what is known of a flow besides its rate.
func (n *node) sample(now overlay.Instant, f reserve.Flow, p *peer) reserve.Sample {
	s := reserve.Sample{Flow: f, Elastic: true, Path: n.bulkRelays(p)}
	s.Back = slices.Clone(s.Path)
	slices.Reverse(s.Back)
	if way := n.routing.routes.Way(p.id, overlay.ClassBulk); way.Since != 0 && now.Sub(way.Since) < newRoute {
		s.Reroute = true
	}
	if f.Source == (overlay.MAC{}) {
		return s
	}
	s.Moving = n.moving.of(f.Source) != nil || n.moving.of(f.Dest) != nil
	from, known := n.sw.Stations.Lookup(now, f.Source)
	if _, here := from.Port(); !known || !here {
		s.Gone = true
	}
	if to, known := n.sw.Stations.Lookup(now, f.Dest); !known || to != p.place() {
		s.Gone = true
	}
	return s
}

// bulkRelays returns the agents by which bulk goes to a peer, none if it goes straight.
func (n *node) bulkRelays(p *peer) []overlay.AgentID {
	if r := p.detour(overlay.ClassBulk); r != nil {
		return slices.Clone(r.ids[1 : len(r.ids)-1])
	}
	if out := p.out.Load(); out != nil {
		return slices.Clone(out.between)
	}
	return nil
}
