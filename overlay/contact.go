package overlay

import (
	"net/netip"
	"slices"
)

// A contact is a member, and where the agent stands with it.
type contact struct {
	id      AgentID
	static  [32]byte
	addrs   []netip.AddrPort // to try, the best first
	relays  []AgentID        // that may reach it, the best first
	pending []*Initiation    // oldest first
	begin   Instant          // when to send the next initiation; 0: no need
	late    lateCopies       // of one of them
	tries   int
	soon    bool // tries follow each other sooner
	met     bool // there was a session
	rests   bool // none is wanted: see Rest

	current     *Session
	older       []*Session // newest first
	unconfirmed []*Session // oldest first
	way         Way        // that current's datagrams take
}

func (s *Sessions) find(id AgentID) (int, bool) {
	return slices.BinarySearchFunc(s.contacts, id, func(c *contact, id AgentID) int { return c.id.Compare(id) })
}

func (s *Sessions) contact(id AgentID) *contact {
	if i, ok := s.find(id); ok {
		return s.contacts[i]
	}
	return nil
}

// lateCopies are copies of an initiation that go by way of other agents if it wasn't
// answered directly by then.
type lateCopies struct {
	at    Instant // 0: none
	index uint32
	d     []byte
}

// ways returns those that an initiation takes at once: the current one and all
// addresses.
func (c *contact) ways() []Way {
	var all []Way
	add := func(w Way) {
		if !slices.Contains(all, w) {
			all = append(all, w)
		}
	}
	if c.way != (Way{}) {
		add(c.way)
	}
	for _, a := range c.addrs {
		add(Direct(a))
	}
	return all
}

// drop erases all that c holds.
func (s *Sessions) drop(c *contact) {
	s.erase(c.current)
	s.erase(c.older...)
	s.erase(c.unconfirmed...)
	c.current, c.older, c.unconfirmed = nil, nil, nil
	s.abandon(c, len(c.pending))
}

// Refresh begins a handshake with every member whose current session isn't by the
// Handshaker's first secrets. The sessions go on meanwhile.
func (s *Sessions) Refresh(now Instant) {
	first := (*s.hs.secrets.Load())[0]
	for _, c := range s.contacts {
		if c.current == nil || c.begin != 0 || c.current.secrets == first {
			continue
		}
		c.begin, c.tries = now, 0
		if s.self.Compare(c.id) > 0 {
			c.begin = now.Add(yieldTime)
		}
	}
}

// Retire ends what was agreed on by secrets that the Handshaker doesn't have any
// more. Members that have others have agreed anew by them long before.
func (s *Sessions) Retire(now Instant) {
	over := func(e *Session) bool {
		if s.hs.good(e.secrets) {
			return false
		}
		s.erase(e)
		return true
	}
	for _, c := range s.contacts {
		c.older = slices.DeleteFunc(c.older, over)
		c.unconfirmed = slices.DeleteFunc(c.unconfirmed, over)
		c.pending = slices.DeleteFunc(c.pending, func(p *Initiation) bool {
			if s.hs.good(p.secrets) {
				return false
			}
			delete(s.index, p.Index())
			return true
		})
		if c.current != nil && over(c.current) {
			c.current = nil
			if !c.rests {
				s.Renew(now, c.id)
			}
		}
	}
}

// abandon gives up the first n initiations of c.
func (s *Sessions) abandon(c *contact, n int) {
	for _, p := range c.pending[:n] {
		delete(s.index, p.Index())
	}
	c.pending = slices.Delete(c.pending, 0, n)
}

func (s *Sessions) erase(sessions ...*Session) {
	for _, e := range sessions {
		if e != nil {
			delete(s.index, e.LocalIndex())
			s.forgetAnswer(e)
			e.Erase()
			s.changed = true
		}
	}
}

// promote makes session, which a datagram of the member's proved, the current
// one. Two agents that began at the same time have two sessions then: both
// choose the one that the agent with the smaller id began. Either way the datagram
// has shown a way that works, perhaps the only one.
func (s *Sessions) promote(c *contact, session *Session, from Way) {
	s.changed, c.met = true, true
	if c.current == nil || !c.way.IsDirect() || from.IsDirect() {
		c.way = from
	}
	other := c.current
	if other == nil || !session.crosses(other) || session.Initiator() == (s.self.Compare(c.id) < 0) {
		c.current = session
	} else {
		other = session
	}
	if other == nil {
		return
	}
	if len(c.older) == maxOlder {
		s.erase(c.older[maxOlder-1])
		c.older = c.older[:maxOlder-1]
	}
	c.older = slices.Insert(c.older, 0, other)
}

func (s *Sessions) expire(now Instant, c *contact) {
	expired := func(e *Session) bool {
		if !e.Expired(now) {
			return false
		}
		s.erase(e)
		return true
	}
	c.older = slices.DeleteFunc(c.older, expired)
	c.unconfirmed = slices.DeleteFunc(c.unconfirmed, expired)
	if c.current != nil && expired(c.current) {
		c.current = nil
		if c.begin == 0 && !c.rests {
			c.begin = now
		}
	}
}
