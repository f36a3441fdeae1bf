package route

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The integer logarithm is right to a microsecond (of up to 14 seconds).
func TestLossCost(t *testing.T) {
	last := uint64(0)
	for loss := uint32(0); loss < LossUnit; loss += 1 + loss/64 {
		got := lossCost(loss)
		want := -math.Log1p(-float64(loss)/LossUnit) * lossMicros
		if math.Abs(float64(got)-want) > 1+want*1e-6 {
			t.Errorf("loss %d: %d µs, want %.1f", loss, got, want)
		}
		if got < last {
			t.Errorf("loss %d: costs less than a smaller one", loss)
		}
		last = got
	}
	if lossCost(0) != 0 || lossCost(LossUnit-1) > maxMicros {
		t.Error("the ends are wrong")
	}
}

// Classes grow with widths, and what is of one class is within 1 of 32.
func TestClass(t *testing.T) {
	low := uint32(0)
	for kbit := uint64(0); kbit <= math.MaxUint32; kbit += 1 + kbit/512 {
		c := class(uint32(kbit))
		if c < class(low) || c >= classes {
			t.Fatalf("%d kbit/s is of class %d, after %d of %d", kbit, c, low, class(low))
		}
		if c > class(low) {
			low = uint32(kbit)
		}
		if kbit-uint64(low) > uint64(low)/32 {
			t.Fatalf("%d and %d kbit/s are of one class", low, kbit)
		}
	}
	if class(math.MaxUint32) != classes-1 {
		t.Errorf("the widest is of class %d", class(math.MaxUint32))
	}
}

// In whatever order facts come, also some twice and contrary, everything is the same.
func TestOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := randomWorld(r, 40, 0.1, false)
		for range 30 {
			l := w.links[r.IntN(len(w.links))]
			l.RTTMicros, l.RateKbit, l.Up = uint32(r.IntN(9000)), uint32(r.IntN(900)), r.IntN(4) > 0
			w.links = append(w.links, l)
			n := w.nodes[r.IntN(len(w.nodes))]
			n.UpKbit, n.NoTransit, n.CostMicros = uint32(r.IntN(900)), r.IntN(2) > 0, uint32(r.IntN(900))
			w.nodes = append(w.nodes, n)
		}
		one := everything(w.graph())
		for range 5 {
			if other := everything(w.shuffled(r)); !slices.Equal(one, other) {
				t.Fatalf("seed %d: another order of facts, other results", seed)
			}
		}
		for i := range w.links {
			if l := &w.links[i]; l.Up && l.RTTMicros > 0 {
				l.RTTMicros += 500_000
			}
		}
		if slices.Equal(one, everything(w.graph())) {
			t.Errorf("seed %d: other facts, the same results", seed)
		}
	}
}

// everything returns hashes of all that follows from a graph.
func everything(g *Graph) []uint64 {
	var f Finder
	var table Table
	var tree Tree
	all := []uint64{g.Hash(), f.Agreed(g, 7, 4)}
	for from := range int32(g.Len()) {
		f.Delay(g, from, &table)
		all = append(all, table.Hash(g))
		sum := uint64(0)
		for to := range int32(g.Len()) {
			p, shared := f.Alternate(g, table.Path(to))
			sum = mix(sum, uint64(shared))
			for _, v := range p {
				sum = mix(sum, g.keys[v])
			}
		}
		f.Bulk(g, from, nil, &table)
		f.Tree(g, from, &tree)
		for v := range int32(g.Len()) {
			sum = mix(sum, uint64(tree.Depth(v)))
			for _, c := range tree.Children(v) {
				sum = mix(sum, g.keys[c])
			}
		}
		all = append(all, table.Hash(g), sum)
	}
	return all
}

// Where both directions are alike, the path back is the path there reversed, also if many
// are as good; and different pairs of nodes break such ties differently.
func TestSymmetric(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		w := randomWorld(r, 30, 0.2, true)
		g := w.graph()
		var f Finder
		tables := make([]Table, g.Len())
		for i := range tables {
			f.Delay(g, int32(i), &tables[i])
		}
		for a := range tables {
			for b := range a {
				there, back := slices.Clone(tables[a].Path(int32(b))), slices.Clone(tables[b].Path(int32(a)))
				slices.Reverse(back)
				if !slices.Equal(there, back) {
					t.Fatalf("seed %d: %v there, %v back", seed, there, back)
				}
			}
		}
	}
	// Ten relays that are all alike serve ninety pairs.
	w := newWorld(10 + 19)
	for relay := range 10 {
		for v := 10; v < 29; v++ {
			w.link(relay, v, 10_000, 100_000)
		}
	}
	used := make(map[int32]int)
	var f Finder
	var delay, bulk Table
	g := w.graph()
	for a := int32(10); a < 19; a++ {
		f.Delay(g, a, &delay)
		f.Bulk(g, a, nil, &bulk)
		for b := int32(19); b < 29; b++ {
			used[delay.Path(b)[1]]++
			used[bulk.Path(b)[1]+100]++
		}
	}
	for v, n := range used {
		if len(used) != 20 || n > 25 {
			t.Errorf("relay %d serves %d of 90 pairs; %d of 2×10 serve at all", v, n, len(used))
		}
	}
}

// A link is one only if both ends say so, and is as slow as the slower claim.
func TestOneLiar(t *testing.T) {
	w := newWorld(4).link(0, 1, 50_000, 1000).link(1, 2, 50_000, 1000).link(0, 3, 10_000, 1000)
	w.links = append(w.links, Link{From: id(3), To: id(2), RTTMicros: 1, RateKbit: 1 << 30, Up: true})
	w.find(3, 0).RTTMicros = 1
	var f Finder
	g := w.graph()
	if p := f.delayTo(g, 0, 2, none); !slices.Equal(p, Path{0, 1, 2}) {
		t.Errorf("goes %v, by a link that one end invented", p)
	}
	if why := g.why(3, 2); why != OneWay {
		t.Errorf("the invented link: %v", why)
	}
	if x, _ := f.Figures(g, Path{0, 3}, nil); x.RTTMicros != 10_000 || x.CostMicros != 5_000+hopMicros {
		t.Errorf("the link of the liar: %+v", x)
	}
}

// At the bounds of a graph those of the lowest ids count, the others don't.
func TestBounds(t *testing.T) {
	w := newWorld(MaxNodes + 50)
	for v := 1; v < MaxNodes+50; v++ {
		w.link(0, v, 1000, 1000)
	}
	g := w.graph()
	if g.Len() != MaxNodes || len(g.to) != 2*MaxDegree {
		t.Errorf("%d nodes and %d links, want %d and %d", g.Len(), len(g.to), MaxNodes, 2*MaxDegree)
	}
	if _, ok := g.Index(id(MaxNodes)); ok {
		t.Error("an agent beyond the bound is a node")
	}
	var f Finder
	var table Table
	f.Delay(g, 0, &table)
	if table.Path(MaxDegree) == nil || table.Path(MaxDegree+1) != nil {
		t.Error("not the links to the lowest ids count")
	}
	if why := g.why(MaxDegree+1, 0); why != OneWay {
		t.Errorf("a link too many: %v", why)
	}
}

// Nobody's memory grows by what is found again and again.
func TestNoAllocations(t *testing.T) {
	w := randomWorld(rand.New(rand.NewPCG(1, 1)), 60, 0.1, false)
	g := w.graph()
	var f Finder
	var table Table
	var tree Tree
	own := []Load{{Path{1, 0}, 50}}
	all := func() {
		for from := range int32(g.Len()) {
			f.Delay(g, from, &table)
			f.Bulk(g, from, own, &table)
			f.Tree(g, from, &tree)
		}
	}
	all()
	if n := testing.AllocsPerRun(5, all); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A link's cost is that which its path has in a graph.
func TestCostOfLink(t *testing.T) {
	w := newWorld(2).link(0, 1, 30_000, 0)
	w.find(0, 1).QueueMicros, w.find(1, 0).Loss, w.find(1, 0).RTTMicros = 700, LossUnit/50, 40_000
	g := w.graph()
	var f Finder
	for _, p := range []Path{{0, 1}, {1, 0}} {
		x, why := f.Figures(g, p, nil)
		if got := w.find(int(p[0]), int(p[1])).Cost(*w.find(int(p[1]), int(p[0]))); why != None || got != x.CostMicros || got < 20_500 {
			t.Errorf("%v costs %d, its path %d, %v", p, got, x.CostMicros, why)
		}
	}
	if got := (Link{Loss: LossUnit}).Cost(Link{}); got != maxMicros {
		t.Errorf("a link that loses all costs %d", got)
	}
}
