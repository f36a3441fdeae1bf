package decide

import (
	"cmp"
	"slices"
	"sort"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

const (
	// gateways is how many an area has.
	gateways = 4
	// worthwhile is by how much nearer, 1 of it, another gateway must be to all to replace
	// one.
	worthwhile = 5
)

// A Gate is a gateway that counts, and what it tells.
type Gate struct {
	ID overlay.AgentID
	At overlay.Instant // when, by its clock
	*discovery.Area
	discovery.Links // with other gateways
}

// Gates returns the gateways that count, ascending by id. Nobody outside of an area sees who
// its gateways ought to be; so of those that say they are some count that at least half of
// the others name, all if there are none such, and discovery.MaxGateways at most.
func Gates(s *discovery.Store) []Gate {
	ids := s.Gateways()
	all := make([]Gate, 0, len(ids))
	byArea := make(map[uint32][]int)
	for _, id := range ids {
		a, at, ok := s.Gateway(id)
		if !ok || a.Member.Left {
			continue
		}
		byArea[a.Number] = append(byArea[a.Number], len(all))
		g := Gate{ID: id, At: at, Area: a}
		if links, told, ok := s.Backbone(id); ok {
			g.Links, g.At = links, max(at, told)
		}
		all = append(all, g)
	}
	counts := make([]bool, len(all))
	for _, some := range byArea {
		for _, i := range count(all, some) {
			counts[i] = true
		}
	}
	i := -1
	return slices.DeleteFunc(all, func(Gate) bool { i++; return !counts[i] })
}

// count returns those of an area that count.
func count(all []Gate, some []int) []int {
	named := func(i int) bool {
		by := 0
		for _, j := range some {
			if _, ok := slices.BinarySearch(all[j].Gateways, discovery.BriefOf(all[i].ID)); ok && j != i {
				by++
			}
		}
		return 2*by >= len(some)-1
	}
	good := slices.DeleteFunc(slices.Clone(some), func(i int) bool { return !named(i) })
	if len(good) == 0 {
		good = some
	}
	if len(good) > discovery.MaxGateways {
		slices.SortFunc(good, func(i, j int) int { return compareKeys(all[i].ID, all[j].ID) })
		good = good[:discovery.MaxGateways]
	}
	return good
}

// compareKeys orders agents by a hash.
func compareKeys(a, b overlay.AgentID) int {
	return cmp.Or(cmp.Compare(a.Label(), b.Label()), a.Compare(b))
}

func findGate(all []Gate, b discovery.Brief) int {
	i, ok := slices.BinarySearchFunc(all, b, func(g Gate, b discovery.Brief) int { return cmp.Compare(discovery.BriefOf(g.ID), b) })
	if !ok {
		return -1
	}
	return i
}

// Gateways returns who the gateways of the picture's area are, ascending: those who are it now
// and are still there, and further ones until there are four. Their members are as near
// to one of them as can be had greedily (as in the k-median problem); another agent takes
// the place of one only if all become nearer by a fifth. Agents without links, and no-transit
// ones, are none.
func (p *Picture) Gateways(now []overlay.AgentID) []overlay.AgentID {
	if p.gates != nil && slices.Equal(p.were, now) {
		return p.gates
	}
	p.were, p.gates = now, p.gateways(now)
	return p.gates
}

func (p *Picture) gateways(now []overlay.AgentID) []overlay.AgentID {
	c := center{p, nil, make([]int64, len(p.Facts.Agents))}
	for _, id := range now {
		if i := p.View.Index(id); i >= 0 && c.may(i) {
			c.chosen = append(c.chosen, i)
		}
	}
	for len(c.chosen) > gateways {
		c.drop()
	}
	for len(c.chosen) < gateways && c.add() {
	}
	c.swap()
	all := make([]overlay.AgentID, 0, gateways)
	for _, i := range slices.Sorted(slices.Values(c.chosen)) {
		all = append(all, p.Facts.Agents[i].ID)
	}
	return all
}

// A center looks for the agents that are nearest to all.
type center struct {
	p      *Picture
	chosen []int
	least  []int64 // of each agent, how far the nearest of the chosen is
}

func (c *center) may(i int) bool {
	linked := c.p.View.Degree(i) > 0 || len(c.least) == 1
	return linked && !c.p.Facts.Agents[i].NoTransit && !slices.Contains(c.chosen, i)
}

// sum returns how far all are from the nearest chosen, but for one of them (-1: none).
func (c *center) sum(but int) (sum int64) {
	for j := range c.least {
		c.least[j] = beyondReach
		for k, i := range c.chosen {
			if k != but {
				c.least[j] = min(c.least[j], c.p.distance(i, j))
			}
		}
		sum += c.least[j]
	}
	return sum
}

// beyondReach is above all distances.
const beyondReach = 1 << 40

// with returns the sum if an agent were one of the chosen, after sum.
func (c *center) with(i int) (sum int64) {
	for j, d := range c.least {
		sum += min(d, c.p.distance(i, j))
	}
	return sum
}

// best returns whom to add, after sum; -1 if there is nobody.
func (c *center) best() (best int, least int64) {
	best = -1
	for i := range c.least {
		if !c.may(i) {
			continue
		}
		if sum := c.with(i); best < 0 || sum < least || sum == least && compareKeys(c.p.Facts.Agents[i].ID, c.p.Facts.Agents[best].ID) < 0 {
			best, least = i, sum
		}
	}
	return best, least
}

func (c *center) add() bool {
	c.sum(-1)
	best, _ := c.best()
	if best >= 0 {
		c.chosen = append(c.chosen, best)
	}
	return best >= 0
}

// drop gives up the one without whom all the others are nearest.
func (c *center) drop() {
	worst, least := 0, int64(-1)
	for k := range c.chosen {
		if sum := c.sum(k); least < 0 || sum < least {
			worst, least = k, sum
		}
	}
	c.chosen = slices.Delete(c.chosen, worst, worst+1)
}

// swap makes the best exchange, if it is worth it.
func (c *center) swap() {
	is := c.sum(-1)
	out, in, least := -1, -1, is-is/worthwhile
	for k := range c.chosen {
		c.sum(k)
		if i, sum := c.best(); i >= 0 && sum < least {
			out, in, least = k, i, sum
		}
	}
	if out >= 0 {
		c.chosen[out] = in
	}
}

// Backbone returns what gateways tell of their links with each other, as of members of a
// network of their own: with this decide on them as on others.
func Backbone(gates []Gate) []Told {
	all := make([]Told, 0, len(gates))
	for _, g := range gates {
		all = append(all, Told{ID: g.ID, At: g.At, Links: g.Links})
	}
	return all
}

// Joined returns what an agent has routes by: what members of its area tell, ascending by id,
// and what gateways do.
func Joined(told []Told, gates []Gate) []Told {
	all := slices.Concat(told, Backbone(gates))
	slices.SortStableFunc(all, func(a, b Told) int { return a.ID.Compare(b.ID) })
	out := all[:0]
	for _, t := range all {
		if n := len(out); n == 0 || out[n-1].ID != t.ID {
			out = append(out, t)
			continue
		}
		x := &out[len(out)-1] // of a gateway of the same area both count
		rows := slices.Clone(x.Rows)
		for _, r := range t.Rows {
			if _, ok := slices.BinarySearchFunc(x.Rows, r.Peer, byPeer); !ok {
				rows = append(rows, r)
			}
		}
		slices.SortFunc(rows, func(a, b discovery.Row) int { return byPeer(a, b.Peer) })
		x.Rows, x.At = rows, max(x.At, t.At)
	}
	return out
}

// indexOf returns the index of the agent with a brief name.
func indexOf(g *route.Graph, b discovery.Brief) (int32, bool) {
	i := sort.Search(g.Len(), func(i int) bool { return discovery.BriefOf(g.ID(int32(i))) >= b })
	return int32(i), i < g.Len() && discovery.BriefOf(g.ID(int32(i))) == b
}

// TreeOf returns what a gateway tells of the ways to the members of its area.
func TreeOf(g *route.Graph, self overlay.AgentID, f *route.Finder) []discovery.Leaf {
	root, ok := g.Index(self)
	if !ok {
		return nil
	}
	var t route.Tree
	f.Tree(g, root, &t)
	var leaves []discovery.Leaf
	at := make([]int, g.Len())
	cost := make([]uint32, g.Len())
	queue := []int32{root}
	for len(queue) > 0 && len(leaves) < discovery.MaxLeaves {
		v := queue[0]
		queue = queue[1:]
		if v != root {
			parent, _ := t.Parent(v)
			link, _ := f.Figures(g, route.Path{parent, v}, nil)
			cost[v] = cost[parent] + link.CostMicros
			leaves = append(leaves, discovery.Leaf{
				Agent: discovery.BriefOf(g.ID(v)), Label: g.ID(v).Label(), Parent: at[parent] - 1, Cost: microseconds(cost[v]),
			})
			at[v] = len(leaves)
		}
		if t.Depth(v) < route.MaxHops {
			queue = append(queue, t.Children(v)...)
		}
	}
	return leaves
}
