package agent

import (
	"errors"
	"slices"
	"syscall"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// The numbers of probes that aren't counted. A reply has none.
const (
	// directProbe is for probes that try an address: a reply that comes directly proves
	// that datagrams pass both ways, and turns the way.
	directProbe = overlay.ProbeSpecial + iota
	// punchNumber is for probes that say, by way of the member that relays: I have
	// opened sockets, try.
	punchNumber
	// sizeProbe is for probes that ask only whether their size arrives.
	sizeProbe
)

// probe sends a probe that isn't counted, in a datagram of at least size bytes.
func (n *node) probe(out *outbound, number uint32, size int) error {
	return n.sendProbe(out, overlay.Probe{Number: number}, size)
}

// askPeer probes a peer, and returns the probe's number. Its round trip goes to waiter,
// unless that is nil.
func (n *node) askPeer(p *peer, out *outbound, waiter chan<- time.Duration) (number uint32) {
	p.mu.Lock()
	q := p.path.Probe(n.now())
	p.await(probeKey{overlay.SpaceWay, q.Number}, waiter)
	p.mu.Unlock()
	if in := n.view.Load().sessions[out.session.LocalIndex()]; in != nil {
		in.tell(&q)
	}
	_ = n.sendProbe(out, q, 0)
	return q.Number
}

func (n *node) sendProbe(out *outbound, q overlay.Probe, size int) error {
	b := make([]byte, overlay.HeaderLen, max(size, probeSpace))
	b = overlay.AppendProbe(b, q, false)
	if pad := size - overlay.TagLen - len(b); pad > 0 {
		b = b[:len(b)+pad]
	}
	d := out.session.Seal(overlay.KindProbe, 0, b)
	if d == nil {
		return nil
	}
	return n.post(n.ask, out, d, len(d))
}

// probeSpace is more than a probe or a reply takes.
const probeSpace = 128

// tell says in a probe or reply what was received of the session.
func (s *inboundSession) tell(q *overlay.Probe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	highest, count := s.receivers[overlay.SpaceWay].Counts()
	q.Highest, q.Count = uint32(highest), uint32(count)
}

// watched is how many peers an agent probes each second, however many there are. The
// others share what is left of the probes.
const watched = 8

// chooseWatched decides whom to watch of the peers with a session, which are in the order
// of their ids: those with whom the agent keeps links; where links aren't chosen, whom it
// would measure; and before it knows that, its neighbours in that order.
func (n *node) chooseWatched(linked []*peer) {
	next := 0
	for next < len(linked) && linked[next].id.Compare(n.self) < 0 {
		next++
	}
	for i, p := range linked {
		p.candidate = slices.Contains(n.linking.named, p.id) || n.area.gate != nil && slices.Contains(n.area.gate.named, p.id)
		switch {
		case n.linking.chosen:
			p.watched = n.linking.watches(p.id) || n.onBackbone(p.id)
		case n.own.watched != nil:
			p.watched = slices.Contains(n.own.watched, p.id)
		default:
			p.watched = measure.NearInRing(i, next, len(linked), watched/2)
		}
	}
}

// probeEvery returns how often a peer is probed that answers.
func (n *node) probeEvery(now overlay.Instant, p *peer) time.Duration {
	if moved := n.roaming.moved; moved != 0 && now.Sub(moved) < roamFor {
		return roamProbe
	}
	peers := len(n.view.Load().linked)
	if n.warm.sparse {
		peers = len(n.peers) // as often as if there were a session with each
	}
	every := measure.ProbeEvery(peers, watched, p.watched)
	if p.candidate {
		return min(every, candidateEvery)
	}
	return every
}

// fathomEvery is how often the search for a path's MTU is looked after: much more
// often than a probe is waited for, and much less than the loop turns when many
// agents start at once.
const fathomEvery = 50 * time.Millisecond

// fathomRate is how many searches begin a second, after fathomBurst at once, for
// peers that nothing is sent to yet. Fifty agents that started together and
// searched all at once took 20 s to find each other instead of 9.
const (
	fathomRate  = 5
	fathomBurst = 8
)

// fathom finds out what the MTU of the path to a peer is.
func (n *node) fathom(now overlay.Instant, p *peer, out *outbound) {
	header := out.around
	p.mu.Lock()
	if size := int(p.tooBig.Swap(0)); size != 0 {
		p.mtu.TooBig(now, size+header)
	}
	if at := overlay.Instant(p.filled.Swap(0)); at != 0 {
		p.mtu.Used()
	}
	rtt, _, _ := p.path.Smoothed()
	tries := 0
	for ; ; tries++ {
		size, ok := p.mtu.Probe(now, rtt)
		if !ok {
			break
		}
		p.path.Excuse(now, 1, out.session.Sent()+1)
		if err := n.probe(out, sizeProbe, size-header); errors.Is(err, syscall.EMSGSIZE) {
			p.mtu.TooBig(now, size)
		}
	}
	size := p.mtu.Size() - header
	// A search that follows one that failed proves nothing until it finds something.
	failed := p.mtu.State() == measure.MTUFailed || p.mtu.State() == measure.MTUSearching && out.fragment && size <= out.size
	p.mu.Unlock()
	if out.relay != nil {
		out.relay.excuse(now, tries) // its session's datagrams are around them
	}
	if size != out.size || failed != out.fragment {
		n.log.Debug("path MTU", "peer", p.member.Name, "mtu", size+header, "fragmented", failed)
		next := *out
		next.size, next.fragment = size, failed
		p.out.Store(&next)
	}
}
