package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// withRelay adds a second peer, r, to a mirror, by which its peer may be reached.
func withRelay(m *mirror) (r *peer) {
	r = newPeer(overlay.AgentID{2}, 1, m.n.now(), 2)
	r.mtu = measure.NewMTU(m.n.now(), 1500)
	for at := m.n.now(); r.mtu.Size() < 1400; at = at.Add(time.Second) { // smaller ones have no room for a path
		if size, ok := r.mtu.Probe(at, time.Millisecond); ok {
			r.mtu.Acked(at, size)
		}
	}
	r.out.Store(m.peer.out.Load())
	for _, p := range []*peer{m.peer, r} {
		p.state, p.rights = measure.Up, discovery.RightRelay
		m.n.peers[p.id] = p
	}
	m.n.byIndex = []*peer{m.peer, r}
	v := *m.n.view.Load()
	v.byIndex, v.linked = m.n.byIndex, m.n.byIndex
	m.n.view.Store(&v)
	return r
}

// tell makes an agent tell of links to others, 30 ms long.
func tell(n *node, from overlay.AgentID, to ...overlay.AgentID) {
	t := decide.Told{ID: from, At: n.now()}
	for _, id := range to {
		t.Rows = append(t.Rows, discovery.Row{Peer: discovery.BriefOf(id), Pair: measure.Pair{RTT: 30 * time.Millisecond, RTTSource: measure.Measured, MTU: 1500}})
	}
	slices.SortFunc(t.Rows, func(a, b discovery.Row) int {
		if a.Peer < b.Peer {
			return -1
		}
		return 1
	})
	n.routing.told[from] = t
}

// sampled notes a round trip to a peer.
func sampled(n *node, p *peer, rtt time.Duration) {
	now := n.now()
	p.heard(now)
	q := p.path.Probe(now.Add(-rtt))
	p.path.Receive(now, overlay.Probe{Number: q.Number, Echo: q.Number}, true)
}

// Frames take the detour that the routes know, its alternate while it doesn't work, the
// session's way if nothing else does, and none that operators forbid.
func TestDetour(t *testing.T) {
	m := newMirror(t)
	r := withRelay(m)
	p, n := m.peer, m.n
	sampled(n, p, 200*time.Millisecond)
	sampled(n, r, 20*time.Millisecond)
	tell(n, p.id, n.self, r.id)
	tell(n, r.id, n.self, p.id)
	p.sentAt.Store(int64(n.now())) // else no alternate is ready
	n.reroute(n.now())
	by := func(c overlay.Class) *peer {
		if d := p.detour(c); d != nil {
			return d.hop
		}
		return nil
	}
	for c := range overlay.Classes {
		if by(c) != r {
			t.Fatalf("class %d: %+v", c, n.routing.routes.Way(p.id, c))
		}
	}
	d := p.detour(overlay.ClassDelay)
	if want := []overlay.Label{n.label, r.label, p.label}; !slices.Equal(d.path, want) || d.size > 1500-48-overlay.RelayOverhead(3) || d.size < leastSize {
		t.Errorf("%+v", d)
	}
	r.silenced.Store(true)
	if by(overlay.ClassDelay) != nil {
		t.Error("frames go by a member that doesn't answer")
	}
	r.silenced.Store(false)
	d.failed.Store(true)
	if by(overlay.ClassDelay) != nil || by(overlay.ClassBulk) != r {
		t.Error("frames go where others of their class weren't acknowledged")
	}
	d.failed.Store(false)
	p.silenced.Store(true)
	if by(overlay.ClassDelay) != r {
		t.Error("frames leave the detour because there is no way straight")
	}
	r.silenced.Store(true)
	if m.lane.out.begin(p, overlay.ClassBulk) == nil {
		t.Error("nothing is tried")
	}
	m.lane.out.flush()
	p.forbidden.Store(true)
	if m.lane.out.begin(p, overlay.ClassBulk) != nil || n.drops[dropForbidden].Load() != 1 {
		t.Error("frames take a forbidden link")
	}
	r.silenced.Store(false)
	if m.lane.out.begin(p, overlay.ClassBulk) == nil {
		t.Error("a forbidden link keeps frames from going another way")
	}
	m.lane.out.flush()
}

// What members say of paths is taken if it makes sense: of paths that frames take, and of
// members.
func TestNotices(t *testing.T) {
	m := newMirror(t)
	r := withRelay(m)
	p, n := m.peer, m.n
	sampled(n, p, 200*time.Millisecond)
	sampled(n, r, 20*time.Millisecond)
	tell(n, p.id, n.self, r.id)
	tell(n, r.id, n.self, p.id)
	n.reroute(n.now())
	noWay := func(from, about *peer) {
		n.noticed(n.now(), from, overlay.Notice{About: overlay.NoticeNoWay, Label: about.label})
	}
	n.routing.broke = false
	noWay(p, r) // nothing goes by p
	noWay(r, r)
	n.noticed(n.now(), r, overlay.Notice{About: overlay.NoticeNoWay, Label: 7})
	if n.routing.broke || n.drops[dropNotice].Load() != 2 {
		t.Errorf("broken %v, %d dropped", n.routing.broke, n.drops[dropNotice].Load())
	}
	noWay(r, p)
	if !n.routing.broke {
		t.Error("a broken path isn't left")
	}
	n.reroute(n.now().Add(time.Second))
	if p.detour(overlay.ClassDelay) != nil {
		t.Error("frames still go there")
	}
	n.noticed(n.now(), r, overlay.Notice{About: overlay.NoticeWant, Label: p.label})
	if len(n.trains.wanted) != 1 {
		t.Error("a rate that a member waits for isn't measured")
	}
	for range 100 {
		n.noticed(n.now(), r, overlay.Notice{About: overlay.NoticeWant, Label: p.label})
	}
	if len(n.trains.wanted) != 1 {
		t.Error("asking often has more measured")
	}
}

// What frames by a detour are acknowledged by counts for that alone.
func TestDetourIsAccountedApart(t *testing.T) {
	m := newMirror(t)
	p, n := m.peer, m.n
	s := p.out.Load().session
	for range 3 {
		s.SealNudge(overlay.SpaceDelay)
	}
	p.noteRouted(n.now(), &run{class: overlay.ClassDelay, out: p.out.Load(), detour: &detour{}, frames: true})
	in := newInbound(n, 0)
	in.now, in.view, in.at = n.now().Add(5*time.Millisecond), n.view.Load(), &inboundSession{peer: p, session: s}
	a := overlay.Ack{Index: s.LocalIndex(), Highest: overlay.SpaceDelay.Counter(2), Count: 3, Bytes: 100, HoldMicros: 1}
	in.Ack(a)
	if rtt, ok := p.routed[overlay.ClassDelay].path.RTT(in.now); !ok || rtt <= 0 {
		t.Errorf("the detour's round trip is %v", rtt)
	}
	if v := p.pair(in.now); v.RTTSource != measure.Unknown || v.LossKnown || n.drops[dropProbe].Load() != 0 {
		t.Errorf("the way's figures are %+v", v)
	}
	a.Highest = overlay.SpaceBulk.Counter(2) // nothing was sent there
	in.Ack(a)
	a.Highest = overlay.Spaces.Counter(2)
	in.Ack(a)
	if got := n.drops[dropProbe].Load(); got != 2 {
		t.Errorf("%d lies were counted", got)
	}
}

func TestWishes(t *testing.T) {
	for _, c := range []struct {
		o    options
		want wishes
		bad  string
	}{
		{o: options{noTransit: "off"}},
		{o: options{noTransit: "on", transitLimit: "20Mbit", cost: "50ms"}, want: wishes{NoTransit: true, TransitLimit: 20_000, Cost: 50 * time.Millisecond}},
		{o: options{noTransit: "off", links: []string{"attic,cost=20ms,prefer", "hotel,forbid"}}, want: wishes{Links: []linkWish{{Peer: "attic", Cost: 20 * time.Millisecond, Prefer: true}, {Peer: "hotel", Forbid: true}}}},
		{o: options{noTransit: "maybe"}, bad: "--no-transit"},
		{o: options{noTransit: "off", transitLimit: "fast"}, bad: "--transit-limit"},
		{o: options{noTransit: "off", cost: "-1ms"}, bad: "--cost"},
		{o: options{noTransit: "off", cost: "1h"}, bad: "--cost"},
		{o: options{noTransit: "off", links: []string{"attic"}}, bad: "--link"},
		{o: options{noTransit: "off", links: []string{",forbid"}}, bad: "--link"},
		{o: options{noTransit: "off", links: []string{"attic,faster"}}, bad: "faster"},
		{o: options{noTransit: "off", links: []string{"attic,cost=soon"}}, bad: "cost"},
		{o: options{noTransit: "off", links: []string{"attic,prefer,forbid"}}, bad: "preferred and forbidden"},
		{o: options{noTransit: "off", links: make([]string, maxLinkWishes+1)}, bad: "more than"},
	} {
		var got config
		var problems []string
		got.parseWishes(&c.o, func(err error) {
			if err != nil {
				problems = append(problems, err.Error())
			}
		})
		all := strings.Join(problems, "\n")
		if c.bad != "" && !strings.Contains(all, c.bad) || c.bad == "" && (all != "" || got.Wishes.NoTransit != c.want.NoTransit ||
			got.Wishes.TransitLimit != c.want.TransitLimit || got.Wishes.Cost != c.want.Cost || !slices.Equal(got.Wishes.Links, c.want.Links)) {
			t.Errorf("%+v: %+v, problems %q", c.o, got.Wishes, all)
		}
	}
}
