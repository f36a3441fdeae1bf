package decide

import (
	"slices"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

// Beyond says who is in which area, and how gateways reach them. Agents with the same wide
// records have equal ones and may share it, but not concurrently.
type Beyond struct {
	gates  []Gate
	leaves map[discovery.Brief][]leaf
	sizes  map[uint32]int // of areas
	total  int            // of all
	of     map[uint32][]overlay.AgentID
}

// A leaf is one of a gateway's tree.
type leaf struct{ gate, at int32 }

// NewBeyond returns what gateways tell.
func NewBeyond(gates []Gate) *Beyond {
	b := &Beyond{gates: gates, of: make(map[uint32][]overlay.AgentID)}
	b.sizes, b.total = sizesOf(gates)
	for _, g := range gates {
		b.of[g.Number] = append(b.of[g.Number], g.ID)
	}
	return b
}

// find returns the leaves that are an agent. One gateway alone in its area, which anybody can be
// in one that he makes up, isn't believed about an agent of which those of another area tell.
func (b *Beyond) find(name discovery.Brief) []leaf {
	if b.leaves == nil { // most are never asked
		b.leaves = make(map[discovery.Brief][]leaf)
		for i := range b.gates {
			for j, l := range b.gates[i].Tree {
				b.leaves[l.Agent] = append(b.leaves[l.Agent], leaf{int32(i), int32(j)})
			}
		}
	}
	all := b.leaves[name]
	alone := func(l leaf) bool { return len(b.of[b.gates[l.gate].Number]) == 1 }
	if some := slices.IndexFunc(all, alone); some < 0 || !slices.ContainsFunc(all, func(l leaf) bool { return !alone(l) }) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), alone)
}

// Of returns the gateways of an area, ascending. They must not be changed.
func (b *Beyond) Of(area uint32) []overlay.AgentID { return b.of[area] }

// Gates returns the gateways, ascending. They must not be changed.
func (b *Beyond) Gates() []Gate { return b.gates }

// Sizes returns how many members areas have. It must not be changed.
func (b *Beyond) Sizes() map[uint32]int { return b.sizes }

// Area returns in which area an agent is: that in which the nearest gateway tells of it; ok is
// false if nobody does.
func (b *Beyond) Area(name discovery.Brief) (area uint32, ok bool) {
	least := time.Duration(-1)
	for _, l := range b.find(name) {
		if g := b.gates[l.gate]; least < 0 || g.Tree[l.at].Cost < least {
			area, least = g.Number, g.Tree[l.at].Cost
		}
	}
	if i := findGate(b.gates, name); least < 0 && i >= 0 {
		return b.gates[i].Number, true
	}
	return area, least >= 0
}

// Entry returns the gateway by which broadcasts come into an area, and leave it: of those that
// have a link on the graph of the backbone the first by hash. All agree on it that have the
// same wide records.
func (b *Beyond) Entry(backbone *route.Graph, area uint32) (id overlay.AgentID, ok bool) {
	for _, g := range b.of[area] {
		at, known := backbone.Index(g)
		if known && backbone.Degree(at) > 0 && (!ok || compareKeys(g, id) < 0) {
			id, ok = g, true
		}
	}
	return id, ok
}

// A Far path leads to an agent of another area: by agents of the graph to a gateway, and on by
// that one's tree.
type Far struct {
	Near route.Path
	Tree []discovery.Leaf
	Cost time.Duration // as routes reckon
}

// Hops returns how many links it has.
func (f Far) Hops() int { return len(f.Near) - 1 + len(f.Tree) }

// A Lookout finds paths to other areas from one agent, over a graph of Joined. It does
// nothing until it is asked. Not safe for concurrent use.
type Lookout struct {
	beyond *Beyond
	graph  *route.Graph
	finder *route.Finder
	from   int32
	gates  []int32 // of each gateway, its index of the graph, -1: it isn't there
	tables [route.MaxHops + 1]*route.Table
}

// NewLookout returns that of an agent of the graph, with a finder to be used.
func NewLookout(b *Beyond, g *route.Graph, from int32, f *route.Finder) *Lookout {
	l := &Lookout{beyond: b, graph: g, finder: f, from: from, gates: make([]int32, len(b.gates))}
	for i := range b.gates {
		at, ok := g.Index(b.gates[i].ID)
		if l.gates[i] = at; !ok {
			l.gates[i] = -1
		}
	}
	return l
}

// Path returns the path that costs least to an agent of another area, of route.MaxHops links
// at most and by no agent twice; ok is false if there is none. Where gateways of several
// areas tell of it, the least wins, too.
func (l *Lookout) Path(to discovery.Brief) (best Far, ok bool) {
	for _, x := range l.beyond.find(to) {
		gate := &l.beyond.gates[x.gate]
		tree := gate.Way(int(x.at))
		near, cost, there := l.reach(l.gates[x.gate], route.MaxHops-len(tree))
		if !there || gate.NoTransit || l.crosses(near, tree) {
			continue
		}
		cost += gate.Tree[x.at].Cost + gate.Cost
		if !ok || cost < best.Cost {
			best, ok = Far{near, tree, cost}, true
		}
	}
	return best, ok
}

// reach returns the best path to a gateway of so many links at most.
func (l *Lookout) reach(gate int32, hops int) (p route.Path, cost time.Duration, ok bool) {
	switch {
	case gate < 0 || hops < 0:
		return nil, 0, false
	case gate == l.from:
		return route.Path{gate}, 0, true
	case hops == 0:
		return nil, 0, false
	}
	t := l.tables[hops]
	if t == nil {
		t = new(route.Table)
		l.finder.Within(l.graph, l.from, hops, t)
		l.tables[hops] = t
	}
	if p = t.Path(gate); p == nil {
		return nil, 0, false
	}
	figures, _ := l.finder.Figures(l.graph, p, nil)
	return p, microseconds(figures.CostMicros), true
}

// crosses says whether an agent is on both parts of a path: only a tree that lies, or is old,
// makes such ones.
func (l *Lookout) crosses(near route.Path, tree []discovery.Leaf) bool {
	for _, i := range near {
		for _, x := range tree {
			if discovery.BriefOf(l.graph.ID(i)) == x.Agent {
				return true
			}
		}
	}
	return false
}

func microseconds(n uint32) time.Duration { return time.Duration(n) * time.Microsecond }
