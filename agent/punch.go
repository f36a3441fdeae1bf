package agent

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

// A NAT that takes another outside port for every destination (endpoint-dependent
// mapping, RFC 4787 section 4.1) and one that lets in only whom it has sent to keep
// two members apart: the first one's port can't be told before it has sent, and what
// it sends isn't let in. They meet by the birthday method: the first one's agent
// sends from many sockets, which are as many ports of its NAT's; the other one's
// agent, whose port is known, sends to many ports there. A datagram that finds one of
// the sockets goes through both NATs. With 256 sockets of 64,512 ports, 1,024 tries
// do so with probability 1 − (1 − 256/64512)^1024 = 98.3 %, and half of the times the
// first 174 do. (The method and its odds: D. Anderson, "How NAT traversal works",
// 2020, section "NAT notes for nerds".) Where ports are given in sequence, the first
// tries find one, as they are next to the port that others have seen.
//
// What the NATs bear: 256 sockets are as many of the mappings that a symmetric NAT gives
// one host; 1,024 tries are as many entries, for 30 s each, in the table of a NAT that
// filters by port. A home router of 128 MB that runs Linux has 8,192 (its buckets are its
// memory / 16384, as many are its entries: the kernel's nf_conntrack-sysctl).
//
// The socket that was found carries the frames to that member from then on: it is a
// byway. The other agent uses its port as ever. Which of the two an agent is it knows
// when two members see it, and tells in its record; until then it takes both parts. Two
// agents that are known to have such a NAT each don't try.
const (
	punchSockets = 256
	punchTries   = 1024
	// Tries go out in bursts, over four fifths of a second: 1,280 a second, each of
	// some 100 bytes, are 1 Mbit/s.
	punchBurst = 64
	punchPause = 50 * time.Millisecond
	// punchFor is how long the sockets are open at most: the other agent needs a round
	// trip to hear of them, and as long as its tries take. punchLeast is how long they
	// are when one is found: of several the other agent then chooses.
	punchFor   = 2500 * time.Millisecond
	punchLeast = 500 * time.Millisecond
	// punchPatience is how long a member must have been reached by way of another:
	// plain tries from both sides, which begin at once, take a round trip or two.
	punchPatience = 300 * time.Millisecond
	// punchesTo is how often in punchWindow this agent opens sockets to an address or
	// tries its ports, maxPunches how often to all. The address is what a member says
	// that it has: one that names a stranger's makes this agent send there 4,096
	// datagrams of 100 bytes a minute at most, and not more for having many names.
	punchesTo   = 4
	maxPunches  = 16
	punchWindow = time.Minute
)

// punchAgain is how long after a first, second … try to meet a member the next one
// follows; the last one is for all that follow. Mappings may be full, or the NAT
// another one meanwhile.
var punchAgain = [...]time.Duration{3 * time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}

// A peerPunch is what the loop knows of tries to meet a member.
type peerPunch struct {
	relayed overlay.Instant // since when it is reached by way of another, 0 it isn't
	tries   int
	next    overlay.Instant
	asked   overlay.Instant // when the member asked for that, 0 it is done
	sprays  int             // how often this agent has tried its ports
	respray overlay.Instant // not before it does again
}

// punches is what the loop knows of all of them.
type punches struct {
	looked   overlay.Instant
	hurried  overlay.Instant // when the news of how others see this agent was told at once
	mapped   overlay.Instant // … and what the NAT does looked at
	limit    punchLimit
	opened   bool // sockets for one member, for some time
	spraying bool // tries for one member, for some time
	sides    []*side
}

// A punchLimit bounds what is sent to meet members: it remembers the last tries, at most
// maxPunches. The zero value is ready.
type punchLimit struct {
	last []punchTry // oldest first
}

type punchTry struct {
	at overlay.Instant
	to netip.Addr
}

// allow says whether there may be a try at an address now, and takes it for made.
func (l *punchLimit) allow(now overlay.Instant, to netip.Addr) bool {
	l.last = slices.DeleteFunc(l.last, func(t punchTry) bool { return now.Sub(t.at) >= punchWindow })
	there := 0
	for _, t := range l.last {
		if t.to == to {
			there++
		}
	}
	if there >= punchesTo || len(l.last) >= maxPunches {
		return false
	}
	l.last = append(l.last, punchTry{now, to})
	return true
}

// mindPunches begins to meet members that can be reached only by way of others, one
// at a time, and closes sockets that nothing comes by.
func (n *node) mindPunches(now overlay.Instant) {
	u := &n.punches
	if now.Sub(u.looked) < tick {
		return
	}
	u.looked = now
	u.sides = slices.DeleteFunc(u.sides, func(s *side) bool {
		idle := now.Sub(overlay.Instant(s.heard.Load())) >= sideIdle
		if idle {
			_ = s.conn.Close()
		}
		return idle
	})
	for _, p := range n.byIndex {
		if p == nil {
			continue
		}
		q := &p.punch
		out := p.out.Load()
		switch {
		case out == nil || p.barred || p.state != measure.Up || n.pipes.cut != 0:
			q.relayed = 0
		case out.relay == nil:
			q.relayed, q.tries, q.sprays = 0, min(q.tries, 1), min(q.sprays, 1)
		case q.relayed == 0:
			q.relayed = now
			n.tryDirectly(now, p, directSoon)
		case now.Sub(q.relayed) >= punchPatience && !now.Before(q.next) && !u.opened:
			if n.punch(now, p, out) {
				q.next = now.Add(punchAgain[min(q.tries, len(punchAgain)-1)])
				q.tries++
			}
		}
		if q.asked != 0 && (n.spray(now, p) || now.Sub(q.asked) >= punchFor/2) {
			q.asked = 0
		}
	}
}

// outside returns those of a member's addresses that may be its NAT's: all of one host.
func (n *node) outside(p *peer) (all []netip.AddrPort) {
	for _, a := range n.reachable(p.member.Addrs) {
		if a.Addr().Is4() && public(a) && len(all) < maxReflexive && (len(all) == 0 || a.Addr() == all[0].Addr()) {
			all = append(all, a)
		}
	}
	return all
}

// punch opens sockets to a member, if this agent's port may be another one for
// everybody and the member's isn't known to be, and tells the member. It says whether it
// does: where the member is may be told a moment later.
func (n *node) punch(now overlay.Instant, p *peer, out *outbound) bool {
	const varied = discovery.MappingByDestination
	to := n.outside(p)
	mayVary := n.mapping == varied || n.mapping == discovery.MappingUnknown
	if len(to) == 0 || !mayVary || p.member.Mapping == varied || len(n.punches.sides) >= maxSides || !n.punches.limit.allow(now, to[0].Addr()) {
		return false
	}
	d := n.sealTry(p, out)
	if d == nil {
		return false
	}
	n.punches.opened = true
	n.log.Debug("meeting a member from many sockets", "name", p.member.Name)
	n.spawn("punch", func(ctx context.Context) error {
		sides := n.openSides(ctx, p.id, to[0], d)
		n.mail.put(func(now overlay.Instant) {
			if out := p.out.Load(); out != nil && len(sides) > 0 {
				_ = n.probe(out, punchNumber, 0)
			}
		})
		wait(ctx, punchLeast)
		for waited := punchLeast; waited < punchFor && !p.direct() && ctx.Err() == nil; waited += punchPause {
			wait(ctx, punchPause)
		}
		n.log.Debug("sockets for a member", "name", p.member.Name, "opened", len(sides), "found", p.direct())
		lucky := keepSides(sides, p.out.Load(), ctx.Err() == nil)
		if !n.mail.put(func(overlay.Instant) {
			n.punches.opened = false
			n.punches.sides = append(n.punches.sides, lucky...)
		}) {
			keepSides(lucky, nil, false)
		}
		return nil
	})
	return true
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// sealTry returns a probe that tries a way as a datagram, nil if the session is over.
func (n *node) sealTry(p *peer, out *outbound) []byte {
	p.excuse(n.now(), 1)
	b := overlay.AppendProbe(make([]byte, overlay.HeaderLen, probeSpace), overlay.Probe{Number: directProbe}, false)
	return out.session.Seal(overlay.KindProbe, 0, b)
}

// invited takes it that a member has opened sockets for this agent.
func (n *node) invited(now overlay.Instant, p *peer) {
	p.punch.asked = now
	if n.spray(now, p) {
		p.punch.asked = 0
	}
}

// spray tries to find one of the sockets that a member has opened to this agent. It does
// so as often as the member would open some, and not oftener if that asks for more. It
// says whether it does.
func (n *node) spray(now overlay.Instant, p *peer) bool {
	out := p.out.Load()
	if out == nil || out.byPort() || n.punches.spraying || n.mapping == discovery.MappingByDestination {
		return false
	}
	to := n.outside(p)
	if len(to) == 0 || now.Before(p.punch.respray) || !n.punches.limit.allow(now, to[0].Addr()) {
		return false
	}
	p.punch.respray = now.Add(punchAgain[min(p.punch.sprays, len(punchAgain)-1)] * 3 / 4)
	p.punch.sprays++
	n.punches.spraying = true
	n.log.Debug("trying the ports of a member", "name", p.member.Name, "at", to[0])
	n.spawn("spray", func(ctx context.Context) error {
		send := n.sender(func(s *link.Port) *link.Writer { return s.Probe.Writer() })
		for ports := range slices.Chunk(guesses(to), punchBurst) {
			if out = p.out.Load(); out == nil || out.byPort() || ctx.Err() != nil {
				break
			}
			d := n.sealTry(p, out)
			for _, a := range ports {
				if d != nil {
					_ = send(a, d, len(d))
				}
			}
			wait(ctx, punchPause)
		}
		n.mail.put(func(overlay.Instant) { n.punches.spraying = false })
		return nil
	})
	return true
}

// guesses returns punchTries endpoints where a NAT may have put the sockets of somebody
// that others see at some addresses of one: behind the ports that they see, where
// ports are given in sequence, and then any.
func guesses(seen []netip.AddrPort) []netip.AddrPort {
	const first, ports = 1024, 1<<16 - 1024 // RFC 4787 REQ-3 leaves out the well-known
	all := make([]netip.AddrPort, 0, punchTries)
	had := make(map[netip.AddrPort]bool)
	add := func(a netip.Addr, port int) {
		g := netip.AddrPortFrom(a, uint16(first+(port-first)%ports))
		if !had[g] && len(all) < punchTries {
			had[g] = true
			all = append(all, g)
		}
	}
	for _, a := range seen {
		for i := 1; i <= 32; i++ { // the next ports
			add(a.Addr(), max(int(a.Port()), first)+i)
		}
		for i := 2; i <= 32; i++ { // 256 sockets in a row, further on
			add(a.Addr(), max(int(a.Port()), first)+i*32)
		}
	}
	for len(all) < punchTries {
		add(seen[rand.IntN(len(seen))].Addr(), first+rand.IntN(ports))
	}
	return all
}

// readdressed tries the new addresses of a member at once: they are as others see
// it, perhaps, and while it tries ours each opens its NAT for the other.
func (n *node) readdressed(now overlay.Instant, p *peer) {
	switch out := p.out.Load(); {
	case out == nil:
		n.sessions.Renew(now, p.id)
	case !out.byPort():
		n.tryDirectly(now, p, 0)
	}
}
