package reserve

import (
	"fmt"
	"time"

	"farlan/overlay"
)

const (
	// phaseTime is how long all may take to hold, to commit, or to work.
	phaseTime = 20 * time.Second
	// messageFirst and messageMost bound the time between two copies of a request.
	messageFirst = 500 * time.Millisecond
	messageMost  = 8 * time.Second
	busyAgain    = 2 * time.Second
	// statusEvery is how often each part is asked what it is; silentFor is when a reservation
	// is lost of which a part doesn't answer.
	statusEvery = 10 * time.Second
	silentFor   = time.Minute
	// orphanAfter is when parts that don't confirm their release are shown.
	orphanAfter = 10 * time.Second
	// A probe goes over what works every probeEvery, and every probeSoon while that isn't
	// known; missesMost in a row are lost until the flow goes the ordinary way, and for
	// mendFor it may work again.
	probeEvery = 5 * time.Second
	probeSoon  = time.Second
	missesMost = 3
	mendFor    = 30 * time.Second
)

// drive goes on with a reservation. It returns when it wants to be called again, 0 never.
func (b *Broker) drive(now overlay.Instant, r *reservation) (next overlay.Instant) {
	if r.state.Over() {
		return r.over.Add(remembered)
	}
	switch r.state {
	case Requested:
		b.holding(now, r)
	case Held:
		b.committing(now, r)
	case Committed, Activating:
		b.activating(now, r)
	case Active, Degraded:
		b.keeping(now, r)
	}
	if r.state == Releasing || r.state == Orphan {
		b.releasing(now, r)
	} else if r.state < Active && now >= r.deadline {
		b.fail(now, r, b.failed(r), Nothing, "not in time: "+r.waitsFor())
	}
	for i := range r.parts {
		next = earlier(next, b.repeat(now, r, i))
	}
	return earlier(next, r.due(now))
}

// due returns when the state itself is looked at again, 0 never.
func (r *reservation) due(now overlay.Instant) (next overlay.Instant) {
	switch r.state {
	case Requested, Held, Committed, Activating:
		next = r.deadline
	case Active:
		next = r.last()
	case Degraded:
		next = min(r.last(), r.deadline)
	case Releasing:
		next = r.release.Add(orphanAfter)
	case Orphan:
		next = r.end.Add(listEvery)
	}
	if r.probes() {
		next = earlier(next, r.probed.Add(r.probeEvery()))
	}
	return max(next, now+1)
}

// failed returns how a reservation ends that couldn't be had, or was lost.
func (b *Broker) failed(r *reservation) State {
	if r.firm {
		return Lost
	}
	return Rejected
}

// waitsFor says in words whom a reservation waits for.
func (r *reservation) waitsFor() string {
	for i := range r.parts {
		p := &r.parts[i]
		switch {
		case p.pending:
			return fmt.Sprintf("no answer from %s to %v", p.agent.Short(), p.sent)
		case r.state == Activating && !p.up:
			return fmt.Sprintf("what %s has doesn't work: %s", p.agent.Short(), p.text)
		}
	}
	return "no probe came back"
}

// send1 sends a new request about one part.
func (b *Broker) send1(now overlay.Instant, r *reservation, i int, k kind) {
	p := &r.parts[i]
	p.number++
	p.sent, p.pending, p.tries, p.due = k, true, 0, 0
	if k != status {
		p.why, p.free = Nothing, 0
	}
	b.repeat(now, r, i)
}

// repeat sends what isn't answered again, and asks for the status from time to time.
func (b *Broker) repeat(now overlay.Instant, r *reservation, i int) (next overlay.Instant) {
	p := &r.parts[i]
	if !p.pending && (p.number == 0 || r.state >= Releasing || r.state == Requested && p.state.Over()) {
		return 0
	}
	if now < p.due {
		return p.due
	}
	if !p.pending {
		b.send1(now, r, i, status)
		return p.due
	}
	p.due = now.Add(b.backoff(p.tries, messageFirst, messageMost))
	p.tries++
	end := r.end
	if p.sent == renew && r.asking > 0 {
		end = r.askEnd
	}
	owner := r.req.Owner
	b.send(p.agent, &message{
		kind: p.sent, declared: r.declared, promise: p.promise, id: ID{r.id, uint8(i)}, epoch: r.epoch, number: p.number,
		lease: max(end.Sub(now), 0).Round(time.Millisecond), rate: p.rate, flow: p.flow, next: p.next, prev: p.prev, onward: r.labelAfter(i),
		stacked: p.stacked, text: owner,
	})
	return p.due
}

// answered takes what an agent says of its part.
func (b *Broker) answered(now overlay.Instant, from overlay.AgentID, m *message) {
	r := b.reservations[m.id.Reservation]
	if r == nil || int(m.id.Segment) >= len(r.parts) || r.state.Over() {
		return
	}
	p := &r.parts[m.id.Segment]
	if p.agent != from || m.number != p.number {
		return // not of it, or an answer to an older request
	}
	if m.why == OldEpoch && m.epoch >= r.epoch {
		b.outdated(now, r, p, m)
		return
	}
	if m.epoch != r.epoch {
		return
	}
	if p.sent == ask && m.why == Busy { // the same ask may be granted later
		p.text, p.due = m.why.String(), now.Add(busyAgain)
		return
	}
	p.heard, p.state, p.up, p.granted, p.kind, p.text = now, m.state, m.up, m.rate, m.promise, m.text
	p.end = now.Add(m.lease)
	if m.label != 0 {
		p.label = m.label
	}
	if m.why != Nothing {
		p.why, p.free = m.why, m.free
	}
	if p.pending && p.satisfied() {
		p.pending, p.due = false, now.Add(statusEvery)
	}
	b.again = true
}

// satisfied says whether what was answered is what was waited for.
func (p *part) satisfied() bool {
	switch p.sent {
	case ask:
		return p.state >= Held && p.state <= Degraded || p.state.Over()
	case commit:
		return p.state >= Committed && p.state <= Degraded || p.state.Over() || p.why != Nothing
	case activate:
		return p.state >= Activating && p.state <= Degraded || p.state.Over() || p.why != Nothing
	case release:
		return p.state.Over()
	}
	return true
}

// outdated takes it that a part has seen a newer epoch: of another agent that coordinates, of
// this one's own claim, or of a time that it doesn't remember.
func (b *Broker) outdated(now overlay.Instant, r *reservation, p *part, m *message) {
	t := b.lineOf(now, b.cfg.Self, r.line())
	switch {
	case r.state >= Releasing && m.state.Over():
		p.state, p.pending = m.state, false
		b.again = true
		return
	case r.state >= Releasing, t.holder == b.cfg.Self && t.epoch >= m.epoch, t.claim >= m.epoch:
		if r.epoch < m.epoch {
			r.epoch, p.due = m.epoch, now
			b.enterReservation(r)
		}
		return
	}
	t.epoch = max(t.epoch, m.epoch)
	if r.declared {
		t.epoch++
	} else if t.holder == b.cfg.Self {
		t.until = now
	}
	b.fail(now, r, b.failed(r), OldEpoch, "another agent coordinates, or this one did before")
}

// labelAfter returns the label of what comes after a part on the flow's way, 0 if there is none.
func (r *reservation) labelAfter(i int) byte {
	if i+1 < len(r.parts) && r.parts[i+1].flow == r.parts[i].flow && r.parts[i+1].agent == r.parts[i].next {
		return r.parts[i+1].label
	}
	return 0
}

// each says whether something holds for all parts of a stage; stages: of any.
func (r *reservation) each(stage int, is func(p *part) bool) bool {
	for i := range r.parts {
		if p := &r.parts[i]; (stage == stages || p.stage == stage) && !is(p) {
			return false
		}
	}
	return true
}

// broken fails a reservation if a part refused, or ended. It waits until all that were asked
// have answered, so that the least that any has free is known.
func (b *Broker) broken(now overlay.Instant, r *reservation) bool {
	var bad *part
	for i := range r.parts {
		p := &r.parts[i]
		if p.number == 0 {
			continue
		}
		if r.state == Requested && p.pending {
			return false
		}
		short := r.state == Requested && !p.state.Over() && p.granted < p.rate && p.kind != Priority
		if short {
			p.why, p.free = Full, p.granted
		}
		if p.why != Nothing && !p.pending && (p.sent == commit || p.sent == activate) {
			short = true
		}
		if (short || p.state.Over()) && (bad == nil || p.free < bad.free) {
			bad = p
		}
	}
	if bad == nil {
		return false
	}
	r.share = int64(min(bad.free, bad.rate) * 1000 / bad.rate)
	b.fail(now, r, b.failed(r), bad.why, fmt.Sprintf("%s has it not: %s", bad.agent.Short(), bad.says()))
	return true
}

// says is why a part isn't what was wanted, in words.
func (p *part) says() string {
	s := p.why.String()
	if p.why == Full || p.why == OverQuota {
		s += fmt.Sprintf(", %v of %v is free", p.free, p.rate)
	}
	if p.text != "" {
		s += ": " + p.text
	}
	if s == "" {
		s = p.state.String()
	}
	return s
}

// holding has the parts hold, this agent's first and an outside circuit last.
func (b *Broker) holding(now overlay.Instant, r *reservation) {
	if b.broken(now, r) {
		return
	}
	for ; r.stage < stages; r.stage++ {
		for i := range r.parts {
			if p := &r.parts[i]; p.stage == r.stage && p.number == 0 {
				b.send1(now, r, i, ask)
			}
		}
		if !r.each(r.stage, func(p *part) bool { return !p.pending }) {
			return
		}
	}
	r.shorten(r.began)
	r.stage, r.deadline = stages-1, now.Add(b.holdTime(r))
	b.become(now, r, Held)
}

// shorten ends a lease that began at an instant with the first that ends of what parts gave: some
// have policies of their own.
func (r *reservation) shorten(began overlay.Instant) {
	for i := range r.parts {
		r.end = min(r.end, r.parts[i].end)
	}
	r.life = r.end.Sub(began)
}

// committing makes the parts firm, an outside circuit first and this agent's last.
func (b *Broker) committing(now overlay.Instant, r *reservation) {
	if b.broken(now, r) {
		return
	}
	for ; r.stage >= 0; r.stage-- {
		for i := range r.parts {
			p := &r.parts[i]
			if p.stage == r.stage && p.state == Held && !p.pending {
				b.send1(now, r, i, commit)
			}
		}
		if !r.each(r.stage, func(p *part) bool { return !p.pending && p.state >= Committed && p.state <= Degraded }) {
			return
		}
	}
	r.firm, r.deadline = true, now.Add(b.holdTime(r))
	b.become(now, r, Committed)
}

// activating has the parts serve packets, and probes the way when the drivers say that it works.
func (b *Broker) activating(now overlay.Instant, r *reservation) {
	if b.broken(now, r) {
		return
	}
	for i := range r.parts {
		if p := &r.parts[i]; p.state == Committed && !p.pending {
			b.send1(now, r, i, activate)
		}
	}
	b.become(now, r, Activating)
	if r.each(stages, func(p *part) bool { return p.up }) {
		b.probe(now, r)
	}
}

// releasing waits until all parts say that they have nothing any more. What they don't confirm
// ends by itself.
func (b *Broker) releasing(now overlay.Instant, r *reservation) {
	for i := range r.parts { // one that was asked for something else meanwhile
		if p := &r.parts[i]; p.sent != release && !p.state.Over() {
			b.send1(now, r, i, release)
		}
	}
	switch {
	case r.each(stages, func(p *part) bool { return p.state.Over() && !p.pending }):
		b.become(now, r, r.final)
	case now >= r.end.Add(listEvery):
		r.reason += "; what wasn't given back has ended"
		b.become(now, r, r.final)
	case now >= r.release.Add(orphanAfter):
		b.become(now, r, Orphan)
	}
}
