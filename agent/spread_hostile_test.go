package agent

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/overlay/route"
)

// say has one node send another a datagram that claims to be of an origin, after some links,
// with frames of the numbers given.
func (c *chorus) say(from, to int, origin overlay.Label, number uint64, links int, frames ...uint64) {
	c.t.Helper()
	d := c.spoken(from, to, origin, number, links, frames...)
	if err := c.nodes[from].ask(c.peer(from, to).out.Load().way.Addr, d, len(d)); err != nil {
		c.t.Fatal(err)
	}
}

// spoken returns such a datagram.
func (c *chorus) spoken(from, to int, origin overlay.Label, number uint64, links int, frames ...uint64) []byte {
	c.t.Helper()
	var numbers atomic.Uint64
	var cuts atomic.Uint32
	numbers.Store(number - 1)
	var d []byte
	p := overlay.NewPacker(func(b []byte, _ int) { d = b })
	p.BeginSpread(origin, &numbers, &cuts, overlay.MaxDatagram)
	for _, x := range frames {
		f := overlay.Frame{Head: binary.BigEndian.AppendUint64(ethernet(overlay.Broadcast, overlay.MAC{2, 9, 9, 9, 9, byte(x)}, 14), x)}
		if !p.Add(&f) {
			c.t.Fatal("not packed")
		}
	}
	p.Flush()
	for range links - 1 {
		overlay.AgeSpread(d)
	}
	out := c.peer(from, to).out.Load()
	if d = out.session.Seal(overlay.KindData, 0, d[:len(d)-overlay.TagLen]); d == nil {
		c.t.Fatal("not sealed")
	}
	return slices.Clone(d)
}

// neighbours returns a node, an origin whose broadcasts it passes on, its parent in that one's
// tree, and another node that is neither.
func (c *chorus) neighbours() (node, origin, parent, other int) {
	for i, n := range c.nodes {
		for _, b := range n.spread.now.Load().of {
			if len(b.children) == 0 || b.parents[0] == b.origin {
				continue
			}
			for j := range c.nodes {
				if p := c.peer(i, j); p != nil && p != b.origin && !slices.Contains(b.parents, p) {
					return i, c.index[b.origin.id], c.index[b.parents[0].id], j
				}
			}
		}
	}
	c.t.Fatal("nobody passes anything on")
	return 0, 0, 0, 0
}

// becomes waits for a count.
func becomes(t *testing.T, what string, count func() uint64, want uint64) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); count() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%s: %d, want %d", what, count(), want)
			return
		}
	}
}

func TestHostileFloods(t *testing.T) {
	c := newChorus(t, 18)
	c.settle(8)
	c.sing()
	t.Run("byway", c.byway)
	t.Run("liars", c.liars)
	t.Run("storm", c.storm)
}

// What comes by a byway is passed on, too.
func (c *chorus) byway(t *testing.T) {
	node, origin, parent, _ := c.neighbours()
	n := c.nodes[node]
	n.openByways()
	b := &byway{peer: c.nodes[parent].self}
	n.byways.add(b, streamByway)
	passed, number := n.spread.passed.Load(), uint64(900)
	children := uint64(len(n.spread.now.Load().of[c.nodes[origin].label].children))
	var ds [][]byte
	for i := range uint64(2) {
		ds = append(ds, c.spoken(parent, node, c.nodes[origin].label, c.nodes[origin].spread.numbers.Load()+500+i, 2, number+i))
	}
	n.byways.take(b, ds)
	if got := n.spread.passed.Load() - passed; got != 2*children || c.ports[node].count(number) != 1 || c.ports[node].count(number+1) != 1 {
		t.Errorf("%d copies of 2 datagrams for %d children passed on", got, children)
	}
}

// What others than the parent flood in somebody's name is refused, as is what goes too far or
// is of nobody, and what comes again; none of it is passed on, delivered or learned from.
func (c *chorus) liars(t *testing.T) {
	node, origin, parent, other := c.neighbours()
	n, label := c.nodes[node], c.nodes[origin].label
	start := c.nodes[origin].spread.numbers.Load() + 1000
	refused := func() uint64 { return n.drops[dropSpread].Load() }
	for i, s := range []struct {
		name   string
		from   int
		origin overlay.Label
		number uint64
		links  int
		count  func() uint64 // that goes up by one; nil: it is taken
	}{
		{"not by the parent", other, label, start, 2, refused},
		{"of nobody", parent, 12345, start, 2, refused},
		{"of the receiver", parent, n.label, start, 2, refused},
		{"of another, by who is no parent", other, c.nodes[parent].label, start, 2, refused},
		{"over all links and one more", parent, label, start, route.TreeHops + 1, n.drops[dropFar].Load},
		{"over more links than a byte holds", parent, label, start, 256, n.drops[dropMalformed].Load},
		{"by the parent", parent, label, start, 2, nil},
		{"that again", parent, label, start, 2, func() uint64 { return n.drops.count(overlay.DropAgain) }},
		{"that by the origin", origin, label, start, 1, func() uint64 { return n.drops.count(overlay.DropAgain) }},
		{"by the origin", origin, label, start + 1, 1, nil},
	} {
		number, passed := uint64(1000+i), n.spread.passed.Load()
		var before uint64
		if s.count != nil {
			before = s.count()
		}
		c.say(s.from, node, s.origin, s.number, s.links, number)
		if s.count == nil {
			becomes(t, s.name+": frames", func() uint64 { return uint64(c.ports[node].count(number)) }, 1)
			becomes(t, s.name+": passed on", n.spread.passed.Load, passed+uint64(len(n.spread.now.Load().of[label].children)))
			continue
		}
		becomes(t, s.name, s.count, before+1)
		if _, learned := n.sw.Stations.Lookup(n.now(), overlay.MAC{2, 9, 9, 9, 9, byte(number)}); learned || c.ports[node].count(number) != 0 || n.spread.passed.Load() != passed {
			t.Errorf("%s: it is taken", s.name)
		}
	}
	at, _ := n.sw.Stations.Lookup(n.now(), overlay.MAC{2, 9, 9, 9, 9, byte(1006 & 0xff)})
	if at != c.peer(node, origin).place() {
		t.Errorf("learned at %x", at)
	}
}

// One neighbour's storm in one origin's name takes that one's budget, and no other's.
func (c *chorus) storm(t *testing.T) {
	node, origin, parent, _ := c.neighbours()
	n := c.nodes[node]
	start := c.nodes[origin].spread.numbers.Load() + 2000
	frames := make([]uint64, 300)
	for i := range frames {
		frames[i] = 5000
	}
	stormed := func() uint64 { return n.drops.count(overlay.DropStorm) }
	began, sent := time.Now(), 0
	for i := uint64(0); stormed() == 0 && sent < 20*overlay.FloodBurst; i++ {
		c.say(parent, node, c.nodes[origin].label, start+i, 2, frames...)
		sent += len(frames)
		time.Sleep(time.Millisecond) // sockets hold little
	}
	if stormed() == 0 {
		t.Fatal("a storm isn't stopped")
	}
	most := overlay.FloodBurst + overlay.FloodRate*(1+int(time.Since(began).Seconds()))
	if got := c.ports[node].count(5000); got < overlay.FloodBurst/2 || got > most {
		t.Errorf("%d frames of a storm of %d came through", got, sent)
	}
	before := stormed()
	for other := range c.nodes {
		b := n.spread.now.Load().of[c.nodes[other].label]
		if other == origin || b == nil || b.parents[0].id != c.nodes[parent].self {
			continue
		}
		number := c.broadcast(other)
		if m := c.missing(number, other, 20*time.Second); len(m) > 0 || stormed() != before {
			t.Errorf("a broadcast of %d, which the same neighbour passes on, misses %v", other, m)
		}
	}
}
