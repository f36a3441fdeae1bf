package reserve

import (
	"time"

	"farlan/overlay"
)

// serve does what a coordinator wants of a segment at this agent, and answers: at once if
// nothing is to be done for it, else when it is. A request that comes again is answered again.
func (b *Broker) serve(now overlay.Instant, from overlay.AgentID, m *message) {
	s := b.segments[m.id]
	switch {
	case s == nil:
		b.begin(now, from, m)
		return
	case s.peer != from:
		b.reply(from, m, Released, Denied, 0)
		return
	case m.epoch == s.epoch && m.number < s.number:
		return // a copy of what is past
	case b.mutant != noEpochs && m.epoch < s.epoch, b.stale(from, m) && m.kind != release:
		b.reply(from, m, s.state, OldEpoch, 0)
		return
	}
	fresh := m.number > s.number || m.epoch > s.epoch // a coordinator that restarts counts anew
	s.number, s.heard, s.owed = m.number, now, true
	s.epoch = max(s.epoch, m.epoch)
	if fresh && m.onward != 0 {
		s.onward = m.onward
		b.enter(s)
	}
	b.lead(now, from, m)
	if fresh && s.goal != Released && !s.state.Over() {
		b.wish(now, s, m)
	}
}

// wish takes over what a request wants of a segment.
func (b *Broker) wish(now overlay.Instant, s *segment, m *message) {
	if m.kind == status {
		return
	}
	s.refuse(Nothing, 0, "")
	switch m.kind {
	case commit:
		s.goal = max(s.goal, Committed)
	case activate:
		s.goal = Active
	case renew:
		b.resize(now, s, m)
	case release:
		b.end(s)
	}
	s.due = 0
	b.enter(s)
}

// resize lets a segment have another rate, as far as the egress has it, and a later end.
func (b *Broker) resize(now overlay.Instant, s *segment, m *message) {
	if end := now.Add(min(m.lease, b.longest(s.peer, s.promise))); end > s.end {
		s.end = end
	}
	if m.rate <= 0 || m.rate == s.rate {
		return
	}
	if m.rate > s.takes() && s.countable() && b.mutant != noSum {
		want := s.share()
		want.rate = m.rate
		if free, why := b.cfg.Quotas.room(b.capacity[s.egress], b.shares(s), want); why != Nothing {
			s.refuse(why, free, "")
			return
		}
	}
	s.rate = m.rate
}

// longest is the longest lease: this agent's own egress may be leased for as long as the circuit
// that is stacked on it.
func (b *Broker) longest(by overlay.AgentID, k Kind) time.Duration {
	if k == Circuit || by == b.cfg.Self {
		return b.cfg.LongestCircuit
	}
	return b.cfg.Longest
}

// begin takes a request for a segment that isn't there.
func (b *Broker) begin(now overlay.Instant, from overlay.AgentID, m *message) {
	if m.kind != ask && m.kind != release {
		b.reply(from, m, Released, Ended, 0)
		return
	}
	s := &segment{
		id: m.id, flow: m.flow, declared: m.declared, next: m.next, prev: m.prev, stacked: m.stacked, promise: m.promise, owner: m.text,
		peer: from, epoch: m.epoch, number: m.number, rate: m.rate, end: now.Add(min(m.lease, b.longest(from, m.promise))),
		goal: Held, heard: now, owed: true,
	}
	if m.kind == release { // a copy of the ask may still be under way: it shall find this
		if len(b.order) >= maxSegments || b.remembers(from) >= maxPeerSegments {
			b.reply(from, m, Released, Nothing, 0)
			return
		}
		s.goal = Released
		b.add(s)
		return
	}
	if free, why := b.admit(now, s); why != Nothing {
		b.reply(from, m, Rejected, why, free)
		return
	}
	b.lead(now, from, m)
	if s.flow.From != b.cfg.Self {
		s.label = b.newLabel()
	}
	b.add(s)
}

func (b *Broker) add(s *segment) {
	b.segments[s.id] = s
	b.order = append(b.order, s)
	b.again = true
}

// admit says whether a new segment may be tried, and finds its driver and egress.
func (b *Broker) admit(now overlay.Instant, s *segment) (free Rate, why Why) {
	m := message{flow: s.flow, declared: s.declared, epoch: s.epoch}
	switch {
	case !b.serves(s), s.next == b.cfg.Self, s.rate <= 0, s.end <= now, s.id.Segment == stray:
		return 0, Denied
	case b.leaving:
		return 0, Denied
	case b.cfg.Most > 0 && b.flows() >= b.cfg.Most:
		return 0, Full
	case b.stale(s.peer, &m):
		return 0, OldEpoch
	case !b.hasLine(s.peer, m.line(s.peer)), len(b.order) >= maxSegments || len(b.waiting) >= maxWaiting/2 || s.peer != b.cfg.Self && b.remembers(s.peer) >= maxPeerSegments:
		return 0, Busy
	}
	d := b.serving(s.promise, 0)
	hop, ok := b.cfg.Hop(s.next, s.hop())
	switch {
	case d == nil:
		return 0, Useless
	case !ok:
		return 0, Denied
	case !d.opened:
		return 0, Busy
	}
	s.driver, s.egress = d.Name, hop.Egress
	if s.promise == Circuit {
		return 0, Nothing
	}
	held := b.shares(nil)
	if b.mutant == noSum {
		held = nil
	}
	return b.cfg.Quotas.room(b.capacity[s.egress], held, s.share())
}

// serves says whether an agent may ask for a segment here: an end of the flow may, if it has the
// right to, and circuits are for this agent only.
func (b *Broker) serves(s *segment) bool {
	own, here := s.peer == b.cfg.Self, s.flow.From == b.cfg.Self
	switch {
	case !own && s.peer != s.flow.From && s.peer != s.flow.To, !own && (s.promise == Circuit || s.stacked):
		return false
	case !here && (b.cfg.NoTransit || s.prev.IsZero() || s.prev == b.cfg.Self):
		return false
	}
	return own || b.cfg.Serves == nil || b.cfg.Serves(s.peer)
}

// flows returns how many the frame path has to tell apart.
func (b *Broker) flows() (n int) {
	for _, s := range b.order {
		if s.countable() && !s.state.Over() {
			n++
		}
	}
	return n
}

// newLabel returns a number that no flow has which this agent passes on, and none had for as
// long as can be: who still sends by it shall not meet another one. It is 0 if all are taken.
func (b *Broker) newLabel() byte {
	var used [256]bool
	for _, s := range b.order {
		used[s.label] = used[s.label] || !s.state.Over()
	}
	used[0] = true
	for range 255 {
		if b.labels++; !used[b.labels] {
			return b.labels
		}
	}
	return 0
}

// remembers returns how many segments of a peer there are, those that are over included.
func (b *Broker) remembers(peer overlay.AgentID) (n int) {
	for _, s := range b.order {
		if s.peer == peer {
			n++
		}
	}
	return n
}

// tell answers a segment's coordinator, if it waits or should hear, and nothing is under way.
func (b *Broker) tell(now overlay.Instant, s *segment) {
	is := told{s.state, s.grant.Up, s.asked}
	if s.call != 0 || !s.owed && s.told == is || s.peer.IsZero() {
		return
	}
	s.owed, s.told = false, is
	m := b.about(now, s)
	b.send(s.peer, &m)
}

// about returns what an answer says of a segment.
func (b *Broker) about(now overlay.Instant, s *segment) message {
	return message{
		kind: answer, up: s.grant.Up && s.state == Active, declared: s.declared, state: s.state, why: s.why, promise: s.grant.Kind,
		id: s.id, epoch: s.epoch, number: s.number, rate: min(s.asked, max(s.grant.Rate, 0)), free: s.free,
		flow: s.flow, next: s.next, prev: s.prev, label: s.label, onward: s.onward, stacked: s.stacked, text: s.text, lease: max(s.end.Sub(now), 0),
	}
}

// reply answers a request of which nothing is kept.
func (b *Broker) reply(to overlay.AgentID, m *message, state State, why Why, free Rate) {
	a := *m
	a.kind, a.state, a.why, a.free, a.up, a.text = answer, state, why, free, false, ""
	if why == OldEpoch {
		a.epoch = b.epochOf(m.line(to))
	}
	b.send(to, &a)
}
