package reserve

import (
	"fmt"
	"slices"
	"time"

	"farlan/overlay"
)

// usageEvery is how often drivers are asked what passed.
const usageEvery = 10 * time.Second

// keeping looks after a reservation that works, or did a moment ago.
func (b *Broker) keeping(now overlay.Instant, r *reservation) {
	if b.broken(now, r) {
		return
	}
	for i := range r.parts {
		if p := &r.parts[i]; now.Sub(p.heard) >= silentFor {
			b.fail(now, r, Lost, Failed, "nothing was heard of "+p.agent.Short()+" for a minute")
			return
		}
	}
	switch n, why := b.needs[r.req.Flow], ""; {
	case n == nil || n.id != r.id && n.before != r.id:
		b.fail(now, r, Released, Nothing, "another one took its place")
		return
	case now >= r.last():
		b.fail(now, r, Released, Ended, "its time is over")
		return
	case !r.each(stages, func(p *part) bool { return p.up }):
		for i := range r.parts {
			if p := &r.parts[i]; !p.up {
				why = fmt.Sprintf("what %s has doesn't work: %v %s", p.agent.Short(), p.state, p.text)
			}
		}
		b.degrade(now, r, why)
	case r.misses >= missesMost:
		b.degrade(now, r, "probes don't come back")
	case r.state == Degraded && r.misses == 0 && r.proven > r.deadline.Add(-mendFor):
		r.reason = ""
		b.become(now, r, Active)
	}
	if r.state == Degraded && now >= r.deadline {
		b.fail(now, r, Lost, Failed, r.reason+" for half a minute")
		return
	}
	b.probe(now, r)
	b.renewing(now, r)
	b.use(now, r)
}

// last is until when a reservation is used.
func (r *reservation) last() overlay.Instant { return min(r.end.Add(-early), r.until) }

// degrade has a reservation's flow go the ordinary way for now.
func (b *Broker) degrade(now overlay.Instant, r *reservation, why string) {
	if r.reason = why; r.state == Active {
		r.deadline = now.Add(mendFor)
		b.become(now, r, Degraded)
	}
}

func (r *reservation) probeEvery() time.Duration {
	if r.state == Active && r.misses == 0 {
		return probeEvery
	}
	return probeSoon
}

// probes says whether a probe could come back: the drivers say that the way works, or worked a
// moment ago.
func (r *reservation) probes() bool {
	return r.parts[0].up && (r.state == Active || r.state == Degraded || r.state == Activating && r.each(stages, func(p *part) bool { return p.up }))
}

// probe sends a probe if one is due. One that doesn't come back before the next is missed.
func (b *Broker) probe(now overlay.Instant, r *reservation) {
	if now < r.probed.Add(r.probeEvery()) || !r.probes() {
		return
	}
	if r.proven < r.probed {
		r.misses++
	}
	r.probed, r.ask = now, true
}

// Probed says whether a Probe came back.
func (b *Broker) Probed(now overlay.Instant, id [16]byte, ok bool) {
	r := b.reservations[id]
	if r == nil || r.state < Activating || r.state > Degraded {
		return
	}
	if ok {
		r.proven, r.misses = now, 0
		if r.state == Activating && r.each(stages, func(p *part) bool { return p.up }) {
			r.worked, r.reason = true, ""
			b.become(now, r, Active)
		}
	}
}

// Unanswered takes it that nobody confirms what is sent by a reservation's way: its flow goes the
// ordinary one until a probe comes back.
func (b *Broker) Unanswered(id [16]byte) {
	if r := b.reservations[id]; r != nil && r.state == Active {
		r.misses, b.again = missesMost, true
	}
}

// change asks all parts of a reservation for other rates, and a later end.
func (b *Broker) change(now overlay.Instant, r *reservation, rate, back Rate, life time.Duration) {
	if r.asking > 0 || r.fixed {
		return
	}
	r.asked, r.askEnd = now, min(now.Add(life), r.until)
	b.rates(now, r, rate, back)
}

func (b *Broker) rates(now overlay.Instant, r *reservation, rate, back Rate) {
	r.asking, r.askBack = rate, back
	for i := range r.parts {
		switch p := &r.parts[i]; {
		case p.flow != r.req.Flow:
			p.rate = Outer(back, len(r.req.Back))
		case p.promise == Circuit:
			p.rate = Outer(max(rate, back), 0)
		default:
			p.rate = Outer(rate, len(r.req.Path))
		}
		b.send1(now, r, i, renew)
	}
}

// renewing ends what change began: when all have granted it, it is so; when one hasn't, the
// others go back.
func (b *Broker) renewing(now overlay.Instant, r *reservation) {
	if r.asking == 0 || !r.each(stages, func(p *part) bool { return !p.pending }) {
		return
	}
	more := r.asking > r.rate || r.askBack > r.back
	for i := range r.parts {
		p := &r.parts[i]
		if p.why == Useless || p.why == Failed {
			r.fixed = true
			r.reason = p.agent.Short() + " can't change it: " + p.text
		}
		if p.why == Nothing || !more && !r.fixed {
			continue
		}
		if r.refused = now; r.asking != r.rate || r.askBack != r.back { // the others go back
			b.rates(now, r, r.rate, r.back)
			return
		}
	}
	if !r.fixed {
		r.rate, r.back, r.end = r.asking, r.askBack, max(r.end, r.askEnd)
		r.shorten(r.asked)
		b.enterReservation(r)
	}
	r.asking = 0
}

// use asks this agent's drivers what passed.
func (b *Broker) use(now overlay.Instant, r *reservation) {
	s := b.segments[ID{r.id, 0}]
	if s == nil || s.call != 0 || now < s.usage.asked.Add(usageEvery) {
		return
	}
	s.usage.asked = now
	if d := b.driverNamed(s.driver); d != nil {
		b.call(d, s, Call{Verb: DoUsage, Grant: s.grant, Within: callWithin})
	}
}

// A meter tells a rate by what a driver counts.
type meter struct {
	asked, at overlay.Instant
	bytes     uint64
	rate      Rate
}

func (m *meter) read(now overlay.Instant, u Usage) {
	if d := now.Sub(m.at); m.at != 0 && u.Bytes >= m.bytes && d >= time.Millisecond {
		bytes := min(u.Bytes-m.bytes, 1<<50)
		m.rate = Rate(bytes * 8 / uint64(d/time.Millisecond))
	}
	m.at, m.bytes = now, u.Bytes
}

// A Way says that the packets of a flow for its next hop are to carry a mark. At the agent where
// a flow begins these are the frames between its stations (all, if they are zero), at a relay
// what it passes on of the flow. The agent that coordinates sends the flow by Path; of the other
// direction, and at relays, what takes another hop than Next goes as ever. So does all for which
// there is no Way.
type Way struct {
	ID   ID
	Flow Flow
	Path []overlay.AgentID // the relays, at the agent that coordinates; not to be changed
	Prev overlay.AgentID   // at a relay: from whom it comes
	Next overlay.AgentID
	// Label is by which number of a datagram Prev asks for it, Onward by which this agent asks
	// Next; 0: by none.
	Label, Onward byte
	Mark          Mark
	Rate          Rate // of underlay packets: what more is sent goes the ordinary way, or is shaped
}

// currentWays returns the ways by which flows may go now: by what works, as far as their drivers
// see, and where they begin only once all of the reservation is Active.
func (b *Broker) currentWays(unproven bool) (all []Way) {
	for _, s := range b.order {
		if unproven && s.state < Releasing && s.promise != Circuit && s.grant.Handle != "" {
			all = append(all, Way{ID: s.id, Mark: s.grant.Mark})
			continue
		}
		if !s.usable() || s.promise == Circuit {
			continue
		}
		mark, path := s.grant.Mark, []overlay.AgentID(nil)
		if s.peer == b.cfg.Self {
			r := b.reservations[s.id.Reservation]
			if r == nil || r.state != Active {
				continue
			}
			mark, path = b.markOf(r), r.req.Path
		}
		all = append(all, Way{
			ID: s.id, Flow: s.flow, Path: path, Prev: s.prev, Next: s.next, Label: s.label, Onward: s.onward,
			Mark: mark, Rate: min(s.asked, s.rate),
		})
	}
	slices.SortFunc(all, func(x, y Way) int { return x.ID.Compare(y.ID) })
	return all
}

// same says whether two ways are one.
func (w Way) same(o Way) bool {
	return w.ID == o.ID && w.Flow == o.Flow && w.Next == o.Next && w.Mark == o.Mark && w.Rate == o.Rate && w.Label == o.Label && w.Onward == o.Onward // an ID has one Path
}

// usable says whether packets may be sent by a segment's mark.
func (s *segment) usable() bool { return s.state == Active && s.grant.Up && s.goal == Active }

// markOf returns what packets of a reservation's flow carry where they leave this agent, which it
// begins at: the mark of its egress, and what a circuit has set beside it.
func (b *Broker) markOf(r *reservation) (m Mark) {
	for i := range r.parts {
		s := b.segments[ID{r.id, uint8(i)}]
		if s == nil || s.peer != b.cfg.Self || !s.usable() {
			continue
		}
		g := s.grant.Mark
		if g.TOS != 0 {
			m.TOS = g.TOS
		}
		if g.Priority != 0 {
			m.Priority = g.Priority
		}
		if g.Device != "" {
			m.Device = g.Device
		}
		if g.Source.IsValid() {
			m.Source = g.Source
		}
		if g.Peer.IsValid() {
			m.Peer = g.Peer
		}
	}
	return m
}
