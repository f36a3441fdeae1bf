package mesh

import (
	"slices"

	"farlan/overlay"
)

const (
	// Up to fullMesh agents a link for each pair is cheaper than choosing; up to
	// fewAgents those that exist then stay, so that the network can breathe.
	fullMesh, fewAgents = 16, 20
	// ownLinks is how many links an agent chooses, the ring's included, where the facts don't
	// say otherwise; they say mostOwn at most. An agent has four times as many at most, those
	// of others included.
	ownLinks, mostOwn = 3, 16
	// turnsOf is in how many epochs an agent has the same number of turns always.
	turnsOf = 10
	// dwell is how many epochs a link lives at least, and stays away when it is gone.
	dwell = 6
	// patience is how many epochs a link may be down before it is given up.
	patience = 3
	// linkPrice is the price of a link in Φ, in µs for each agent.
	linkPrice = 100
	// maxPast bounds what is remembered of links given up: the oldest is forgotten.
	maxPast = 64
)

// habits are what mutants of the tests change.
type habits struct {
	turns int   // in turnsOf epochs
	least int64 // thousandths of its own part of Φ that an exchange must save at least
	raise int64 // thousandths by which a new link is thought dearer than measured
	stiff int64 // times as much of both at most, in places that are old
}

// sane are everybody's habits. With 3 of 10 agents in an epoch few trials meet others'.
// At first, saving 0.5 % with a link 3 % dearer is enough, which makes good links soon; after
// 24 epochs 2 % and 12 %, as what saves less is mostly noise where costs are measured with
// 3 % of it.
var sane = habits{turns: 3, least: 5, raise: 30, stiff: 4}

// A Chooser decides which links one agent wants. It is pure: equal calls give equal
// wishes. Its zero value is not ready; it is not safe for concurrent use.
type Chooser struct {
	id      overlay.AgentID
	habits  habits
	held    []Held // in the order of their wishes
	past    []past
	met     []overlay.AgentID // with whom it had links in the last epoch
	swap    *exchange
	traffic Demands
	started bool

	// of the epoch that Step decides for
	epoch  int64
	self   int
	view   *View
	wishes []Wish
}

// A past link was given up, by whomever, and isn't wished again until an epoch.
type past struct {
	peer  overlay.AgentID
	until int64
}

// An exchange is a new link for an old one, both there until it is settled.
type exchange struct {
	add, drop overlay.AgentID
	epoch     int64
}

// A Candidate is an agent with whom a link could be made, as measured.
type Candidate struct {
	Peer int   // index into Facts.Agents
	Cost int32 // in µs, as that of a Link
}

// Local is what an agent alone knows.
type Local struct {
	// Candidates are the agents to choose from, see Nominees; the first MaxCandidates
	// count.
	Candidates []Candidate
	// Rates is what the agent sends to others and gets from them.
	Rates []Rate
}

// MaxCandidates is how many candidates an agent chooses from at most.
const MaxCandidates = MaxAgents

// New returns the chooser of an agent that holds no links. After a restart, links that
// the facts say it holds are taken over by the first Step.
func New(id overlay.AgentID) *Chooser { return &Chooser{id: id, habits: sane} }

// Careless makes of a chooser one without the rule that agents take turns, or without the
// one that a move must be worth it: simulators show by such ones what the rules are for. It is
// as others again when it is told neither.
func (c *Chooser) Careless(turns, worth bool) {
	c.habits = sane
	if turns {
		c.habits.turns = turnsOf
	}
	if worth {
		c.habits.least, c.habits.raise, c.habits.stiff = 0, 0, 1
	}
}

// Held appends the links that the agent holds: these it says in its facts.
func (c *Chooser) Held(into []Held) []Held { return append(into, c.held...) }

// Step returns what the agent wants in an epoch, to be called once in each: some wishes
// for duties, which can't wait, and one move at most. The slice is good until the next
// call. An agent that is no member wishes nothing.
func (c *Chooser) Step(epoch int64, v *View, l Local) []Wish {
	c.epoch, c.self, c.view, c.wishes = epoch, v.Index(c.id), v, c.wishes[:0]
	if c.self < 0 {
		return nil
	}
	c.past = slices.DeleteFunc(c.past, func(p past) bool { return p.until <= epoch })
	c.look()
	if v.Agents() <= fullMesh {
		c.full()
	} else {
		c.ring()
	}
	c.prefer()
	c.carry(l)
	switch {
	case c.swap != nil:
		c.settle()
	case v.Agents() > fullMesh && v.turn(c.self, epoch, c.habits.turns):
		c.move(l.Candidates)
	case v.Agents() > fewAgents && v.crowded(c.self):
		c.relieve()
	}
	c.view = nil
	return c.wishes
}

// Accept says whether the agent takes a link that a peer wishes for a reason, and if not,
// why; links is how many it has by now, those included that the facts don't show yet.
func (c *Chooser) Accept(v *View, peer overlay.AgentID, why Reason, links int) (Reason, bool) {
	self, other := v.Index(c.id), v.Index(peer)
	switch {
	case self < 0 || other < 0:
		return Gone, false
	case !v.allowed(self, other):
		return Forbidden, false
	case links >= max(fewAgents, v.Cap()), !must(why) && !v.room(self, links):
		return CapReached, false
	}
	return why, true
}

// must says whether a link for that reason takes the places that are kept: room for the
// ring's is always left, but where many agents came to few that had all links.
func must(why Reason) bool {
	return why == Full || why == Ring || why == Bridge || why == Preferred
}

// Refused says that a peer didn't take the link that was wished in an epoch.
func (c *Chooser) Refused(epoch int64, peer overlay.AgentID) {
	c.forget(epoch, peer)
}

// links returns how many links the agent has, those included that are on their way.
func (c *Chooser) links() int {
	n := c.view.Degree(c.self)
	for i := range c.held {
		if c.view.link(c.self, c.view.Index(c.held[i].Peer)) == nil {
			n++
		}
	}
	return n
}

// forget takes a link off those that are held, for some epochs at least.
func (c *Chooser) forget(epoch int64, peer overlay.AgentID) {
	c.held = slices.DeleteFunc(c.held, func(h Held) bool { return h.Peer == peer })
	c.rest(epoch, peer)
	if c.swap != nil && c.swap.add == peer {
		if h := c.find(c.swap.drop); h != nil {
			h.Leaving = false
		}
		c.swap = nil
	}
}

// rest lets some epochs pass before a link with a peer is wished again.
func (c *Chooser) rest(epoch int64, peer overlay.AgentID) {
	if len(c.past) == maxPast {
		c.past = slices.Delete(c.past, 0, 1)
	}
	c.past = append(c.past, past{peer, epoch + dwell})
}

// find returns the held link with a peer, nil if there is none.
func (c *Chooser) find(peer overlay.AgentID) *Held {
	for i := range c.held {
		if c.held[i].Peer == peer {
			return &c.held[i]
		}
	}
	return nil
}

// add wishes a link.
func (c *Chooser) add(peer int, w Wish) {
	w.Do, w.Peer = Add, c.view.agents[peer].ID
	c.held = append(c.held, Held{Peer: w.Peer, Since: c.epoch, taken: c.epoch, Why: w.Why, Gain: w.Gain})
	c.wishes = append(c.wishes, w)
}

// drop gives a link up.
func (c *Chooser) drop(peer overlay.AgentID, w Wish) {
	w.Do, w.Peer = Drop, peer
	c.forget(c.epoch, peer)
	c.wishes = append(c.wishes, w)
}

// linked says whether there is a link with an agent, or one is wished.
func (c *Chooser) linked(peer int) bool {
	return c.view.link(c.self, peer) != nil || c.find(c.view.agents[peer].ID) != nil
}

// free says whether a link with an agent may be wished: none is there, none was given
// up a short while ago, and no rule is against it.
func (c *Chooser) free(peer int) bool {
	id := c.view.agents[peer].ID
	return c.view.allowed(c.self, peer) && !c.linked(peer) &&
		!slices.ContainsFunc(c.past, func(p past) bool { return p.peer == id })
}

// chosen returns how many of the places for own links are taken, and by how many links
// that are up.
func (c *Chooser) chosen() (taken, up int) {
	for i := range c.held {
		if c.held[i].ordinary() {
			taken++
			if c.held[i].Up {
				up++
			}
		}
	}
	return taken, up
}

// ordinary links take one of an agent's own places.
func (h *Held) ordinary() bool { return h.Why != Traffic && h.Why != Preferred }
