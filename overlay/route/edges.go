package route

// An Edge is a link that both its ends tell to be up, with the same round trip: A and B are
// indexes of nodes, A the smaller one, and each adds a cost.
type Edge struct {
	A, B         int32
	RTTMicros    uint32
	CostA, CostB uint32
}

// Undirected returns the same graph as New does of nodes and of the links that are edges, in
// both directions. It is much sooner done, as nothing has to be sorted: nodes must ascend by
// id, and edges by A and B, each pair once; where they don't, New is what it calls. It takes
// the nodes over.
func Undirected(nodes []Node, edges []Edge) *Graph {
	degrees, ok := degreesOf(nodes, edges)
	if !ok {
		return New(nodes, linksOf(nodes, edges))
	}
	g := &Graph{nodes: nodes}
	g.describe()
	g.room(2 * len(edges))
	g.first = make([]int32, 1, len(nodes)+1)
	for _, d := range degrees {
		g.first = append(g.first, g.first[len(g.first)-1]+d)
	}
	n := 2 * len(edges)
	g.to, g.links, g.sum.link, g.rates.link = g.to[:n], g.links[:n], g.sum.link[:n], g.rates.link[:n]
	next := append([]int32(nil), g.first...)
	for i := range edges {
		e := &edges[i]
		there, back := Link{RTTMicros: e.RTTMicros, CostMicros: e.CostA}, Link{RTTMicros: e.RTTMicros, CostMicros: e.CostB}
		cost, rtt := linkMicros(&there, &back)
		weight := cost<<tieBits | g.tie(e.A, e.B)
		for _, end := range [2][2]int32{{e.A, e.B}, {e.B, e.A}} { // those to smaller ones come first
			at := next[end[0]]
			next[end[0]]++
			g.to[at], g.links[at], g.sum.link[at] = end[1], figures{uint32(cost), rtt}, weight
		}
	}
	return g
}

// degreesOf returns how many edges nodes have; false if they aren't in order, or too many.
func degreesOf(nodes []Node, edges []Edge) (all []int32, ok bool) {
	if len(nodes) > MaxNodes {
		return nil, false
	}
	for i := 1; i < len(nodes); i++ {
		if nodes[i-1].ID.Compare(nodes[i].ID) >= 0 {
			return nil, false
		}
	}
	all = make([]int32, len(nodes))
	last := Edge{A: none, B: none}
	for _, e := range edges {
		if e.A < last.A || e.A == last.A && e.B <= last.B || e.A < 0 || e.A >= e.B || int(e.B) >= len(nodes) {
			return nil, false
		}
		all[e.A]++
		all[e.B]++
		if last = e; all[e.A] > MaxDegree || all[e.B] > MaxDegree {
			return nil, false
		}
	}
	return all, true
}

// linksOf returns the links of edges, without those that have no ends.
func linksOf(nodes []Node, edges []Edge) (all []Link) {
	for _, e := range edges {
		if min(e.A, e.B) < 0 || int(max(e.A, e.B)) >= len(nodes) {
			continue
		}
		a, b := nodes[e.A].ID, nodes[e.B].ID
		all = append(all,
			Link{From: a, To: b, RTTMicros: e.RTTMicros, CostMicros: e.CostA, Up: true},
			Link{From: b, To: a, RTTMicros: e.RTTMicros, CostMicros: e.CostB, Up: true})
	}
	return all
}
