package agent

import (
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// A member that is silent may have ended, the way to it may be cut, or this agent's way
// out for all UDP. While frames wait there is no time to find out one after the other:
// another way is taken half a second after the first datagram that wasn't answered, and
// a pipe through TCP is opened before that if nobody answers by UDP.
const (
	// askRate is how many silent members are asked a second, after askBurst at once:
	// many are silent at the same time when this agent, or its way out, is.
	askRate  = 20
	askBurst = 10
	// compared is how many other members are probed when one falls silent.
	compared = 2
	// deafAfter is how long at least after that nobody must have been heard from.
	deafAfter = 200 * time.Millisecond
)

// mindSilence asks a member that is silent although something was sent to it, and
// before long takes another way, if there is one: the way back is found as soon
// as it answers directly.
func (n *node) mindSilence(now overlay.Instant, p *peer, out *outbound, s measure.Silence) {
	if s == measure.Answering || out.relay != nil {
		p.asks, p.cut = 0, false
		return
	}
	if now.Sub(p.asked) < tick || !n.asks.Allow(now) {
		return
	}
	p.asked = now
	if p.asks++; p.asks == 1 {
		p.silent = now
		n.compare(p)
	}
	pipe, patience := p.pipe.is, measure.Misses
	piped := pipe != nil && out.way.Addr == pipe.addr
	if piped {
		patience *= 4 // TCP sends again what was lost
	} else {
		p.mu.Lock()
		p.path.Asked(now)
		p.mu.Unlock()
	}
	p.excuse(now, 1)
	_ = n.probe(out, directProbe, 0)
	if s != measure.Cut || p.asks <= patience {
		return
	}
	p.noteCut(now, out)
	if pipe == nil && n.stun.holds(now) {
		return
	}
	p.cut = true
	n.markSilence(p)
	n.routing.broke = true
	if piped {
		pipe.close() // TCP would notice later; the next one may get through
		pipe = nil
	}
	if relays := n.relaysTo(p, n.relayers(now, len(n.byIndex))); pipe != nil {
		n.sessions.Divert(p.id, overlay.Direct(pipe.addr))
	} else if len(relays) > 0 {
		n.sessions.Divert(p.id, overlay.Relayed(relays[0]))
	}
}

// noteCut notes that what is lost now is so because the path is cut.
func (p *peer) noteCut(now overlay.Instant, out *outbound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path.Cut(now, out.session.Sent())
}

// compare probes some other members when p has fallen silent: whether they answer tells
// if it is p, or the way out.
func (n *node) compare(p *peer) {
	left := compared
	for _, q := range n.byIndex {
		if left == 0 {
			return
		}
		if q == nil || q == p || q.barred || q.asks > 0 || !q.answersUDP() {
			continue
		}
		n.askPeer(q, q.out.Load(), nil)
		left--
	}
}

// deaf says whether nobody seems to be reached by UDP: somebody has been silent for a
// while, and since it was asked no other member was heard from, which had the time to
// answer. It is wrong at times, and costs then a pipe that is soon given up.
func (n *node) deaf(now overlay.Instant) bool {
	var since overlay.Instant
	for _, p := range n.byIndex {
		if p != nil && p.asks > 0 && p.byPort() && now.Sub(p.silent) >= deafAfter {
			since = max(since, p.silent)
		}
	}
	if since == 0 {
		return false
	}
	for _, p := range n.byIndex {
		if p != nil && p.answersUDP() && (p.lastHeard() >= since || now.Sub(since) < 2*p.smoothed()) {
			return false
		}
	}
	return true
}

// smoothed returns the smoothed round trip to the peer, 0 if it isn't known.
func (p *peer) smoothed() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == nil {
		return 0
	}
	rtt, _, _ := p.path.Smoothed()
	return rtt
}
