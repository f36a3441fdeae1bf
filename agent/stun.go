package agent

import (
	"time"

	"farlan/measure"
	"farlan/overlay"
)

const (
	// stunGrace is for how long after somebody was heard again the others have time to be.
	stunGrace = 300 * time.Millisecond
	// stunMost is how long a stun is waited out: then the ways out are cut.
	stunMost = 2 * time.Second
)

// A stun is a time in which nobody answers: not one path broke then, but this host, its way
// out, or the network in between stood still. No other way is better, so all is left as it is
// for a while: links that are taken for broken would be told, and left for others, when
// everything goes on.
type stun struct {
	looked, since, last overlay.Instant // since and last: when nobody answered
}

// holds says whether there is a stun now, or was until a moment ago.
func (s *stun) holds(now overlay.Instant) bool {
	return s.last != 0 && now.Sub(s.last) < stunGrace && s.last.Sub(s.since) < stunMost
}

// mindStun notices that nobody answers.
func (n *node) mindStun(now overlay.Instant) {
	s := &n.stun
	if now.Sub(s.looked) < tick {
		return
	}
	s.looked = now
	if !n.stunned(now) {
		return
	}
	if now.Sub(s.last) >= stunGrace {
		s.since = now
	}
	s.last = now
}

// stunned says whether of several members that can be reached directly none was heard since
// the first of them was asked because it was silent, and all had the time to answer: those
// that are asked then for comparison, too.
func (n *node) stunned(now overlay.Instant) bool {
	var since overlay.Instant
	for _, p := range n.byIndex {
		if p != nil && p.asks > 0 && p.byPort() && (since == 0 || p.silent < since) {
			since = p.silent
		}
	}
	if since == 0 || now.Sub(since) < deafAfter {
		return false
	}
	several := 0
	for _, p := range n.byIndex {
		if p == nil || p.barred || p.state == measure.Gone || !p.byPort() {
			continue
		}
		if several++; p.lastHeard() >= since || now.Sub(since) < 2*p.smoothed() {
			return false
		}
	}
	return several > 1
}
