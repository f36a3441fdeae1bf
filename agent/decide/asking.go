package decide

import (
	"fmt"
	"slices"
	"time"

	"farlan/overlay"
	"farlan/overlay/mesh"
)

const (
	// An ask is repeated askTimes, first after askEvery and then after twice as long.
	// When it isn't answered the link is asked for again in the next epoch while it is
	// wanted.
	askEvery = time.Second
	askTimes = 3
	// A peer may ask askBurst times at once and then once each askAgain; what goes beyond
	// isn't answered. maxAskers bounds for how many that is counted; who asked longest ago
	// is forgotten.
	askBurst  = 6
	askAgain  = 2 * time.Second
	maxAskers = 64
)

// ask begins to ask for a link.
func (l *Links) ask(now overlay.Instant, x *link) {
	l.number++
	x.number, x.tries, x.again = l.number, 1, now.Add(askEvery)
	l.counters.Asked++
	l.send(x.peer, request{what: asks, number: x.number, why: x.why})
}

func (l *Links) send(to overlay.AgentID, r request) {
	r.layer = l.layer
	l.out = append(l.out, outgoing{to, r.encode()})
}

// Receive takes a message of a peer, which must be who it says; msg isn't kept. Errors:
// it makes no sense.
func (l *Links) Receive(now overlay.Instant, from overlay.AgentID, msg []byte) error {
	r, known, err := parseRequest(msg)
	switch {
	case err != nil:
		l.counters.Malformed++
		return fmt.Errorf("link request of %s: %w", from.Short(), err)
	case !known:
		l.counters.Unknown++
	case r.what == asks:
		l.asked(now, from, r)
	case r.what == drops:
		if i, ok := l.find(from); ok {
			l.links[i].theirs = false
		}
		l.tidy()
	default:
		l.answered(from, r)
	}
	return nil
}

// asked answers a peer that wants a link.
func (l *Links) asked(now overlay.Instant, from overlay.AgentID, r request) {
	if !l.allow(now, from) {
		l.counters.Limited++
		return
	}
	answer := request{what: refuses, number: r.number}
	i, ok := l.find(from)
	switch {
	case l.picture == nil: // not now
	case ok && (l.links[i].theirs || l.links[i].mine && l.links[i].agreed): // it is there
		answer.what = accepts
	default:
		others := len(l.links)
		if ok {
			others--
		}
		why, yes := l.chooser.Accept(l.picture.View, from, r.why, others)
		if answer.why = why; yes {
			answer.what = accepts
		}
	}
	if answer.what == accepts {
		if x := l.at(from); x != nil {
			x.theirs, x.theyWhy, x.untold = true, r.why, 0
			l.counters.Taken++
			l.send(from, answer)
			return
		}
		answer = request{what: refuses, number: r.number, why: mesh.CapReached}
	}
	l.counters.Denied++
	l.send(from, answer)
}

// allow says whether a peer may ask now.
func (l *Links) allow(now overlay.Instant, from overlay.AgentID) bool {
	i := slices.IndexFunc(l.askers, func(a asker) bool { return a.peer == from })
	if i < 0 {
		if i = len(l.askers); i < maxAskers {
			l.askers = append(l.askers, asker{})
		} else {
			i = 0
			for k, a := range l.askers {
				if a.paid < l.askers[i].paid {
					i = k
				}
			}
		}
		l.askers[i] = asker{peer: from, paid: now}
	}
	a := &l.askers[i]
	if a.paid.Sub(now) > (askBurst-1)*askAgain {
		return false
	}
	a.paid = max(a.paid, now).Add(askAgain)
	return true
}

// answered takes what a peer said to an ask.
func (l *Links) answered(from overlay.AgentID, r request) {
	i, ok := l.find(from)
	if !ok || !l.links[i].mine || l.links[i].again == 0 || l.links[i].number != r.number {
		return // it was given up meanwhile, or is answered
	}
	x := &l.links[i]
	switch {
	case r.what == accepts:
		x.agreed, x.again = true, 0
		l.counters.Accepted++
	case r.why != 0:
		x.mine, x.again = false, 0
		l.chooser.Refused(l.epoch, from)
		l.counters.Refused++
		l.tidy()
	}
}

// Tick repeats asks that weren't answered, and returns when it wants to be called again, 0
// if it needn't.
func (l *Links) Tick(now overlay.Instant) (next overlay.Instant) {
	for i := range l.links {
		x := &l.links[i]
		switch {
		case x.again == 0:
			continue
		case now < x.again:
		case x.tries >= askTimes:
			x.again = 0
			l.counters.Unanswered++
			continue
		default:
			x.again = now.Add(askEvery << x.tries)
			x.tries++
			l.send(x.peer, request{what: asks, number: x.number, why: x.why})
		}
		if next == 0 || x.again < next {
			next = x.again
		}
	}
	return next
}
