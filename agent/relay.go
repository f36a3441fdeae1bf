package agent

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// Members that can't exchange datagrams directly do it by way of another one,
// and try again and again whether they can. Which one relays is decided by the
// sender: the member that says it has a link to the destination, and by which
// the round trip is the shortest.

const (
	// directEvery is how often a member that is reached by way of another is
	// tried directly. Both sides do so, which opens the way through most NATs.
	directEvery = 2 * time.Second
	// directSoon is how long after that at least it is tried again because the
	// member's own try came through.
	directSoon = 200 * time.Millisecond
	// metFor is how long members that were just met are looked after metEvery: then an
	// agent that nobody can reach directly is waited for. There may be many, so only
	// the metRelays nearest members are asked to relay.
	metFor    = 5 * time.Second
	metEvery  = 200 * time.Millisecond
	metRelays = 16
	// maxRunBytes is what one call sends at most: an IP packet's length.
	maxRunBytes = 65507
)

var errNoRelay = errors.New("the agent that should relay can't be reached")

// direct says whether frames to the peer go to it directly.
func (p *peer) direct() bool {
	out := p.out.Load()
	return out != nil && out.relay == nil
}

// via returns the agent that relays frames to the peer, the zero one if none does.
func (p *peer) via() overlay.AgentID {
	if out := p.out.Load(); out != nil && out.relay != nil {
		return out.relay.id
	}
	return overlay.AgentID{}
}

// hop returns how to reach the agent that relays, nil if it can't be.
func (o *outbound) hop() *outbound {
	if hop := o.relay.out.Load(); hop != nil && hop.relay == nil {
		return hop
	}
	return nil
}

// pathTo returns the names of the agents on the way to p, both ends included.
func (n *node) pathTo(p *peer, names map[overlay.AgentID]string) []string {
	path := []string{names[n.self]}
	if out := p.out.Load(); out != nil && out.relay != nil {
		path = append(path, namesOf(out.between, names)...)
	}
	return append(path, names[p.id])
}

// lead says in o how its datagrams get to p.
func (n *node) lead(p *peer, o *outbound) {
	if o.way.IsDirect() {
		o.around = packetOverhead(o.way.Addr)
		return
	}
	o.between = n.relayPath(o.way.Via, p)
	if o.relay = n.peers[o.between[0]]; o.relay == nil {
		o.relay = newPeer(o.way.Via, -1, 0, 0) // it was forgotten: nothing gets through
	}
	o.path = []overlay.Label{n.label}
	for _, id := range o.between {
		o.path = append(o.path, labelOf(id))
	}
	o.path = append(o.path, p.label)
	o.around = overlay.RelayOverhead(len(o.path)) + packetOverhead(netip.AddrPortFrom(netip.IPv6Unspecified(), 0))
	if hop := o.hop(); hop != nil {
		o.around = overlay.RelayOverhead(len(o.path)) + hop.around
	}
}

// post sends datagrams the way of out. It is for the node's loop.
func (n *node) post(send sendFunc, out *outbound, b []byte, segment int) (err error) {
	if out.relay == nil {
		return send(out.way.Addr, b, segment)
	}
	hop := out.hop()
	if hop == nil {
		return errNoRelay
	}
	n.relayed, err = n.relay(send, hop, out.path, n.relayed, b, segment)
	return err
}

// relay sends a run of datagrams by way of the agent that hop reaches. scratch is
// returned, as it may have grown.
func (n *node) relay(send sendFunc, hop *outbound, path []overlay.Label, scratch, b []byte, segment int) ([]byte, error) {
	return n.relayBy(send, hop, 0, path, scratch, b, segment)
}

// relayBy is relay by a reservation that the agent which hop reaches calls by a number.
func (n *node) relayBy(send sendFunc, hop *outbound, number byte, path []overlay.Label, scratch, b []byte, segment int) ([]byte, error) {
	lane := byte(overlay.LaneDelay)
	if kind, _ := overlay.ParseKind(b); kind == overlay.KindData {
		lane = overlay.Lane(b)
	}
	long := segment + overlay.RelayOverhead(len(path))
	scratch = scratch[:0]
	var failed error
	for len(b) > 0 {
		d := b[:min(segment, len(b))]
		b = b[len(d):]
		next := overlay.AppendReserved(scratch, hop.session, lane, number, path, d)
		if next == nil {
			return scratch, errNoRelay
		}
		if scratch = next; len(b) == 0 || len(scratch)+long > maxRunBytes {
			failed = cmp.Or(send(hop.way.Addr, scratch, long), failed)
			scratch = scratch[:0]
		}
	}
	return scratch, failed
}

// handshake sends a message of a handshake.
func (n *node) handshake(to overlay.AgentID, way overlay.Way, d []byte) {
	if way.IsDirect() {
		_ = n.shake(way.Addr, d, len(d))
		return
	}
	if p := n.peers[to]; p != nil {
		o := &outbound{way: way}
		n.lead(p, o)
		_ = n.post(n.shake, o, d, len(d))
	}
}

// relaying is when the loop looked for members that relay.
type relaying struct {
	looked overlay.Instant
	all    overlay.Instant // for all members
}

// lookForRelays looks after the members that can't be reached directly; between two
// looks at all of them, after those that were met a moment ago.
func (n *node) lookForRelays(now overlay.Instant) {
	if now.Sub(n.relaying.looked) < metEvery {
		return
	}
	n.relaying.looked = now
	met := now.Sub(n.relaying.all) < controlEvery
	if !met {
		n.relaying.all = now
	}
	var all []relayer // made when the first one needs it
	for _, p := range n.byIndex {
		if p == nil || p.barred || met && now.Sub(p.known) >= metFor {
			continue
		}
		if p.out.Load() == nil && (p.warmth == cold || p.forOthers) {
			continue
		}
		if p.direct() && p.state == measure.Up {
			n.tryDirectly(now, p, directEvery)
			continue
		}
		if all == nil {
			most := len(n.byIndex)
			if met {
				most = metRelays
			}
			all = n.relayers(now, most)
		}
		relays := n.relaysTo(p, all)
		n.sessions.Relays(p.id, relays)
		n.divert(p, relays)
		n.tryDirectly(now, p, directEvery)
	}
}

// divert takes the way by way of the best relay if the one that is taken doesn't
// answer.
func (n *node) divert(p *peer, relays []overlay.AgentID) {
	out := p.out.Load()
	if out == nil || len(relays) == 0 {
		return
	}
	dead := p.state != measure.Up
	if out.relay != nil {
		dead = out.hop() == nil || out.relay.state != measure.Up || dead && out.way.Via == relays[0]
		if dead && out.way.Via == relays[0] {
			relays = relays[1:]
		}
	}
	if dead && len(relays) > 0 {
		n.sessions.Divert(p.id, overlay.Relayed(relays[0]))
	}
}

// tryDirectly probes the addresses of a member that is reached by way of another, or
// by a byway, unless it did so a moment ago.
func (n *node) tryDirectly(now overlay.Instant, p *peer, every time.Duration) {
	out := p.out.Load()
	if out == nil || out.byPort() || now.Sub(p.tried) < every {
		return
	}
	p.tried = now
	for _, a := range n.reachable(p.member.Addrs) {
		n.tryAddress(now, p, out, a)
	}
}

func (n *node) tryAddress(now overlay.Instant, p *peer, out *outbound, a netip.AddrPort) {
	p.excuse(now, 1)
	_ = n.probe(&outbound{session: out.session, way: overlay.Direct(a)}, directProbe, 0)
}

// tried tries a member whose own try has come through: there, where it came from,
// which the member itself may not know, and at its addresses.
func (n *node) tried(now overlay.Instant, p *peer, from netip.AddrPort) {
	if out := p.out.Load(); out != nil && !out.byPort() && now.Sub(p.echoed) >= directSoon && !isStream(from) {
		p.echoed = now
		n.tryAddress(now, p, out, from)
	}
	n.tryDirectly(now, p, directSoon)
}

// A relayer is a member that can be asked to relay.
type relayer struct {
	id    overlay.AgentID
	rtt   time.Duration
	links []discovery.Link
}

// relayers returns the nearest members that are reached directly, most at most, the
// nearest first.
func (n *node) relayers(now overlay.Instant, most int) []relayer {
	all := []relayer{}
	for _, q := range n.byIndex {
		if q == nil || q.state != measure.Up || !q.direct() || !q.rights.Has(discovery.RightRelay) {
			continue
		}
		q.mu.Lock()
		rtt, _ := q.path.RTT(now)
		q.mu.Unlock()
		all = append(all, relayer{id: q.id, rtt: rtt})
	}
	slices.SortFunc(all, func(a, b relayer) int { return cmp.Or(cmp.Compare(a.rtt, b.rtt), a.id.Compare(b.id)) })
	all = all[:min(len(all), most)]
	for i := range all {
		all[i].links, _ = n.store.Links(all[i].id)
	}
	return all
}

// relaysTo returns those of all that can relay to p, the best first: with a link to
// it, which one of the two tells of, in the order of the round trip, or else the first on
// the route to it, then the nearest that may have a link.
func (n *node) relaysTo(p *peer, all []relayer) []overlay.AgentID {
	own, _ := n.store.Links(p.id)
	type linked struct {
		id  overlay.AgentID
		rtt time.Duration
	}
	var best []linked
	for _, r := range all {
		l, ok := linkTo(r.links, p.id)
		if !ok {
			l, ok = linkTo(own, r.id)
		}
		if ok && r.id != p.id {
			best = append(best, linked{r.id, r.rtt + l.RTT})
		}
	}
	slices.SortStableFunc(best, func(a, b linked) int { return cmp.Compare(a.rtt, b.rtt) })
	relays := make([]overlay.AgentID, 0, overlay.MaxRelays)
	if between := n.routeTo(p); len(best) == 0 && len(between) > 0 {
		relays = append(relays, between[0])
	}
	for _, l := range best[:min(len(best), overlay.MaxRelays)] {
		relays = append(relays, l.id)
	}
	for _, r := range all {
		if len(relays) < overlay.MaxRelays && r.id != p.id && !slices.Contains(relays, r.id) {
			relays = append(relays, r.id)
		}
	}
	return relays
}

// linkTo returns the one of links, which are sorted by peer, that leads to an agent.
func linkTo(links []discovery.Link, id overlay.AgentID) (l discovery.Link, ok bool) {
	i, ok := slices.BinarySearchFunc(links, id, func(l discovery.Link, id overlay.AgentID) int { return l.Peer.Compare(id) })
	if ok {
		l = links[i]
	}
	return l, ok
}

// A passing is a run of datagrams that a lane passes on: part of what one read took.
type passing struct {
	hop        *outbound
	passage    *passage // nil: none
	class      overlay.Class
	data       []byte
	start, end int
	segment    int
}

// transit takes datagram d, which a member sent to this agent by way of others, or
// to another one by way of this; at is where it lies in what was read.
func (in *inbound) transit(d []byte, at int) {
	front := overlay.TransitFront(d)
	if front == nil || in.hop != nil {
		in.n.drops.add(dropMalformed)
		return
	}
	s := in.view.sessions[overlay.ReceiverIndex(d)]
	if s == nil {
		in.n.drops.add(dropNoKeys)
		return
	}
	space, counter := overlay.SpaceOf(overlay.Counter(d))
	if _, ok := s.session.Open(front); !ok {
		in.n.drops.add(dropForged)
		return
	}
	s.mu.Lock()
	s.receivers[space].Counted(counter, 1, len(d), 0)
	s.mu.Unlock()
	s.peer.heardAt.Store(int64(in.now))
	r, ok := overlay.ParseTransit(d)
	if !ok || r.Here() != in.n.label {
		in.n.drops.add(dropMalformed)
		return
	}
	if next, more := r.Next(); more {
		in.pass(s.peer, r, next, d, at)
		return
	}
	if !s.relays {
		in.n.drops.add(dropNoRelay)
		return
	}
	in.note(0) // of those before, which came another way
	in.hop, in.path = s, r.Back(in.path[:0])
	in.datagram(r.Inner(), 0)
	in.note(0)
	in.hop, in.path = nil, in.path[:0]
}

// pass passes a datagram of a peer's on to the agent with a label.
func (in *inbound) pass(from *peer, r overlay.Transit, next overlay.Label, d []byte, at int) {
	p := in.view.byLabel[next]
	if p == nil || in.by == nil {
		in.tellNoWay(r, next)
		in.n.drops.add(dropNoRelay)
		return
	}
	class := overlay.ClassBulk
	if overlay.Lane(d)&overlay.LaneDelay != 0 {
		class = overlay.ClassDelay
	}
	hop := p.out.Load()
	if hop == nil && p.onDemand.Load() {
		in.n.call(p, in.n.demandToRelay)
	}
	if p.silenced.Load() || hop == nil || hop.relay != nil {
		in.tellNoWay(r, next)
	}
	bytes := 0
	if hop != nil {
		bytes = len(d) + packetOverhead(hop.way.Addr)
	}
	if in.limit != nil && in.limit.Wait(in.now, int64(bytes)) > 0 {
		in.n.drops.add(dropTransit)
		return
	}
	by, number := in.reservedPassage(from, p, r.Reservation(), bytes)
	if hop == nil || hop.relay != nil || !r.Pass(hop.session, number) {
		in.n.drops.add(dropNoRelay)
		return
	}
	if in.limit != nil {
		in.limit.Take(in.now, int64(bytes))
	}
	p.carried.add(bytes)
	in.n.routing.passed.add(bytes)
	run := &in.passing
	if run.hop != hop || run.class != class || run.passage != by || run.end != at || run.end-run.start >= maxRunBytes-run.segment {
		in.passOn()
		*run = passing{hop, by, class, in.data, at, at, len(d)}
		p.sentAt.Store(int64(in.now)) // a relay notices that the next one is silent, and says so
	}
	run.end = at + len(d)
}

// passOn sends what is to be passed on.
func (in *inbound) passOn() {
	run := &in.passing
	if run.hop != nil {
		send := in.by[run.class]
		if run.passage != nil {
			send = run.passage.send[in.lane].send
		}
		if err := send(run.hop.way.Addr, run.data[run.start:run.end], run.segment); err != nil {
			in.n.drops.add(dropNoRelay)
		}
	}
	*run = passing{}
}
