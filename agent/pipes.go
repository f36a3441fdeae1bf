package agent

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/measure"
	"farlan/overlay"
)

// Where no UDP passes, this agent's datagrams ride pipes through TCP to some
// members, and these relay them to the others. Who can't send UDP opens the pipe;
// the other side uses it because it is there. UDP is tried all the while, as it is
// for members that are reached by way of others.
const (
	// pipePatience is how long a member is connected by TCP, so QUIC has failed, and
	// none answers by UDP before a pipe is opened; cutPatience is the same without a
	// connection by TCP, for agents whose handshakes take their time. When UDP is
	// cut that was there, there is no wait.
	pipePatience = 300 * time.Millisecond
	udpPatience  = 3 * time.Second
	// carriers is how many members carry for this agent: one, and one for when that
	// one ends. More are there only to reach who has pipes to others.
	carriers    = 2
	maxCarriers = 8
	// pipeAgain is the least time between tries to open a pipe to a member; it
	// doubles up to pipeAgainMax.
	pipeAgain    = time.Second
	pipeAgainMax = time.Minute
	// pipeLinger is how long UDP must have passed before a pipe is given up.
	pipeLinger = 3 * time.Second
)

// A peerPipe is what the loop knows of the pipe to a member.
type peerPipe struct {
	is      *byway // nil: none
	opening bool
	fails   int
	again   overlay.Instant // when it may be opened
	idle    overlay.Instant // since when the member answers by UDP, 0 it doesn't
}

// pipes is what the loop knows of all of them.
type pipes struct {
	looked overlay.Instant
	cut    overlay.Instant // since when no member answers by UDP, 0 some do
	had    bool            // some did before
}

// end closes the pipe, if there is one.
func (p *peerPipe) end() {
	if p.is != nil {
		p.is.close()
	}
}

// answersUDP says whether a member answers by UDP, as far as is known.
func (p *peer) answersUDP() bool {
	return p.state == measure.Up && p.byPort() && !p.cut
}

// mindPipes opens the pipes that are needed and gives up those that aren't.
func (n *node) mindPipes(now overlay.Instant) {
	if now.Sub(n.pipes.looked) < tick {
		return
	}
	n.pipes.looked = now
	some, others := false, false
	for _, p := range n.byIndex {
		if p == nil || p.barred {
			continue
		}
		others = true
		answers := p.answersUDP()
		some = some || answers
		switch {
		case !answers:
			p.pipe.idle = 0
		case p.pipe.idle == 0:
			p.pipe.idle = now
		case p.pipe.is != nil && p.pipe.is.opened && now.Sub(p.pipe.idle) >= pipeLinger:
			p.pipe.is.close()
		}
	}
	switch {
	case some:
		n.pipes.cut, n.pipes.had = 0, true
	case others && n.pipes.cut == 0:
		n.pipes.cut = now
	}
	if others && (!some || n.deaf(now)) {
		for _, p := range n.wantPipes(now) {
			n.openPipe(now, p)
		}
	}
}

// wantPipes returns the members to have pipes to: those that are connected by TCP,
// in the order of their ids, so that agents of one kind choose the same; without
// any, those that answered last; and those that have a link to whom nobody else
// reaches. Members that may relay come first: they carry to the others.
func (n *node) wantPipes(now overlay.Instant) (want []*peer) {
	have := 0
	var ready, rest []*peer
	for _, p := range n.byIndex {
		switch {
		case p == nil || p.barred:
		case p.pipe.is != nil || p.pipe.opening:
			have++
		case now.Before(p.pipe.again):
		case n.control.connected[p.id] && n.p2p.Transport(p.id) == p2p.TCP:
			ready = append(ready, p)
		default:
			rest = append(rest, p)
		}
	}
	slices.SortFunc(ready, func(a, b *peer) int { return cmp.Or(a.unfit()-b.unfit(), a.id.Compare(b.id)) })
	slices.SortFunc(rest, func(a, b *peer) int {
		return cmp.Or(a.unfit()-b.unfit(), cmp.Compare(b.lastHeard(), a.lastHeard()), a.id.Compare(b.id))
	})
	since := time.Duration(0)
	if n.pipes.cut != 0 {
		since = now.Sub(n.pipes.cut)
	}
	cut := n.pipes.had && now.Sub(n.roaming.moved) >= roamFor // else it may soon be found again
	if cut || since >= udpPatience {
		ready = append(ready, rest...)
	}
	if cut || since >= pipePatience {
		want = append(want, ready[:min(len(ready), max(carriers-have, 0))]...)
	}
	if have > 0 && have < maxCarriers && len(want) == 0 {
		want = n.linkedTo(n.unreached(now))
	}
	return want
}

// unfit returns 1 if the peer may not relay, else 0.
func (p *peer) unfit() int {
	if p.rights.Has(discovery.RightRelay) {
		return 0
	}
	return 1
}

// lastHeard returns when something came from the peer directly, 0 never.
func (p *peer) lastHeard() overlay.Instant {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == nil {
		return 0
	}
	return p.path.LastHeard()
}

// unreached returns a member that has been out of reach for a while, but not for long,
// nil if there is none.
func (n *node) unreached(now overlay.Instant) *peer {
	for _, p := range n.byIndex {
		if p != nil && !p.barred && now.Sub(p.known) >= time.Second && p.isMissed(now) {
			return p
		}
	}
	return nil
}

// isMissed says whether a peer is wanted and doesn't answer, or hasn't for long.
func (p *peer) isMissed(now overlay.Instant) bool {
	switch p.state {
	case measure.Up:
		return false
	case measure.Idle:
		return p.warmth != cold
	}
	return now.Sub(p.since) < time.Minute
}

// linkedTo returns a member to which no pipe is, that has a link to p and may relay.
func (n *node) linkedTo(p *peer) []*peer {
	if p == nil {
		return nil
	}
	links, _ := n.store.Links(p.id)
	for _, l := range links {
		q := n.peers[l.Peer]
		if q != nil && !q.barred && q.pipe.is == nil && !q.pipe.opening && !q.direct() && q.unfit() == 0 {
			return []*peer{q}
		}
	}
	return nil
}

// openPipe opens a pipe to p, unless a try is under way or failed a moment ago.
func (n *node) openPipe(now overlay.Instant, p *peer) {
	if p.pipe.is != nil || p.pipe.opening || now.Before(p.pipe.again) {
		return
	}
	addrs := n.reachable(p.member.Addrs)
	p.pipe.opening = true
	p.pipe.again = now.Add(min(pipeAgain<<min(p.pipe.fails, 10), pipeAgainMax))
	n.spawn("pipe", func(ctx context.Context) error {
		err := n.p2p.OpenPipe(ctx, p.id, addrs)
		n.mail.put(func(overlay.Instant) {
			p.pipe.opening = false
			if err != nil {
				p.pipe.fails++
				n.log.Debug("no pipe", "name", p.member.Name, "error", err)
			}
		})
		return nil
	})
}

// piped uses a new pipe: who opened it can't be reached otherwise, as far as it
// knows.
func (n *node) piped(now overlay.Instant, b *byway) {
	p := n.peers[b.peer]
	if p == nil || p.barred {
		b.close() // it is opened again, when we know the member
		return
	}
	n.log.Info("datagrams go through TCP", "name", p.member.Name, "to", b.remote, "opened", b.opened)
	p.pipe.is, p.pipe.fails, p.pipe.idle = b, 0, 0
	n.contact(now, p)
	switch out := p.out.Load(); {
	case out == nil:
		n.sessions.Renew(now, p.id)
	case !b.opened || !p.answersUDP() || n.deaf(now):
		n.sessions.Divert(p.id, overlay.Direct(b.addr))
	}
}

// unpiped does without a pipe that has ended.
func (n *node) unpiped(now overlay.Instant, b *byway) {
	p := n.peers[b.peer]
	if p == nil || p.pipe.is != b {
		return
	}
	n.log.Info("the way through TCP has ended", "name", p.member.Name)
	p.pipe.is = nil
	n.contact(now, p)
	out := p.out.Load()
	if out == nil || out.way != overlay.Direct(b.addr) {
		return
	}
	if relays := n.relaysTo(p, n.relayers(now, len(n.byIndex))); len(relays) > 0 {
		n.sessions.Divert(p.id, overlay.Relayed(relays[0]))
	}
	n.sessions.Renew(now, p.id)
}

// contact tells the sessions where a member may be reached.
func (n *node) contact(now overlay.Instant, p *peer) {
	addrs := n.reachable(p.member.Addrs)
	if p.pipe.is != nil {
		addrs = append(addrs[:min(len(addrs), overlay.MaxAddrs-1)], p.pipe.is.addr)
	}
	if err := n.sessions.Know(now, p.id, p.member.SessionKey, addrs); err != nil {
		n.log.Warn("member not contacted", "name", p.member.Name, "error", err)
	}
}

// transportTo returns by what the datagrams to p leave, and their address, not valid
// for those that others relay.
func (n *node) transportTo(out *outbound) (by string, addr netip.AddrPort) {
	addr = out.way.Addr
	if out.relay != nil {
		if hop := out.hop(); hop != nil {
			by, _ = n.transportTo(hop)
			return by, netip.AddrPort{}
		}
		return "udp", netip.AddrPort{}
	}
	if isByway(addr.Addr()) {
		by := "udp"
		if isStream(addr) {
			by = "stream"
		}
		if b := n.byways.at(addr); b != nil {
			return by, b.remote
		}
		return by, netip.AddrPort{}
	}
	return "udp", addr
}
