package agent

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
)

// Broadcasts reach each of many agents' ports once, and the origin sends no more copies than
// it has links. Stations are learned at the origin.
func TestBroadcastsGoDownTrees(t *testing.T) {
	c := newChorus(t, 20)
	c.settle(8)
	c.sing()
	for i, n := range c.nodes {
		s := n.spread.now.Load()
		if !s.chosen || s.direct != 0 || len(s.own) > len(n.linking.kept) {
			t.Fatalf("%d sends to %d of %d links, %d directly", i, len(s.own), len(n.linking.kept), s.direct)
		}
	}
	const rounds, each = 3, 3 + 1 // and a claim of its station
	for range rounds {
		c.reachAll("settled", c.all()...)
	}
	c.onlyOnce()
	copies, passed := 0, 0
	for i, n := range c.nodes {
		s := n.spread.now.Load()
		if got, want := n.spread.copies.Load(), uint64(each*len(s.own)); got != want || n.spread.sent.Load() != each {
			t.Errorf("%d sent %d copies of %d broadcasts to %d", i, got, n.spread.sent.Load(), len(s.own))
		}
		copies, passed = copies+int(n.spread.copies.Load()), passed+int(n.spread.passed.Load())
		if v := n.drops.views(); len(v) > 0 {
			t.Errorf("%d dropped %v", i, v)
		}
		for j := range c.nodes {
			if at, ok := n.sw.Stations.Lookup(n.now(), c.mac(j)); i != j && (!ok || at != c.peer(i, j).place()) {
				t.Errorf("%d learned the station of %d at %x, %v", i, j, at, ok)
			}
		}
	}
	if want := each * len(c.nodes) * (len(c.nodes) - 1); copies+passed != want {
		t.Errorf("%d copies in all, want %d: one for each who gets it", copies+passed, want)
	}
	t.Logf("an origin sends %.1f copies of a broadcast to %d agents, which pass %.1f on", float64(copies)/float64(each*len(c.nodes)), len(c.nodes)-1, float64(passed)/float64(each*len(c.nodes)))
}

// leaveOut has a link of a node left out of what its two ends tell, both of which keep so many,
// and says whether there was one.
func (c *chorus) leaveOut(i, least int) bool {
	n := c.nodes[i]
	was, out := slices.Clone(n.linking.kept), false
	for _, k := range was {
		m := c.nodes[c.index[k.Peer]]
		if len(was) > least && len(m.linking.kept) > least {
			n.linking.kept = slices.DeleteFunc(slices.Clone(was), func(x decide.Kept) bool { return x.Peer == m.self })
			m.linking.kept = slices.DeleteFunc(slices.Clone(m.linking.kept), func(x decide.Kept) bool { return x.Peer == n.self })
			m.own.rows.Again()
			m.tellLinks(c.now)
			out = true
			break
		}
	}
	n.own.rows.Again()
	n.tellLinks(c.now)
	return out
}

// While agents learn one after the other that links changed, nobody misses a broadcast, and
// nobody gets one twice.
func TestBroadcastsMeetChanges(t *testing.T) {
	c := newChorus(t, 18)
	c.settle(8)
	c.sing()
	changes := 0
	for round := range 4 {
		if c.leaveOut((round*7)%len(c.nodes), 3) {
			changes++
		}
		for _, i := range c.order(round) {
			c.now = c.now.Add(60 * time.Millisecond)
			c.shareWith(i)
			c.learn(i)
			c.reachAll(fmt.Sprintf("round %d, %d has learned", round, i), (i+1)%len(c.nodes), (i+5)%len(c.nodes), i)
		}
		c.now = c.now.Add(formerFor)
		for i := range c.nodes {
			c.learn(i)
		}
	}
	c.onlyOnce()
	again := uint64(0)
	for _, n := range c.nodes {
		again += n.drops.count(overlay.DropAgain)
	}
	if changes == 0 || again == 0 {
		t.Errorf("%d links changed, %d datagrams came twice: nothing was tried", changes, again)
	}
	t.Logf("%d links changed; of %d broadcasts %d copies came twice and were dropped", changes, c.last, again)
}

// At the end of an epoch many links change one after the other. Who learns nothing of it for
// a while misses no broadcast, and nobody misses its own.
func TestBroadcastsMeetManyChanges(t *testing.T) {
	c := newChorus(t, 18)
	c.settle(8)
	c.sing()
	changes, late := 0, 12
	for changes <= 2*maxPlaces && !t.Failed() && c.leaveOut((late+7*changes)%len(c.nodes), 2) {
		changes++
		c.now = c.now.Add(100 * time.Millisecond)
		for i := range c.nodes {
			if i != late {
				c.shareWith(i)
				c.learn(i)
			}
		}
		c.reachAll(fmt.Sprintf("change %d", changes), c.all()...)
	}
	c.onlyOnce()
	if changes <= maxPlaces {
		t.Errorf("%d links changed: nothing was tried", changes)
	}
}

// order returns all nodes in some order.
func (c *chorus) order(seed int) (all []int) {
	for i := range c.nodes {
		all = append(all, (i*5+seed*3)%len(c.nodes))
	}
	return all
}

// shareWith hands one node what all tell.
func (c *chorus) shareWith(i int) {
	m := c.nodes[i]
	for _, n := range c.nodes {
		if r, ok := n.store.Record(n.self, discovery.KindLinks); ok && n != m {
			m.store.Load(m.wall(), [][]byte{r.Bytes()})
			m.noteLinks(n.self)
		}
	}
}

// cut has what two nodes send each other directly get lost.
func (c *chorus) cut(a, b int) {
	c.t.Helper()
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = sink.Close() })
	for _, p := range []*peer{c.peer(a, b), c.peer(b, a)} {
		out := *p.out.Load()
		out.way = overlay.Direct(sink.LocalAddr().(*net.UDPAddr).AddrPort())
		p.out.Store(&out)
	}
	rtt := c.rtt
	c.rtt = func(x, y int) time.Duration {
		if min(x, y) == min(a, b) && max(x, y) == max(a, b) {
			return 0
		}
		return rtt(x, y)
	}
}

// A link of a tree breaks: as soon as its ends notice, broadcasts go round it, and once they
// told so the trees do without it.
func TestBroadcastsGoRoundCuts(t *testing.T) {
	c := newChorus(t, 18)
	c.settle(8)
	c.sing()
	c.reachAll("before", c.all()...)
	a := 2
	b := c.index[c.nodes[a].spread.now.Load().own[0].id]
	for _, n := range c.nodes {
		n.reroute(c.now)
	}
	c.cut(a, b)
	first := c.broadcast(a)
	if m := c.missing(first, a, 200*time.Millisecond); !slices.Contains(m, b) {
		t.Errorf("a broadcast over a link that is cut misses %v", m)
	}
	c.now = c.now.Add(time.Second)
	for _, e := range [][2]int{{a, b}, {b, a}} {
		n, p := c.nodes[e[0]], c.peer(e[0], e[1])
		p.cut = true
		n.markSilence(p)
		n.routing.broke = true
		n.reroute(c.now)
	}
	c.reachAll("noticed", c.all()...)
	c.settle(2)
	for _, i := range []int{a, b} {
		for label, branch := range c.nodes[i].spread.now.Load().of {
			if other := c.peer(i, a+b-i); slices.Contains(branch.children, other) || slices.Contains(branch.parents, other) {
				t.Errorf("%d still uses the link in the tree of %x", i, label)
			}
		}
	}
	c.reachAll("told", c.all()...)
	c.onlyOnce()
}

// Who isn't in the tree gets broadcasts from the origin itself, and sends its own to all.
func TestBroadcastsOfNewcomers(t *testing.T) {
	c := newChorus(t, 18)
	newcomer := 7
	rtt := c.rtt
	c.rtt = func(a, b int) time.Duration { // it has no links
		if a == newcomer || b == newcomer {
			return 0
		}
		return rtt(a, b)
	}
	c.settle(8)
	c.sing()
	n := c.nodes[newcomer]
	if s := n.spread.now.Load(); s.direct != len(c.nodes)-1 && s.chosen {
		t.Fatalf("the newcomer sends to %d, %d of them directly", len(s.own), s.direct)
	}
	c.reachAll("a newcomer is there", c.all()...)
	c.rtt = rtt
	c.run(3)
	for _, i := range c.order(1) {
		c.learn(i)
		c.reachAll(fmt.Sprintf("the newcomer has links, and %d knows", i), newcomer, i, (i+3)%len(c.nodes))
	}
	c.settle(0)
	if s := n.spread.now.Load(); s.direct != 0 || len(s.own) == 0 || len(s.own) > 12 {
		t.Errorf("the newcomer sends to %d, %d of them directly", len(s.own), s.direct)
	}
	c.reachAll("the newcomer has links", c.all()...)
	c.onlyOnce()
}

// To flood, and to pass on what others flooded, allocates nothing.
func TestFloodDoesNotAllocate(t *testing.T) {
	c := newChorus(t, 17)
	c.settle(8)
	node, origin := -1, -1 // the node passes on what the origin sends it
	for i, n := range c.nodes {
		for _, b := range n.spread.now.Load().of {
			if len(b.children) > 1 && b.parents[0] == b.origin {
				node, origin = i, c.index[b.origin.id]
			}
		}
	}
	if node < 0 {
		t.Fatal("nobody passes anything on")
	}
	frames := make([]overlay.Frame, 20)
	for i := range frames {
		frames[i].Head = ethernet(overlay.Broadcast, c.mac(origin), 300)
	}
	from, by := c.lanes[origin], c.lanes[node]
	turn := func() {
		from.out.carry(from.n.now(), from.n.view.Load(), 0, frames)
		for want := by.n.spread.passed.Load() + 2; by.n.spread.passed.Load() < want; {
			if err := by.poll.Wait(time.Second, false); err != nil {
				t.Fatal(err)
			}
			if _, err := by.turn(by.n.now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 5 {
		turn()
	}
	if n := testing.AllocsPerRun(40, turn); n != 0 { // of fewer than a station may flood at once
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
	for _, l := range c.lanes {
		_ = l.poll.Close()
	}
}

// BenchmarkFlood tells what a broadcast of a small frame among fifty agents costs its origin,
// and how long it takes until the last one has it: a copy to each, and down the tree.
func BenchmarkFlood(b *testing.B) {
	const count = 50
	c := newChorus(b, count)
	c.settle(8)
	c.sing()
	n := c.nodes[0]
	for _, m := range []struct {
		name   string
		chosen bool
	}{{"each", false}, {"tree", true}} {
		b.Run(m.name, func(b *testing.B) {
			s := *n.spread.now.Load()
			s.chosen = m.chosen
			n.spread.now.Store(&s)
			sum := func() (bytes int64) {
				for _, p := range n.peers {
					bytes += p.carried.bytes.Load()
				}
				return bytes
			}
			before, missed := sum(), 0
			for b.Loop() {
				missed += len(c.missing(c.broadcast(0), 0, time.Second))
			}
			b.ReportMetric(float64(sum()-before)/float64(b.N), "origin-B/op")
			b.ReportMetric(float64(missed)/float64(b.N), "missed/op")
		})
	}
}
