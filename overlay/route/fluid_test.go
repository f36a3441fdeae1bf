package route

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"farlan/overlay"
)

// A fluid is a network in which each pair sends as much as it wants, or else its fair
// share of what it goes by. What is left is told, and once an epoch all pairs choose by
// what they know then.
type fluid struct {
	world  *world // what links and nodes can carry
	pairs  []Pair
	wants  int64   // kbit/s of each pair
	tcp    bool    // a pair wants twice of what it got a second ago at most, and now and then half, for a loss
	every  int     // seconds between an agent's facts; 0: facts are true at each epoch
	noise  float64 // of what is told, as a part of what a link can carry
	choose chooser
	random *rand.Rand // for noise, tcp and when agents tell

	finder Finder
	now    int // seconds
	ids    map[[2]int32]int32
	parts  []int64               // by link, then by node up, then by node down: what it can carry
	left   []int64               // of it now
	recent [epochSeconds][]int64 // of it, in the last seconds
	told   []uint32              // what of that was told last
	phase  []int                 // by node: at which second it tells
	rates  []int64               // by pair: what it gets
	calm   []int                 // by pair: the second from which TCP may lose again
	before []int64               // by pair: what it sent in the last epoch on the path that it is on
	via    [][]int32             // by pair: the parts that it goes by
	links  [][]int32             // by node
}

const epochSeconds = 5

func index(id overlay.AgentID) int32 { return int32(binary.BigEndian.Uint32(id[:])) - 1 }

// start makes a fluid ready.
func (x *fluid) start(seed uint64) *fluid {
	x.random = rand.New(rand.NewPCG(seed, 1))
	x.ids = make(map[[2]int32]int32)
	x.links = make([][]int32, len(x.world.nodes))
	for i, l := range x.world.links {
		from := index(l.From)
		x.ids[[2]int32{from, index(l.To)}] = int32(i)
		x.links[from] = append(x.links[from], int32(i))
		x.parts = append(x.parts, int64(l.RateKbit))
	}
	for _, n := range x.world.nodes {
		x.parts = append(x.parts, int64(n.UpKbit))
		x.phase = append(x.phase, x.random.IntN(max(1, x.every)))
	}
	for _, n := range x.world.nodes {
		x.parts = append(x.parts, int64(n.DownKbit))
	}
	x.left, x.told = slices.Clone(x.parts), make([]uint32, len(x.parts))
	for i := range x.recent {
		x.recent[i] = slices.Clone(x.parts)
	}
	x.rates, x.before, x.via = make([]int64, len(x.pairs)), make([]int64, len(x.pairs)), make([][]int32, len(x.pairs))
	x.calm = make([]int, len(x.pairs))
	for i := range x.pairs {
		x.take(i, x.pairs[i].Current)
	}
	for v := range x.phase {
		x.tell(int32(v))
	}
	return x
}

// take lets a pair take a path.
func (x *fluid) take(i int, p Path) {
	x.pairs[i].Current, x.via[i], x.before[i] = p, nil, 0
	links, nodes := int32(len(x.world.links)), int32(len(x.world.nodes))
	for k := 1; k < len(p); k++ {
		x.via[i] = append(x.via[i], x.ids[[2]int32{p[k-1], p[k]}], links+p[k-1], links+nodes+p[k])
	}
}

// tell lets a node tell what is left of its links.
func (x *fluid) tell(v int32) {
	links, nodes := int32(len(x.world.links)), int32(len(x.world.nodes))
	for _, part := range append([]int32{links + v, links + nodes + v}, x.links[v]...) {
		off := x.noise * (2*x.random.Float64() - 1) * float64(x.parts[part])
		x.told[part] = uint32(max(1, float64(x.mean(part))+off))
	}
}

// mean returns what was left of a part on average in the last seconds.
func (x *fluid) mean(part int32) (sum int64) {
	for _, left := range x.recent {
		sum += left[part]
	}
	return sum / epochSeconds
}

// flow sets the rates of pairs to what is max-min fair on their paths (progressive
// filling: Bertsekas and Gallager, Data Networks, § 6.5.2).
func (x *fluid) flow() {
	copy(x.left, x.parts)
	users, wants := make([]int64, len(x.parts)), make([]int64, len(x.pairs))
	var open []int
	for i, via := range x.via {
		wants[i] = x.wants
		if x.tcp {
			wants[i] = min(wants[i], 2*x.rates[i]+500)
			if x.now >= x.calm[i] && x.random.IntN(8) == 0 {
				x.calm[i] = x.now + 4
				wants[i] = min(wants[i], x.rates[i]/2)
			}
		}
		x.rates[i] = 0
		if len(via) > 0 {
			open = append(open, i)
		}
		for _, part := range via {
			users[part]++
		}
	}
	for len(open) > 0 {
		least := int64(1 << 40)
		for _, i := range open {
			least = min(least, wants[i]-x.rates[i])
			for _, part := range x.via[i] {
				least = min(least, x.left[part]/users[part])
			}
		}
		for _, i := range open {
			x.rates[i] += least
			for _, part := range x.via[i] {
				x.left[part] -= least
			}
		}
		full := func(part int32) bool { return x.left[part] < users[part] }
		var still, done []int
		for _, i := range open {
			if x.rates[i] >= wants[i] || slices.ContainsFunc(x.via[i], full) {
				done = append(done, i)
			} else {
				still = append(still, i)
			}
		}
		for _, i := range done {
			for _, part := range x.via[i] {
				users[part]--
			}
		}
		open = still
	}
}

// graph is what all know by what was told.
func (x *fluid) graph() *Graph {
	w := world{slices.Clone(x.world.nodes), slices.Clone(x.world.links)}
	links, nodes := len(w.links), len(w.nodes)
	for i := range w.links {
		w.links[i].RateKbit = x.told[i]
	}
	for v := range w.nodes {
		w.nodes[v].UpKbit, w.nodes[v].DownKbit = x.told[links+v], x.told[links+nodes+v]
	}
	return w.graph()
}

// seen is what a node knows: of itself what is left, of others what they told.
func (x *fluid) seen(g *Graph, node int32) *Graph {
	own, left := *g, func(part int32) uint32 { return uint32(max(1, x.mean(part))) }
	own.rates.link, own.rates.up, own.rates.down = slices.Clone(g.rates.link), slices.Clone(g.rates.up), slices.Clone(g.rates.down)
	links, nodes := int32(len(x.world.links)), int32(len(x.world.nodes))
	own.rates.up[node], own.rates.down[node] = left(links+node), left(links+nodes+node)
	for _, i := range x.links[node] {
		e, _ := g.link(node, index(x.world.links[i].To))
		own.rates.link[e] = left(i)
	}
	return &own
}

// epoch lets time pass until all choose again. It returns who moved, and what all sent
// together on average.
func (x *fluid) epoch() (moved []int, kbit int64) {
	sent := make([]int64, len(x.pairs))
	for range epochSeconds {
		x.now++
		x.flow()
		copy(x.recent[x.now%epochSeconds], x.left)
		for i, r := range x.rates {
			sent[i] += r
			kbit += r / epochSeconds
		}
		for v, phase := range x.phase {
			if x.every > 0 && x.now%x.every == phase || x.every == 0 && x.now%epochSeconds == 0 {
				x.tell(int32(v))
			}
		}
	}
	all := x.graph()
	for i, q := range x.pairs {
		g := x.seen(all, q.From)
		sent[i] /= epochSeconds
		q.LoadKbit = uint32(max(sent[i], x.before[i]))
		x.before[i] = sent[i]
		q.Lot = Lot(uint64(x.now/epochSeconds), g.ID(q.From), g.ID(q.To))
		if p := x.choose(&x.finder, g, q); !slices.Equal(p, q.Current) {
			moved = append(moved, i)
			x.take(i, slices.Clone(p))
		}
	}
	return moved, kbit
}

// A chooser decides which path a pair takes.
type chooser func(f *Finder, g *Graph, q Pair) Path

func choose(f *Finder, g *Graph, q Pair) Path { return f.Choose(g, q, nil).Path }

// The rule without one of its parts.
var mutants = map[string]chooser{
	"no hysteresis": func(f *Finder, g *Graph, q Pair) Path {
		return f.bulkTo(g, q.From, q.To, q.loads(nil), none, near)
	},
	"no lots": func(f *Finder, g *Graph, q Pair) Path {
		q.Lot = 0
		return choose(f, g, q)
	},
	"own load not given back": func(f *Finder, g *Graph, q Pair) Path {
		return f.Choose(g, q, []Load{{q.Current, -int64(q.LoadKbit)}}).Path
	},
}
