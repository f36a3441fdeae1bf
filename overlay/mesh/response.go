package mesh

import (
	"cmp"
	"slices"
)

// move is the agent's turn: it fills a place for a link of its own, or gives up one
// of too many, its own or a peer's, or begins the exchange of one link for another that
// lowers Φ most.
func (c *Chooser) move(candidates []Candidate) {
	taken, up := c.chosen()
	candidates = c.reached(candidates)
	switch {
	case up > c.view.each:
		if c.view.Agents() > fewAgents {
			c.relieve()
		}
	case c.view.Agents() > fewAgents && c.shed(c.view.crowded):
	case taken < c.view.each:
		c.fill(candidates)
	case up == c.view.each:
		c.exchange(candidates)
	}
}

// reached returns the candidates to which there is a way over links: an agent that is
// cut off, or came just now, would be worth an exchange to everybody at once. To link with
// it is the duty of one (duties.go), and its own business while it has no link at all.
func (c *Chooser) reached(candidates []Candidate) []Candidate {
	candidates = candidates[:min(len(candidates), MaxCandidates)]
	if c.view.Degree(c.self) == 0 {
		return candidates
	}
	return slices.DeleteFunc(slices.Clone(candidates), func(x Candidate) bool {
		return x.Peer < 0 || x.Peer >= c.view.Agents() || !c.view.joined(c.self, x.Peer)
	})
}

// given says whether a held link may be given up for others.
func (c *Chooser) given(h *Held) bool {
	return h.Up && h.ordinary() && h.Why != Ring && !h.traffic && c.epoch-h.Since >= dwell
}

// crowded says whether an agent has more links than it may: it had to take those that held
// the agents together when they were in pieces, or all were linked in a small piece.
func (v *View) crowded(agent int) bool { return v.Degree(agent) > v.Cap() }

// relieve gives up one of this agent's links if it has more than its own.
func (c *Chooser) relieve() {
	if _, up := c.chosen(); up > c.view.each {
		c.shed(func(int) bool { return true })
	}
}

// shed gives the link with one of some peers up that is of least use, but none that holds
// the agents together.
func (c *Chooser) shed(with func(peer int) bool) bool {
	var victim *Held
	least := int64(0)
	for i := range c.held {
		h := &c.held[i]
		peer := c.view.Index(h.Peer)
		if !c.given(h) || !with(peer) {
			continue
		}
		rise := c.view.cut(c.self, peer)
		c.view.undo()
		if victim == nil || rise < least {
			victim, least = h, rise
		}
	}
	if victim == nil || least >= far {
		return false
	}
	gain := c.view.price() - least
	c.drop(victim.Peer, Wish{Why: Surplus, Gain: gain, Share: c.part(gain)})
	return true
}

// fill adds the link that lowers Φ most, if it is worth its price.
func (c *Chooser) fill(candidates []Candidate) {
	if best := c.best(c.possible(candidates), 0, 1); best.gain > c.view.price() {
		gain := best.gain - c.view.price()
		c.add(best.peer, Wish{Why: Gain, Gain: gain, Share: c.part(gain)})
	}
}

// exchange begins the best exchange, if it is worth it.
func (c *Chooser) exchange(candidates []Candidate) {
	candidates = c.possible(candidates)
	var best option
	var victim *Held
	for i := range c.held {
		h := &c.held[i]
		if !c.given(h) || len(candidates) == 0 {
			continue
		}
		stiff := c.stiffness(h)
		rise := c.view.cut(c.self, c.view.Index(h.Peer))
		o := c.best(candidates, rise, stiff)
		if o.ok && o.gain*1000 >= c.habits.least*stiff*c.view.own(c.self) && c.over(o, best) {
			best, victim = o, h
		}
		c.view.undo()
	}
	if victim == nil || best.gain <= 0 {
		return
	}
	victim.Leaving = true
	taken := victim.taken // adding may move it
	c.swap = &exchange{c.view.agents[best.peer].ID, victim.Peer, c.epoch}
	c.add(best.peer, Wish{Why: Gain, Gain: best.gain, Share: c.part(best.gain), Other: c.swap.drop})
	c.held[len(c.held)-1].taken = taken
}

// stiffness returns how many times as much an exchange of a held link must save as at
// first. It grows with the age of its place, whatever links had it one after another, so
// that a network that stays as it is comes to rest; and is bounded, so that one that
// doesn't is followed.
func (c *Chooser) stiffness(h *Held) int64 {
	return max(1, min((c.epoch-h.taken)/dwell, c.habits.stiff))
}

// An option is a link that could be made, and by how much Φ would fall.
type option struct {
	peer int
	gain int64
	ok   bool
}

// over says whether one option is better than another; ties are broken by hash.
func (c *Chooser) over(a, b option) bool {
	if !a.ok || !b.ok {
		return a.ok
	}
	return cmp.Or(cmp.Compare(a.gain, b.gain), byKey(c.view.keys)(a.peer, b.peer)) > 0
}

// possible returns the candidates with whom a link can be made.
func (c *Chooser) possible(candidates []Candidate) (all []Candidate) {
	v := c.view
	if c.links() >= v.Cap() {
		return nil
	}
	for _, x := range candidates {
		if x.Peer >= 0 && x.Peer < v.Agents() && c.free(x.Peer) && v.room(x.Peer, v.Degree(x.Peer)) {
			all = append(all, x)
		}
	}
	return all
}

// best returns the one of possible candidates whose link lowers Φ most, less what was lost
// before. Links are thought dearer than they were measured, the more the stiffer their place
// is.
func (c *Chooser) best(candidates []Candidate, lost, stiff int64) (best option) {
	v := c.view
	for _, x := range candidates {
		cost := int64(v.cost(c.self, x.Peer, x.Cost)) * (1000 + c.habits.raise*stiff) / 1000
		o := option{x.Peer, v.gain(c.self, x.Peer, clamp(int32(cost))) - lost, true}
		if c.over(o, best) {
			best = o
		}
	}
	return best
}

// part returns a gain in thousandths of the agent's own part of Φ.
func (c *Chooser) part(gain int64) int32 {
	own := max(1, c.view.own(c.self))
	return int32(max(-1_000_000, min(1_000_000, gain/own*1000+gain%own*1000/own)))
}

// settle ends an exchange once the new link is up: with all the others' moves of that
// epoch in the facts, either the old link goes, or the new one if that is better now.
func (c *Chooser) settle() {
	v := c.view
	h, old := c.find(c.swap.add), c.find(c.swap.drop)
	if h == nil || old == nil {
		c.cancel()
		return
	}
	if !h.Up {
		return
	}
	if v.link(c.self, v.Index(h.Peer)).hold(v.Index(h.Peer)) != Accepts {
		if c.epoch-c.swap.epoch >= patience {
			c.cancel()
		}
		return // the peer wished it, too, and will leave it to this agent
	}
	add, drop := v.Index(h.Peer), v.Index(old.Peer)
	gain := v.cut(c.self, add)
	if l := v.link(c.self, drop); l != nil {
		gain -= v.gain(c.self, drop, v.cost(c.self, drop, l.Cost))
	}
	v.undo()
	swap := *c.swap
	c.cancel()
	if gain > 0 {
		c.drop(swap.drop, Wish{Why: Replaced, Gain: gain, Share: c.part(gain), Other: swap.add})
		return
	}
	c.drop(swap.add, Wish{Why: Reverted, Gain: gain, Share: c.part(gain), Other: swap.drop})
}
