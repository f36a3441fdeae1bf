package reserve

import (
	"time"

	"farlan/overlay"
)

// Who coordinates what is reserved without an owner's word is agreed between the two ends of a
// line: one claims it, the other yields, and promises by that not to coordinate itself for
// Lease from when it yielded. The claimant counts from when it sent the claim, so its tenure is
// over before the promise is. The end that sends more claims; of two that send as much the one
// that has the lower id. Who has the tenure keeps it while it has a reservation.
const (
	// Lease is how long a tenure lasts unless it is renewed.
	Lease      = 30 * time.Second
	claimEvery = 2 * time.Second  // until it is answered
	claimAgain = 10 * time.Second // to keep it
)

// A tenure is what an agent knows of a line.
type tenure struct {
	epoch   uint64
	holder  overlay.AgentID // who coordinates, as far as is known
	until   overlay.Instant // until when that counts
	claim   uint64          // the epoch that this agent claimed last
	claimed overlay.Instant // when it did, 0: that is answered
	due     overlay.Instant // when the next one is
	wished  overlay.Instant // when the other end claimed in vain, as its side hurts
	wish    Rate            // what it wanted
	used    overlay.Instant
	by      overlay.AgentID // who made this agent remember it
}

// hasLine says whether a line is remembered, or there is room for it.
func (b *Broker) hasLine(by overlay.AgentID, l line) bool {
	return b.lines[l] != nil || len(b.lines) < maxLines && (by == b.cfg.Self || b.linesBy[by] < maxPeerLines)
}

// lineOf returns a line's tenure, a new one if there is none and room for it.
func (b *Broker) lineOf(now overlay.Instant, by overlay.AgentID, l line) *tenure {
	t := b.lines[l]
	if t == nil {
		t = &tenure{by: by}
		if !b.hasLine(by, l) {
			return t // which is forgotten at once
		}
		b.lines[l] = t
		b.linesBy[by]++
	}
	t.used = now
	return t
}

func (b *Broker) epochOf(l line) uint64 {
	if t := b.lines[l]; t != nil {
		return t.epoch
	}
	return 0
}

// forgetLines drops what nobody used for long: after that no message of an older epoch is under
// way any more, nor anything leased by it.
func (b *Broker) forgetLines(now overlay.Instant) {
	if now < b.swept.Add(remembered) {
		return
	}
	b.swept = now
	for l, t := range b.lines { // in any order: each is looked at alone
		if now.Sub(t.used) > maxLease+remembered {
			delete(b.lines, l)
			if b.linesBy[t.by]--; b.linesBy[t.by] == 0 {
				delete(b.linesBy, t.by)
			}
		}
	}
}

// stale says whether a request is of an older epoch than another one that was served.
func (b *Broker) stale(from overlay.AgentID, m *message) bool {
	return b.mutant != noEpochs && m.epoch < b.epochOf(m.line(from))
}

// lead notes who coordinates. What another agent coordinated by an older epoch ends.
func (b *Broker) lead(now overlay.Instant, from overlay.AgentID, m *message) {
	l := m.line(from)
	t := b.lineOf(now, from, l)
	if m.epoch <= t.epoch {
		return
	}
	t.epoch = m.epoch
	for _, s := range b.order {
		old := message{flow: s.flow, declared: s.declared}
		if s.peer != from && s.epoch < m.epoch && old.line(s.peer) == l && !s.state.Over() && s.goal != Released {
			s.refuse(OldEpoch, 0, "another agent coordinates now")
			b.end(s)
		}
	}
}

// claimed answers a claim.
func (b *Broker) claimed(now overlay.Instant, from overlay.AgentID, m *message) {
	a := *m
	a.kind, a.why = yield, Nothing
	switch l := m.line(from); {
	case m.declared || m.lease <= 0 || from != m.flow.From && from != m.flow.To || b.cfg.Self != m.flow.From && b.cfg.Self != m.flow.To:
		a.why = Denied
	case !b.hasLine(from, l):
		a.why = Busy
	default:
		t := b.lineOf(now, from, l)
		mine := t.holder == b.cfg.Self && now.Before(t.until) || b.coordinates(l)
		theirs := t.holder == from && now.Before(t.until)
		both := !theirs && t.claimed != 0 && now.Sub(t.claimed) < Lease && b.cfg.Self.Compare(from) < 0
		switch {
		case m.epoch < t.epoch || mine || both:
			a.why, a.epoch, t.wished, t.wish = OldEpoch, t.epoch, now, m.rate
		default:
			t.holder, t.until, t.claimed = from, now.Add(min(m.lease, Lease)), 0
			b.lead(now, from, m)
		}
	}
	b.send(from, &a)
}

// coordinates says whether this agent has a reservation of a line.
func (b *Broker) coordinates(l line) bool {
	for _, r := range b.course {
		if r.line() == l && !r.state.Over() && r.state != Orphan {
			return true
		}
	}
	return false
}

// yielded takes the answer to a claim.
func (b *Broker) yielded(now overlay.Instant, from overlay.AgentID, m *message) {
	t := b.lines[m.line(b.cfg.Self)]
	if t == nil || t.claimed == 0 || from != m.flow.From && from != m.flow.To {
		return
	}
	switch {
	case m.why == Nothing && m.epoch == t.claim:
		t.epoch, t.holder, t.until = t.claim, b.cfg.Self, t.claimed.Add(Lease)
		t.due = now.Add(claimAgain)
		b.raise(m.line(b.cfg.Self), t.epoch)
	case m.why == Nothing:
		return // to an older claim
	default:
		if t.epoch = max(t.epoch, m.epoch); t.holder == b.cfg.Self {
			t.holder = from
			t.until = now.Add(claimAgain)
		}
		t.due = now.Add(claimAgain)
	}
	t.claimed = 0
	b.again = true
}

// raise has this agent's reservations of a line go on in a newer epoch.
func (b *Broker) raise(l line, epoch uint64) {
	for _, r := range b.course {
		if r.line() == l && r.epoch < epoch && !r.state.Over() {
			r.epoch = epoch
			b.enterReservation(r)
		}
	}
}

// leads says whether this agent may coordinate what nobody declared, and claims that if it may
// try to. If the other end does, it knows by the claim that it hurts this one, too, and what rate
// this one wants.
func (b *Broker) leads(now overlay.Instant, l line, try bool, wish Rate) bool {
	if b.lines[l] == nil && !try {
		return false
	}
	t := b.lineOf(now, b.cfg.Self, l)
	is := t.holder == b.cfg.Self && now.Before(t.until)
	if !try || now < t.due {
		return is
	}
	if t.claim = t.epoch; !is {
		t.claim = max(t.epoch+1, uint64(max(now, 0))/uint64(time.Millisecond))
	}
	if t.claimed == 0 || !is {
		t.claimed = now
	}
	t.due = now.Add(claimEvery)
	peer := l.between.From
	if peer == b.cfg.Self {
		peer = l.between.To
	}
	b.send(peer, &message{kind: claim, flow: l.between, epoch: t.claim, lease: Lease, rate: wish})
	return is
}
