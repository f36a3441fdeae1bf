package agent

import (
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

const (
	// routesGap is how long at least after the routes were found they are found anew
	// because something broke, routesEvery because something may be better; or if that is
	// more, the second ones for each agent there is: among a hundred it takes 6 ms.
	routesGap, gapShare     = 50 * time.Millisecond, 5 * time.Millisecond
	routesEvery, everyShare = time.Second, 50 * time.Millisecond
	// usedFor is how long after frames were sent to a peer it counts as one that is used.
	usedFor = time.Minute
	// noticeEvery is how often a lane tells somebody that a path is broken, at most.
	noticeEvery = 50 * time.Millisecond
	// leastSize is what a route's datagrams must be able to hold.
	leastSize = overlay.DatagramSize
	// assumedMTU is that of links of which nobody tells: what every IPv6 path carries.
	assumedMTU = 1280
)

// routing is what the loop keeps of its routes.
type routing struct {
	routes *decide.Routes
	told   map[overlay.AgentID]decide.Told // parsed once
	found  overlay.Instant                 // when they were
	broke  bool                            // something did since
	wanted map[decide.Hop]overlay.Instant  // when others were asked for what a link carries
	taken  meter                           // what comes by the underlay
	passed meter                           // what is passed on
}

func newRouting(self overlay.AgentID) routing {
	return routing{
		routes: decide.NewRoutes(self), told: make(map[overlay.AgentID]decide.Told),
		wanted: make(map[decide.Hop]overlay.Instant),
	}
}

// noteLinks takes what an agent tells of its links.
func (n *node) noteLinks(id overlay.AgentID) {
	if l, at, ok := n.store.Told(id); ok {
		n.routing.told[id] = decide.Told{ID: id, At: at, Links: l}
	} else {
		delete(n.routing.told, id)
	}
}

// reroute finds the routes anew, if it is time.
func (n *node) reroute(now overlay.Instant) {
	r := &n.routing
	past, agents := now.Sub(r.found), time.Duration(len(n.peers))
	if past < max(routesGap, agents*gapShare) || past < max(routesEvery, agents*everyShare) && !r.broke || n.stun.holds(now) {
		return
	}
	r.found, r.broke = now, false
	r.taken.look(now)
	r.passed.look(now)
	for _, p := range n.peers {
		p.load.look(now)
		p.got.look(now)
		p.carried.look(now)
	}
	r.routes.Update(decide.Input{
		Now: now, Told: n.toldLinks(), Own: n.linksNow(now), Facts: n.ownFacts(now),
		Load: func(id overlay.AgentID) int64 { return n.peers[id].load.rate },
		Used: func(id overlay.AgentID) bool { return n.peers[id].usedSince(now.Add(-usedFor)) },
	})
	n.leadFar(now)
	for _, p := range n.byIndex {
		if p != nil {
			n.markForbidden(p)
			n.lay(p)
		}
	}
	n.wantRates(now)
}

// toldLinks returns what the other members tell that aren't gone.
func (n *node) toldLinks() []decide.Told {
	all := make([]decide.Told, 0, len(n.peers))
	for id, p := range n.peers {
		if p.state == measure.Gone || p.barred || p.member.Left {
			continue
		}
		t, ok := n.routing.told[id]
		if !ok {
			t.ID = id
		}
		t.NoTransit = t.NoTransit || !p.rights.Has(discovery.RightRelay)
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b decide.Told) int { return a.ID.Compare(b.ID) })
	return n.joined(all)
}

// linksNow returns the links of this agent that work now, ascending.
func (n *node) linksNow(now overlay.Instant) []discovery.Link {
	var links []discovery.Link
	for _, p := range n.view.Load().linked {
		if p.state == measure.Up && !p.cut && p.direct() {
			v := p.pair(now)
			links = append(links, discovery.Link{Peer: p.id, Pair: v, Intent: n.intent(v, p)})
		}
	}
	return links
}

// carries returns what a path can carry now in all, 0 if that isn't known: what little
// traffic shows is no rate that a path has.
func carries(v measure.Pair) int64 {
	rate := v.Capacity
	if v.CapacityBound && v.CapacitySource != measure.Train {
		rate = 0
	}
	if v.Available > 0 && !v.AvailableBound && (rate == 0 || v.Available < rate) {
		rate = v.Available
	}
	return rate
}

// usedSince says whether frames were sent to the peer since an instant.
func (p *peer) usedSince(since overlay.Instant) bool {
	at := p.sentAt.Load()
	for c := range p.detours {
		if r := p.detours[c].Load(); r != nil {
			at = max(at, r.sentAt.Load())
		}
	}
	return overlay.Instant(at) >= since
}

// lay makes the ways to a peer those that its frames take.
func (n *node) lay(p *peer) {
	for c := range p.detours {
		class := overlay.Class(c)
		way := n.routing.routes.Way(p.id, class)
		var other *detour
		if way.Alternate != nil {
			other = n.detourOf(way.Alternate, nil, assumedMTU)
		}
		next := n.detourOf(way.Path, other, assumedMTU)
		if p.far && p.bypass.ids != nil && class == overlay.ClassDelay {
			next = n.detourOf(p.bypass.ids, nil, n.mtu(n.self, p.id, assumedMTU)) // whose access both have
		}
		old := p.detours[c].Load()
		if same(old, next) {
			continue
		}
		if old != nil && next != nil && slices.Equal(old.ids, next.ids) {
			next.sentAt.Store(old.sentAt.Load())
			next.failed.Store(old.failed.Load())
		} else {
			p.mu.Lock()
			if x := p.routed[c].path; x != nil {
				x.Moved()
				x.Heard(n.now()) // of the new one nothing is known
			}
			p.mu.Unlock()
		}
		p.detours[c].Store(next)
	}
}

// same says whether two routes lead frames the same way.
func same(a, b *detour) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.hop == b.hop && a.size == b.size && slices.Equal(a.ids, b.ids) && same(a.other, b.other)
}

// detourOf returns the detour along a path, or what else is to be taken if frames can't go
// along it; nil stands for the session's way. Links of which nobody tells have the MTU untold.
func (n *node) detourOf(path decide.Path, other *detour, untold int) *detour {
	if len(path) < 2 {
		return other
	}
	r := &detour{ids: path, other: other}
	if len(path) == 2 {
		if other == nil {
			return nil
		}
		return r
	}
	mtu := overlay.MaxDatagram
	for i, id := range path {
		p := n.peers[id]
		if p == nil && i > 0 && (i == 1 || !isAlias(id)) {
			return other
		}
		if i == 1 {
			r.hop = p
		}
		if r.path = append(r.path, labelOf(id)); i > 0 {
			mtu = min(mtu, n.mtu(path[i-1], id, untold))
		}
	}
	r.around = overlay.RelayOverhead(len(r.path)) + packetOverhead6
	r.size = mtu - r.around
	if r.size < leastSize {
		return other
	}
	return r
}

// packetOverhead6 is what IPv6 and UDP headers take, which is more than those of IPv4.
const packetOverhead6 = 40 + 8

// mtu returns that of the path from one member to another, untold if that isn't known.
func (n *node) mtu(from, to overlay.AgentID, untold int) int {
	if p := n.peers[to]; from == n.self && p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.mtu != nil {
			return p.mtu.Size()
		}
		return untold
	}
	backbone, _, _ := n.store.Backbone(from)
	for _, rows := range [][]discovery.Row{n.routing.told[from].Rows, backbone.Rows} {
		if i, ok := slices.BinarySearchFunc(rows, discovery.BriefOf(to), compareRow); ok && rows[i].MTU > 0 {
			return rows[i].MTU
		}
	}
	return untold
}

// detourFailed finds other routes than one whose frames aren't acknowledged: one of its links
// is broken, and its members didn't say which.
func (n *node) detourFailed(now overlay.Instant, p *peer, r *detour) {
	n.log.Debug("route failed", "to", p.member.Name, "hops", len(r.ids)-1)
	if p.far && slices.Equal(r.ids, p.bypass.ids) {
		n.shun(now, p.bypass.gateway)
	}
	for i := 2; i < len(r.ids); i++ {
		n.routing.routes.Broken(now, decide.Hop{From: r.ids[i-1], To: r.ids[i]})
	}
	n.routing.broke = true
}

// noticed takes what a member says of paths.
func (n *node) noticed(now overlay.Instant, from *peer, x overlay.Notice) {
	about := n.labelled(x.Label)
	if about == nil || about == from {
		n.drops.add(dropNotice)
		return
	}
	switch x.About {
	case overlay.NoticeWant:
		n.wantCapacity(about)
	case overlay.NoticeNoWay:
		if n.takes(from.id, about.id) && n.routing.routes.Broken(now, decide.Hop{From: from.id, To: about.id}) {
			n.log.Debug("path broken", "at", from.member.Name, "to", about.member.Name)
			n.routing.broke = true
		}
	}
}

// takes says whether frames of this agent go from one member to another.
func (n *node) takes(from, to overlay.AgentID) bool {
	for _, p := range n.peers {
		for c := range p.detours {
			for r := p.detours[c].Load(); r != nil; r = r.other {
				if i := slices.Index(r.ids, from); i > 0 && i+1 < len(r.ids) && r.ids[i+1] == to {
					return true
				}
			}
		}
	}
	return false
}

// labelled returns the peer with a label, nil if there is none, or two.
func (n *node) labelled(l overlay.Label) (found *peer) {
	for _, p := range n.peers {
		if p.label == l {
			if found != nil {
				return nil
			}
			found = p
		}
	}
	return found
}

// tellNoWay tells who chose a path that this agent can't pass datagrams on to the next on it.
func (in *inbound) tellNoWay(r overlay.Transit, next overlay.Label) {
	p := in.view.byLabel[r.Sender()]
	if p == nil || in.now.Sub(in.noticed) < noticeEvery {
		return
	}
	n := in.n
	in.noticed = in.now
	n.mail.offer(func(overlay.Instant) { n.tellNotice(p, overlay.Notice{About: overlay.NoticeNoWay, Label: next}) })
}

func (n *node) tellNotice(p *peer, x overlay.Notice) {
	out := p.out.Load()
	if out == nil {
		return
	}
	b := overlay.AppendNotice(make([]byte, overlay.HeaderLen, 64), x)
	if d := out.session.Seal(overlay.KindProbe, 0, b); d != nil {
		_ = n.post(n.ask, out, d, len(d))
	}
}

// wantEvery is how often another agent is asked for what its link carries.
const wantEvery = 20 * time.Second

// wantRates has the rates measured that decisions wait for.
func (n *node) wantRates(now overlay.Instant) {
	for h, at := range n.routing.wanted {
		if now.Sub(at) >= wantEvery {
			delete(n.routing.wanted, h)
		}
	}
	for h := range n.routing.routes.Wants {
		from, to := n.peers[h.From], n.peers[h.To]
		if h.From == n.self && to != nil {
			n.wantCapacity(to)
		}
		if from == nil || to == nil || n.routing.wanted[h] != 0 {
			continue
		}
		if rate, known := n.toldRate(h); known && rate > 0 {
			continue
		}
		n.routing.wanted[h] = now
		n.tellNotice(from, overlay.Notice{About: overlay.NoticeWant, Label: to.label})
	}
}

// toldRate returns what is left of a link as its agent tells it.
func (n *node) toldRate(h decide.Hop) (rate int64, ok bool) {
	for _, r := range n.routing.told[h.From].Rows {
		if r.Peer == discovery.BriefOf(h.To) {
			return r.Left, true
		}
	}
	return 0, false
}

// markSilence says to the lanes whether a peer can be reached directly.
func (n *node) markSilence(p *peer) { p.silenced.Store(p.cut || p.state != measure.Up) }
