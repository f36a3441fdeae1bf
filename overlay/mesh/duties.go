package mesh

import "slices"

// look compares the links that are held with the facts: it gives up what can't be, and
// takes over what the agent held before it was started anew.
func (c *Chooser) look() {
	for _, h := range slices.Clone(c.held) {
		peer := c.view.Index(h.Peer)
		held := c.find(h.Peer)
		switch {
		case peer < 0:
			c.drop(h.Peer, Wish{Why: Gone})
		case !c.view.allowed(c.self, peer):
			c.drop(h.Peer, Wish{Why: Forbidden})
		case c.view.link(c.self, peer) != nil:
			held.Up, held.missing = true, 0
			c.share(peer)
		case c.epoch > h.Since:
			held.Up = false
			if held.missing++; held.missing >= patience {
				c.drop(h.Peer, Wish{Why: Dead})
			}
		}
	}
	for _, id := range c.met {
		if peer := c.view.Index(id); peer >= 0 && c.view.link(c.self, peer) == nil {
			c.rest(c.epoch, id)
		}
	}
	c.met = c.met[:0]
	for _, i := range c.view.at[c.self] {
		c.met = append(c.met, c.view.agents[c.view.links[i].other(c.self)].ID)
	}
	if !c.started {
		c.resume()
	}
	c.started = true
}

// resume takes over what the agent held before it was started anew, as far as it may have
// links. Where the facts say that it had many more, somebody who had its key may have said so in
// its name: what is too much goes at once, but for the ring's.
func (c *Chooser) resume() {
	room := c.view.Cap()
	for _, i := range c.view.at[c.self] {
		if c.view.links[i].hold(c.self) == Accepts {
			room--
		}
	}
	for _, i := range c.view.at[c.self] {
		l := &c.view.links[i]
		id := c.view.agents[l.other(c.self)].ID
		switch {
		case l.hold(c.self) == Accepts:
		case room <= 0 && l.other(c.self) != c.view.after(c.self):
			c.drop(id, Wish{Why: Surplus})
		default:
			room--
			c.held = append(c.held, Held{Peer: id, Since: c.epoch, taken: c.epoch, Why: Gain, Up: true})
		}
	}
}

// share gives up the agent's hold of a link that the peer holds, too, if the peer shall
// keep it: whoever needs it for the ring, otherwise by hash. What an agent holds for
// traffic takes no place of its own, and stays until the traffic is over at both ends.
func (c *Chooser) share(peer int) {
	v := c.view
	if v.link(c.self, peer).hold(peer) == Accepts {
		return
	}
	id := v.agents[peer].ID
	h := c.find(id)
	mine, theirs := v.after(c.self) == peer, v.after(peer) == c.self
	if v.Agents() <= fullMesh || mine == theirs {
		mine = byKey(v.keys)(c.self, peer) < 0
	}
	if mine || h.Leaving || h.Why == Ring || h.Why == Preferred || h.Why == Traffic {
		return
	}
	c.held = slices.DeleteFunc(c.held, func(x Held) bool { return x.Peer == id })
	c.wishes = append(c.wishes, Wish{Do: Drop, Peer: id, Why: Twice})
	if c.swap != nil && (c.swap.add == id || c.swap.drop == id) {
		c.cancel()
	}
}

// full wishes a link with each agent: the one with the smaller hash of each pair does.
func (c *Chooser) full() {
	c.cancel()
	for peer := range c.view.agents {
		if byKey(c.view.keys)(c.self, peer) < 0 && c.free(peer) {
			c.add(peer, Wish{Why: Full})
		}
	}
}

// cancel ends an exchange with both links kept.
func (c *Chooser) cancel() {
	if c.swap != nil {
		if h := c.find(c.swap.drop); h != nil {
			h.Leaving = false
		}
		c.swap = nil
	}
}

// after returns the next agent in the ring with whom one may have a link, itself if
// there is none.
func (v *View) after(agent int) int {
	n := len(v.ring)
	for p := 1; p < n; p++ {
		if j := v.ring[(v.place[agent]+p)%n]; v.allowed(agent, j) {
			return j
		}
	}
	return agent
}

// ring keeps the link with the next agent in the ring that can be reached: it stays until
// one with an agent before that is up. One more is added if the agents are in pieces
// nevertheless.
func (c *Chooser) ring() {
	v := c.view
	keep, tried := -1, false
	for p := 1; p < len(v.ring) && keep < 0; p++ {
		j := v.ring[(v.place[c.self]+p)%len(v.ring)]
		h := c.find(v.agents[j].ID)
		switch {
		case !v.allowed(c.self, j):
		case h != nil && h.Up, !tried && v.link(c.self, j) != nil:
			keep = j
		case tried:
		case h != nil:
			tried = true
		case c.free(j):
			tried = true
			c.add(j, Wish{Why: Ring})
		}
	}
	for i := range c.held {
		if h := &c.held[i]; h.Up && (h.Why == Ring || h.Why == Full) {
			h.Why = Gain // as any other, but for the one to keep
		}
	}
	if keep < 0 {
		return
	}
	c.hold(keep, Ring)
	if other := v.bridge(c.self, c.epoch); other >= 0 && c.free(other) {
		c.add(other, Wish{Why: Bridge})
	}
}

// hold makes the agent the holder of a link that it must have, whoever wished it.
func (c *Chooser) hold(peer int, why Reason) {
	if h := c.find(c.view.agents[peer].ID); h != nil {
		if h.Why != Preferred {
			h.Why = why
		}
		if c.swap != nil && c.swap.drop == h.Peer {
			c.cancel()
		}
		return
	}
	c.add(peer, Wish{Why: why})
}

// prefer keeps the links that the operator's rules want.
func (c *Chooser) prefer() {
	v := c.view
	for i := range c.held {
		if h := &c.held[i]; h.Why == Preferred && !v.rules[pairOf(c.self, max(0, v.Index(h.Peer)))].prefer {
			h.Why = Gain // it is as any other now
		}
	}
	rules := v.agents[c.self].Rules
	for _, r := range rules[:min(len(rules), MaxRules)] {
		if !r.Prefer || r.Peer < 0 || r.Peer >= v.Agents() || !v.allowed(c.self, r.Peer) {
			continue
		}
		if c.linked(r.Peer) || c.free(r.Peer) {
			c.hold(r.Peer, Preferred)
		}
	}
}

// carry keeps the links with the agents that have most of the traffic.
func (c *Chooser) carry(l Local) {
	v := c.view
	wanted := c.traffic.Observe(c.epoch, l.Rates)
	for i := len(c.held) - 1; i >= 0; i-- {
		h := &c.held[i]
		h.traffic = slices.Contains(wanted, h.Peer)
		if h.Why == Traffic && !h.traffic && c.epoch-h.Since >= dwell {
			c.drop(h.Peer, Wish{Why: Quiet})
		}
	}
	if v.Agents() <= fullMesh {
		return
	}
	for _, id := range wanted {
		peer := v.Index(id)
		if peer >= 0 && c.find(id) == nil && v.link(c.self, peer) != nil && v.allowed(c.self, peer) {
			c.burden(peer) // the peer may give it up, as it knows other rates
			continue
		}
		if peer < 0 || !c.free(peer) || !v.room(c.self, c.links()) || !v.room(peer, v.Degree(peer)) {
			continue
		}
		for _, x := range l.Candidates {
			if x.Peer == peer && v.direct(c.self, peer, x.Cost) {
				c.burden(peer)
				break
			}
		}
	}
}

// burden makes the agent the holder of a link for traffic.
func (c *Chooser) burden(peer int) {
	c.add(peer, Wish{Why: Traffic})
	c.held[len(c.held)-1].traffic = true
}

// direct says whether a link is worth it for the traffic between its ends: it is unless
// the way over others is far shorter, which then has the traffic anyway.
func (v *View) direct(a, b int, measured int32) bool {
	return int64(v.cost(a, b, measured))*2 <= int64(v.d(a, b))*3
}
