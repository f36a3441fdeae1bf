package reserve

import (
	"time"

	"farlan/overlay"
)

// pursue draws the consequences of what became of a flow's reservation. It returns when it wants
// to be called again, 0 never.
func (b *Broker) pursue(now overlay.Instant, n *need) (next overlay.Instant) {
	r, before := b.reservations[n.id], b.reservations[n.before]
	switch {
	case r == nil:
	case r.state == Active && before != nil:
		b.fail(now, before, Released, Nothing, "another one takes its place")
		n.before = [16]byte{}
	case r.state == Active && n.tries > 0 && now.Sub(r.began) > backoffFirst:
		n.tries, n.full = 0, 0
	case !n.handled && (r.state.Over() || r.state == Orphan):
		n.handled = true
		b.outcome(now, n, r, before)
	}
	if now >= n.until || n.handled && now.Add(restFor) >= n.until { // too little is left to ask again
		n.declared = false
	}
	if n.declared && n.handled && before == nil && now >= n.after && len(b.course) < maxReservations {
		q := n.req
		q.For = n.until.Sub(now)
		b.open(now, n, q, true)
	}
	if n.declared {
		next = n.until
		if n.handled {
			next = earlier(next, max(n.after, now+1))
		}
	}
	return next
}

// outcome takes how a reservation ended. What was refused is tried once more with what there
// is, if that is enough; then later and later. What nobody wants any more isn't.
func (b *Broker) outcome(now overlay.Instant, n *need, r, before *reservation) {
	if before != nil && !before.state.Over() { // the old one goes on until its end
		n.id, n.before, n.handled = n.before, [16]byte{}, false
		n.after = now.Add(b.backoff(n.tries, backoffFirst, backoffMost))
		n.tries++
		return
	}
	n.before = [16]byte{}
	if r.final == Released {
		n.tries, n.full = 0, 0
		if r.why != Ended {
			n.after = max(n.after, now.Add(restFor))
		}
		return
	}
	n.refused = r.reason
	enough := !r.worked && (r.why == Full || r.why == OverQuota) && r.share >= offerShare
	if enough && !n.offer && len(b.course) < maxReservations {
		n.offer = true
		q := r.req
		q.Rate, q.BackRate = max(q.Rate*Rate(r.share)/1000, 1), q.BackRate*Rate(r.share)/1000
		q.For = max(r.until.Sub(now), time.Second)
		b.open(now, n, q, r.declared)
		return
	}
	if n.full++; r.why != Full && r.why != OverQuota {
		n.full = 0
	}
	if n.had = n.had || r.worked; n.declared && !n.had { // its owner is told
		n.declared = false
	}
	n.offer = false
	n.after = now.Add(b.backoff(n.tries, backoffFirst, backoffMost))
	n.tries++
}
