package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

// A choir is nodes that run no network: what they tell and ask each other is handed on, and
// what they measure is said.
type choir struct {
	t     testing.TB
	nodes []*node
	index map[overlay.AgentID]int
	now   overlay.Instant
	epoch int64
	mail  []func()
	known discovery.Archive            // what one has verified the others needn't
	rtt   func(a, b int) time.Duration // 0: they don't reach each other
}

// firstEpoch is always the same, and so are the turns that agents take.
const firstEpoch = 1000

// newChoir has them on a line, each next a millisecond away.
func newChoir(t testing.TB, count int) *choir {
	t.Helper()
	c := &choir{t: t, index: make(map[overlay.AgentID]int), epoch: firstEpoch}
	c.rtt = func(a, b int) time.Duration {
		return time.Duration(max(a-b, b-a))*time.Millisecond + 5*time.Millisecond
	}
	var key discovery.NetworkKey
	copy(key[:], "a network's key of thirty-two byt")
	for i := range count {
		own := identity{key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize))}
		name := string(rune('A' + i))
		n := newNode(&config{Name: name}, slog.New(slog.DiscardHandler), discovery.NewKeyring(discovery.NewNetwork(key, discovery.AdminPublic{})), own, discovery.Credential{})
		n.store.Share(&c.known)
		n.linking.send = func(to overlay.AgentID, msg []byte) {
			peer := c.nodes[c.index[to]]
			if from := peer.peers[n.self]; from != nil && c.rtt(i, c.index[to]) > 0 {
				c.mail = append(c.mail, func() { peer.requested(c.now, from, msg) })
			}
		}
		c.nodes, c.index[n.self] = append(c.nodes, n), i
	}
	for i, n := range c.nodes {
		v := &view{}
		for _, m := range c.nodes {
			if m == n {
				continue
			}
			p := n.meet(n.now(), m.self)
			p.heard(n.now())
			p.member.Name, p.state, p.rights = m.cfg.Name, measure.Up, discovery.RightRelay
			p.out.Store(&outbound{way: overlay.Direct(netip.MustParseAddrPort("192.0.2.1:4747"))})
			v.linked = append(v.linked, p)
		}
		slices.SortFunc(v.linked, func(a, b *peer) int { return a.id.Compare(b.id) })
		n.view.Store(v)
		body := must(discovery.Member{Name: n.cfg.Name, SessionKey: [32]byte{1}, Addrs: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1)}}.Append(nil))
		n.sign(discovery.KindMember, body)
	}
	c.now = c.nodes[0].now()
	c.share()
	return c
}

// share hands on what all tell.
func (c *choir) share() {
	for _, n := range c.nodes {
		for _, kind := range []discovery.Kind{discovery.KindMember, discovery.KindLinks} {
			r, ok := n.store.Record(n.self, kind)
			for _, m := range c.nodes {
				if !ok || m == n {
					continue
				}
				if bad := m.store.Load(m.wall(), [][]byte{r.Bytes()}); bad != 0 {
					c.t.Fatalf("%s of %s wasn't taken", kind, n.cfg.Name)
				}
				if kind == discovery.KindLinks {
					m.noteLinks(n.self)
				}
			}
		}
	}
}

// measure has all measure the round trips to all that they reach.
func (c *choir) measure() {
	for i, n := range c.nodes {
		for _, p := range n.peers {
			rtt := c.rtt(i, c.index[p.id])
			if p.state = measure.Up; rtt == 0 {
				p.state = measure.Suspect
				continue
			}
			p.mu.Lock()
			q := p.path.Probe(c.now)
			p.path.Receive(c.now.Add(rtt), overlay.Probe{Echo: q.Number}, true)
			p.mu.Unlock()
		}
	}
}

// run lets epochs pass.
func (c *choir) run(epochs int) {
	for range epochs {
		c.measure()
		for _, n := range c.nodes {
			n.chooseLinks(c.now, c.epoch)
		}
		for len(c.mail) > 0 {
			first := c.mail[0]
			c.mail = c.mail[1:]
			first()
		}
		c.now = c.now.Add(decide.Epoch / 2)
		for _, n := range c.nodes {
			n.tellLinks(c.now)
		}
		c.share()
		c.now, c.epoch = c.now.Add(decide.Epoch/2), c.epoch+1
	}
}

// whole says whether links hold all nodes together, and fails if one has too many or the ends
// don't agree.
func (c *choir) whole() bool {
	reached, queue := map[overlay.AgentID]bool{c.nodes[0].self: true}, []*node{c.nodes[0]}
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		for _, k := range n.linking.kept {
			m := c.nodes[c.index[k.Peer]]
			if back := m.linking.link(n.self); back == nil {
				c.t.Errorf("%s keeps a link with %s, which doesn't", n.cfg.Name, m.cfg.Name)
			}
			if !reached[k.Peer] {
				reached[k.Peer] = true
				queue = append(queue, m)
			}
		}
	}
	return len(reached) == len(c.nodes)
}

// Many agents agree on few links, which hold all of them together; these they probe each
// second and tell, with why.
func TestLinksAreChosen(t *testing.T) {
	c := newChoir(t, 40)
	c.run(12)
	if !c.whole() {
		t.Error("links don't hold all together")
	}
	links, reasons := 0, map[string]int{}
	for _, n := range c.nodes {
		kept := n.linking.kept
		if links += len(kept); len(kept) > 12 || !n.linking.chosen {
			t.Errorf("%s has %d links", n.cfg.Name, len(kept))
		}
		told, _, _ := n.store.Told(n.self)
		for _, k := range kept {
			if !n.peers[k.Peer].watched {
				t.Errorf("%s doesn't watch %s", n.cfg.Name, n.peers[k.Peer].member.Name)
			}
			if !slices.ContainsFunc(told.Rows, func(r discovery.Row) bool { return r.Peer == discovery.BriefOf(k.Peer) && r.Kept() }) {
				t.Errorf("%s doesn't tell of its link with %s", n.cfg.Name, n.peers[k.Peer].member.Name)
			}
		}
		own := n.linksView(c.now, true).Links
		if len(own) != len(kept) {
			t.Errorf("%s shows %d links of %d", n.cfg.Name, len(own), len(kept))
		}
		for _, l := range own {
			for why := range strings.SplitSeq(l.Reason, "; ") {
				why, _, _ = strings.Cut(why, ":")
				if strings.HasPrefix(why, "held by ") {
					why = "held by the other"
				}
				reasons[why]++
			}
			if l.Reason == "" || len(l.HeldBy) == 0 || l.From != n.cfg.Name {
				t.Errorf("%+v", l)
			}
		}
	}
	first, agreed := c.nodes[0].linking.agreed, 0
	for _, n := range c.nodes {
		if *n.linking.agreed == *first {
			agreed++
		}
	}
	if agreed != len(c.nodes) {
		t.Errorf("%d of %d agents see the same", agreed, len(c.nodes))
	}
	shown := c.nodes[0].linksView(c.now, false).Links
	t.Logf("%d agents keep %.1f links each; own reasons: %v; %d rows are shown", len(c.nodes), float64(links)/float64(len(c.nodes)), reasons, len(shown))
	if len(shown) != links || reasons["ring"] == 0 || reasons["shorter ways"] == 0 || links > 10*len(c.nodes) {
		t.Errorf("%d of %d links shown, for %v", len(shown), links, reasons)
	}
}

// Few agents have a link each with each.
func TestFewLinksAreAll(t *testing.T) {
	c := newChoir(t, 16)
	c.run(3)
	for _, n := range c.nodes {
		if len(n.linking.kept) != 15 || n.linking.chosen {
			t.Errorf("%s keeps %d links", n.cfg.Name, len(n.linking.kept))
		}
		for _, l := range n.linksView(c.now, false).Links {
			if l.Reason != fewAgents || len(l.HeldBy) != 1 {
				t.Errorf("%+v", l)
			}
		}
	}
	if got := len(c.nodes[0].linksView(c.now, false).Links); got != 16*15 {
		t.Errorf("%d links shown", got)
	}
}

// A link that breaks is given up, and others hold the agents together; operators' wishes
// are respected, and traffic gets its link.
func TestLinksFollow(t *testing.T) {
	c := newChoir(t, 20)
	loner, friend, foe := c.nodes[3], c.nodes[17], c.nodes[4]
	loner.cfg.Wishes.Links = []linkWish{{Peer: friend.cfg.Name, Prefer: true}, {Peer: foe.cfg.Name, Forbid: true}}
	busy, sink := c.nodes[0], c.nodes[19]
	for range 15 {
		busy.peers[sink.self].load.rate = 20_000_000
		busy.peers[sink.self].got.rate = 30_000_000
		c.run(1)
	}
	if k := loner.linking.link(friend.self); k == nil {
		t.Error("no link where one is preferred")
	} else if why := loner.why(k, loner.peers[friend.self], ""); !strings.Contains(why, "preferred by the operator") {
		t.Errorf("the preferred link is there for: %s", why)
	}
	if loner.linking.link(foe.self) != nil || foe.linking.link(loner.self) != nil {
		t.Error("a link where one is forbidden")
	}
	if k := busy.linking.link(sink.self); k == nil {
		t.Error("no link for much traffic")
	} else {
		t.Logf("where there is much traffic: %s", busy.why(k, busy.peers[sink.self], "sink"))
	}
	cut := c.index[c.nodes[7].linking.kept[0].Peer]
	rtt := c.rtt
	c.rtt = func(a, b int) time.Duration {
		if min(a, b) == min(7, cut) && max(a, b) == max(7, cut) {
			return 0
		}
		return rtt(a, b)
	}
	c.run(8)
	if c.nodes[7].linking.link(c.nodes[cut].self) != nil || !c.whole() {
		t.Error("a link that broke is kept, or the others don't hold all together")
	}
}

// What an epoch takes doesn't hold up the loop of an agent among many; what comes meanwhile
// is looked at afterwards.
func TestLinksBesideLoop(t *testing.T) {
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("agent-%03d", i))
	}
	w := newMapWorld(t, names...)
	n := w.n
	n.sign(discovery.KindMember, must(discovery.Member{Name: "self", SessionKey: [32]byte{1}}.Append(nil)))
	var work func(context.Context) error
	n.spawn = func(_ string, f func(context.Context) error) { work = f }
	answers := 0
	n.linking.send = func(overlay.AgentID, []byte) { answers++ }
	began := time.Now()
	n.chooseLinks(n.now(), decide.EpochOf(n.wall()))
	t.Logf("among %d agents an epoch takes %v of the loop", len(names)+1, time.Since(began))
	if work == nil || !n.linking.working {
		t.Fatal("decided in the loop")
	}
	from := n.peers[w.id("agent-007")]
	for range 2 * maxLate {
		n.requested(n.now(), from, []byte{1, 1, 0, 1, 2})
	}
	if answers != 0 || len(n.linking.late) != maxLate {
		t.Errorf("%d answers, %d requests wait", answers, len(n.linking.late))
	}
	began = time.Now()
	if err := work(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Logf("and beside it %v", time.Since(began))
	for _, e := range n.mail.take() {
		e(n.now())
	}
	if n.linking.working || !n.linking.chosen || answers == 0 || n.linking.late != nil {
		t.Errorf("afterwards: %d answers, %d requests wait", answers, len(n.linking.late))
	}
	drops := n.drops[dropRequest].Load()
	n.requested(n.now(), from, []byte{1})
	if n.drops[dropRequest].Load() != drops+1 {
		t.Error("a request that makes no sense isn't counted")
	}
}

// An agent that starts anew goes on to tell of the links that it kept, and takes them up.
func TestLinksRemembered(t *testing.T) {
	c := newChoir(t, 20)
	c.run(8)
	old := c.nodes[5]
	kept, leaves := slices.Clone(old.linking.kept), make(map[overlay.AgentID]bool)
	for _, k := range kept {
		leaves[k.Peer] = c.nodes[c.index[k.Peer]].linking.link(old.self).Leaving
	}
	old.linking = linking{links: decide.NewLinks(old.self), send: old.linking.send}
	old.rememberLinks()
	if len(old.linking.former) != len(kept) {
		t.Fatalf("%d of %d links remembered", len(old.linking.former), len(kept))
	}
	old.own.rows.Again()
	old.tellLinks(c.now)
	c.share()
	c.run(1)
	for _, k := range kept {
		if !k.Leaving && !leaves[k.Peer] && old.linking.link(k.Peer) == nil {
			t.Errorf("the link with %s isn't kept any more", old.peers[k.Peer].member.Name)
		}
	}
}

// Of more than can choose links together some do, the same ones at all, and go to areas. For the
// others it is as it was before there were any choices.
func TestTooManyToChoose(t *testing.T) {
	for _, c := range []struct {
		others int
		chosen bool
		common string
		links  int
	}{
		{mesh.MaxAgents, true, "", 0}, // it is not the one too many
		{mesh.MaxAgents * 3 / 2, false, tooMany, mesh.MaxAgents * 3 / 2},
	} {
		var names []string
		for i := range c.others {
			names = append(names, fmt.Sprintf("agent-%04d", i))
		}
		w := newMapWorld(t, names...)
		n := w.n
		n.sign(discovery.KindMember, must(discovery.Member{Name: "self", SessionKey: [32]byte{1}}.Append(nil)))
		n.spawn = func(_ string, f func(context.Context) error) { _ = f(context.Background()) }
		if n.common() != undecided {
			t.Errorf("before: %q", n.common())
		}
		for i := range int64(3) {
			if area, _ := n.store.Area(); area != 0 {
				t.Errorf("%d others: in area %d after %d epochs", c.others, area, i)
			}
			n.chooseLinks(n.now(), decide.EpochOf(n.wall())+i)
			for _, e := range n.mail.take() {
				e(n.now())
			}
			if n.linking.working || n.linking.chosen != c.chosen || (n.linking.agreed != nil) != c.chosen || n.common() != c.common || len(n.linksView(n.now(), true).Links) != c.links {
				t.Errorf("%d others: links are there as %q", c.others, n.common())
			}
		}
		if area, _ := n.store.Area(); (area != 0) != c.chosen {
			t.Errorf("%d others: in area %d", c.others, area)
		}
	}
}

// Requests go to peers sealed, and what they answer comes back so.
func TestRequestsAreSealed(t *testing.T) {
	m := newMirror(t)
	n := m.n
	n.sendRequest(m.peer.id, []byte{1, 1, 0, 7, 2}) // nobody of that name
	n.peers[m.peer.id] = m.peer
	var answer []byte
	n.linking.send = func(to overlay.AgentID, msg []byte) {
		if answer = msg; to != m.peer.id {
			t.Errorf("%s is answered", to)
		}
	}
	n.sendRequest(m.peer.id, []byte{1, 1, 0, 7, 2})
	m.probes(t)
	for _, e := range n.mail.take() {
		e(n.now())
	}
	if want := []byte{1, 3, 0, 7, 0}; !bytes.Equal(answer, want) {
		t.Errorf("answered with %v, want %v: not now", answer, want)
	}
	m.peer.out.Store(nil)
	n.sendRequest(m.peer.id, []byte{1, 1, 0, 7, 2}) // is lost
}
