package agent

import (
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

// Who passes nothing on is a leaf of all trees; who may pass on only so much a second passes on
// no more.
func TestFloodsRespectWishes(t *testing.T) {
	c := newChorus(t, 18)
	const leaf, limited = 4, 9
	c.nodes[leaf].cfg.Wishes.NoTransit = true
	c.settle(8)
	least := overlay.NewBucket(1, 1)
	c.lanes[limited].in.limit = &least
	c.sing()
	for _, b := range c.nodes[leaf].spread.now.Load().of {
		if len(b.children) > 0 {
			t.Errorf("passes broadcasts of %s on", b.origin.member.Name)
		}
	}
	var from []int // those whose broadcasts the limited one doesn't pass on
	for i, n := range c.nodes {
		if b := c.nodes[limited].spread.now.Load().of[n.label]; b == nil || len(b.children) == 0 {
			from = append(from, i)
		}
	}
	c.reachAll("with a leaf", from...)
	for i := range c.nodes {
		if !slices.Contains(from, i) {
			if m := c.missing(c.broadcast(i), i, 100*time.Millisecond); len(m) == 0 {
				t.Errorf("a broadcast of %d goes by one that is limited", i)
			}
		}
	}
	c.onlyOnce()
	if n := c.nodes[limited]; len(from) == len(c.nodes) || n.drops[dropTransit].Load() == 0 || n.spread.passed.Load() != 0 || c.nodes[leaf].spread.passed.Load() != 0 {
		t.Errorf("%d are passed on, %d dropped", n.spread.passed.Load(), n.drops[dropTransit].Load())
	}
}

// Where the uplink is the bottleneck, an agent's own floods and those that it passes on wait
// for it, and all copies of them count.
func TestFloodsWaitForUplink(t *testing.T) {
	c := newChorus(t, 17)
	c.settle(8)
	node, origin, parent, _ := c.neighbours()
	n, by := c.nodes[node], c.lanes[node]
	by.out.shaper = overlay.NewShaper(1_000_000)
	send := func() uint64 {
		for i := range uint64(10) {
			c.say(parent, node, c.nodes[origin].label, c.nodes[origin].spread.numbers.Load()+i+1, 2, slices.Repeat([]uint64{1}, 30)...)
		}
		c.nodes[origin].spread.numbers.Add(10)
		passed := n.spread.passed.Load()
		if err := by.poll.Wait(time.Second, false); err != nil {
			t.Fatal(err)
		}
		if _, err := by.turn(c.now); err != nil {
			t.Fatal(err)
		}
		return n.spread.passed.Load() - passed
	}
	passed := send()
	if b := by.out.shaper.Backlog(); passed > 5 || b[overlay.ClassBulk] == 0 {
		t.Errorf("%d copies are sent on at once, %v bytes wait", passed, b)
	}
	children := uint64(len(n.spread.now.Load().of[c.nodes[origin].label].children))
	for k := range 400 {
		by.out.shaped(c.now.Add(time.Duration(k)*10*time.Millisecond), n.view.Load())
	}
	if got := n.spread.passed.Load(); got != 10*children {
		t.Errorf("%d copies of 10 datagrams for %d children are sent on in the end", got, children)
	}
	later := c.now.Add(10 * time.Second)
	by.out.carry(later, n.view.Load(), 0, []overlay.Frame{{Head: ethernet(overlay.Broadcast, c.mac(node), 100)}})
	if n.spread.copies.Load() != 0 {
		t.Error("an own broadcast doesn't wait")
	}
	by.out.shaped(later, n.view.Load())
	if got, want := n.spread.copies.Load(), uint64(len(n.spread.now.Load().own)); got != want {
		t.Errorf("%d copies of an own broadcast, want %d", got, want)
	}
	for _, l := range c.lanes {
		_ = l.poll.Close()
	}
}
