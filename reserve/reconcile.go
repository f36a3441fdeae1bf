package reserve

import (
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"farlan/overlay"
)

// recall takes up what a journal says: what is over is remembered for a while, as before, each
// other segment is asked for, each reservation that was firm goes on in a new epoch, and the
// others are given back.
func (b *Broker) recall(now overlay.Instant, j *Journal) {
	for _, s := range slices.Backward(j.segments) { // the newest of those that are over
		if s.state.Over() && len(b.order) < maxSegments {
			s.over, s.told.state = now, s.state
			b.add(s)
		}
		t := b.lineOf(now, s.peer, (&message{flow: s.flow, declared: s.declared}).line(s.peer))
		t.epoch = max(t.epoch, s.epoch)
	}
	for _, s := range j.segments {
		if s.state.Over() || s.state == Requested && s.verb == NoVerb {
			continue
		}
		s.state, s.verb, s.heard, s.told.state = Unknown, NoVerb, now, Unknown
		s.end = min(s.end, now.Add(maxLease)) // the clock may have been another one
		b.add(s)
	}
	for _, r := range j.reservations {
		if r.state.Over() || r.req.Flow.From != b.cfg.Self || b.reservations[r.id] != nil || len(b.course) >= maxReservations {
			continue
		}
		b.resume(now, r)
	}
}

// resume goes on with a reservation of before the restart.
func (b *Broker) resume(now overlay.Instant, r *reservation) {
	t := b.lineOf(now, b.cfg.Self, r.line())
	r.epoch++
	r.end = min(r.end, now.Add(maxLease))
	t.epoch, t.holder = max(t.epoch, r.epoch), b.cfg.Self
	r.epoch = t.epoch
	r.parts, r.back = newParts(&r.req), r.req.BackRate
	b.reservations[r.id] = r
	b.course = append(b.course, r)
	firm, final := r.firm && r.state < Releasing, b.failed(r)
	if r.state >= Releasing && r.final.Over() { // it was being given back
		final = r.final
	}
	r.state, r.stage = Unknown, stages
	for i := range r.parts {
		if r.rate != r.req.Rate && r.parts[i].flow == r.req.Flow {
			r.parts[i].rate = Outer(r.rate, len(r.req.Path))
		}
		r.parts[i].heard = now
		r.parts[i].number = 1 // it may have been asked
	}
	if n := b.needOf(now, r.req.Flow); n != nil && firm {
		if other := b.reservations[n.id]; other == nil || other.began < r.began {
			n.before, n.id = n.id, r.id // one that was to take the other's place
		} else {
			n.before = r.id
		}
		n.renewed, n.grown, n.had = r.end.Add(-r.life), now, true
		if r.declared {
			n.declared, n.req, n.until = true, r.req, r.until
		}
	}
	if !firm || now >= r.end {
		b.fail(now, r, final, Nothing, "the agent restarted")
		return
	}
	r.deadline = now.Add(b.holdTime(r))
	for i := range r.parts {
		b.send1(now, r, i, status)
	}
	b.become(now, r, Activating)
}

// listings asks drivers for what they hold. It returns when the next is due.
func (b *Broker) listings(now overlay.Instant) (next overlay.Instant) {
	for _, d := range b.drivers {
		if d.listing {
			continue
		}
		if now >= d.list {
			d.listing, d.list, d.asked = true, now.Add(listEvery), now
			b.call(d, nil, Call{Verb: DoList, Within: callWithin + time.Duration(d.Setup)*time.Second})
		}
		next = earlier(next, d.list)
	}
	return next
}

// reconcile compares what a driver lists with what it should hold. What nobody here knows of is
// given back. What should be there and isn't is asked for, unless it is to be given back.
func (b *Broker) reconcile(now overlay.Instant, d *driver, grants []Grant, err error) {
	d.listing = false
	if err != nil && !errors.Is(err, ErrUnsupported) {
		d.list = now.Add(listAgain)
		return
	}
	if d.opened, d.mute = true, err != nil; d.mute {
		return
	}
	there, strangers := make(map[*segment]bool, len(grants)), false
	for _, g := range grants {
		if g.State.Over() || d.External && g.End > 0 && g.End <= now { // by this agent's clock: some providers go on to show it
			continue
		}
		if s := b.find(d, g); s != nil {
			there[s], strangers = true, strangers || s.id.Segment == stray && g.ID == (ID{})
			b.found(now, s, g)
			continue
		}
		strangers = strangers || g.ID == (ID{})
		b.adopt(now, d, g)
	}
	for _, s := range b.order {
		if s.driver == d.Name && !there[s] && s.call == 0 && !s.state.Over() && s.state != Requested {
			b.missing(now, s, strangers)
		}
	}
}

// missing takes it that a driver doesn't list what it should, or may, hold. strangers says that
// it lists something else that doesn't tell whose it is.
func (b *Broker) missing(now overlay.Instant, s *segment, strangers bool) {
	switch {
	case s.grant.Handle == "" && (s.state == Unknown || s.state == Orphan): // see unseen
		if strangers && now < s.end {
			return // one of them may be it: the list that comes when they are gone tells
		}
		if s.why == Nothing {
			s.refuse(Failed, 0, firstOf(s.text, "the driver didn't take it"))
		}
		b.set(now, s, s.final())
	case s.goal != Released && s.state != Unknown:
		b.set(now, s, Unknown)
		s.due = 0
	case s.state == Orphan && now >= s.end: // confirmed by what isn't there
		b.set(now, s, s.final())
	}
	b.enter(s)
}

// find returns whose grant a driver lists, nil if nobody's: by the ID, or by the handle where
// the driver has no room for it.
func (b *Broker) find(d *driver, g Grant) *segment {
	if s := b.segments[g.ID]; s != nil && s.driver == d.Name {
		return s
	}
	for _, s := range b.order {
		if g.ID == (ID{}) && s.driver == d.Name && g.Handle != "" && s.grant.Handle == g.Handle {
			return s
		}
	}
	return nil
}

// found takes it that a driver holds something.
func (b *Broker) found(now overlay.Instant, s *segment, g Grant) {
	switch {
	case s.call != 0:
	case s.grant.Handle == "" && s.goal == Released && !s.state.Over():
		s.grant.Handle, s.due = g.Handle, 0
		b.enter(s)
	case s.state.Over(): // it came after all: a call that was given up was done later
		s.revive()
		s.goal, s.due = Released, 0
		s.grant.Handle = g.Handle
		b.enter(s)
	case s.state == Unknown && s.goal != Released:
		b.grants(now, s, DoStatus, g)
		s.due = 0
		b.enter(s)
	case s.goal != Released && s.state >= Activating && s.state <= Degraded && s.grant.Up != g.Up:
		b.grants(now, s, DoStatus, g)
	}
}

// revive makes of a segment that was over one that is still to be given back.
func (s *segment) revive() { s.state, s.over = Orphan, 0 }

// adopt has somebody's release what nobody knows of: what a crash left behind before the journal
// had it, or with a journal that is lost.
func (b *Broker) adopt(now overlay.Instant, d *driver, g Grant) {
	if len(b.order) >= 2*maxSegments {
		return // the next list has it again
	}
	id := ID{Segment: stray}
	sum := sha256.Sum256([]byte(d.Name + "\x00" + g.ID.String() + "\x00" + g.Handle))
	copy(id.Reservation[:], sum[:])
	if s := b.segments[id]; s != nil {
		if s.state.Over() {
			s.revive()
			s.due = 0
		}
		return
	}
	s := &segment{
		id: id, driver: d.Name, goal: Released, state: Orphan, grant: g, promise: g.Kind, asked: g.Rate,
		end: max(g.End, now), heard: now, text: "nobody here knows of it",
	}
	b.add(s)
}
