package measure

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
)

// MaxPattern is of how many senders and receivers at most PatternOf names a pattern.
const MaxPattern = 64

// PatternOf names the pattern of who sends to whom: rates[i][j] is what i sends to j, in
// any unit; the diagonal doesn't count, and of more than MaxPattern it is irregular. It is
//
//	none         nobody sends
//	pair         two talk to each other; pairs: each talks to one other
//	star         one talks to all the others, and these to it alone
//	all-to-all   (nearly) each to each
//	ring, line   each to the next; with an end
//	bipartite    each of some sends to each of the others, and these send nothing
//	mesh         each to its neighbours in a plane grid, or a grid of three dimensions
//	torus        the same, with the edges joined
//	hypercube    each to those whose number differs in one bit
//	tree         without a circle
//	irregular    anything else
//
// These are the patterns that Gupta and Dinda infer from virtual machines' traffic
// ("Inferring the topology and traffic load of parallel programs running in a virtual
// machine environment", JSSPP 2004), who normalise by the largest rate and prune, too.
func PatternOf(rates [][]float64) string {
	if len(rates) > MaxPattern {
		return "irregular"
	}
	cut := threshold(rates)
	g := graphOf(rates, cut)
	switch n := g.n; {
	case n == 0:
		return "none"
	case n == 2:
		return "pair"
	case g.all(func(i int) bool { return g.degree(i) == 1 }):
		return "pairs"
	case g.edges() >= n*(n-1)/2-n*(n-1)/20 && (n > 3 || g.edges() == 3 && g.mutual()):
		return "all-to-all"
	case g.edges() == n-1 && slices.ContainsFunc(g.nodes(), func(i int) bool { return g.degree(i) == n-1 }):
		return "star"
	case g.bipartite():
		return "bipartite"
	case !g.connected():
		return "irregular"
	case g.all(func(i int) bool { return g.degree(i) == 2 }):
		return "ring"
	}
	for _, s := range shapes(g.n) {
		if g.like(s.graph) {
			return s.name
		}
	}
	if g.edges() == g.n-1 {
		return "tree"
	}
	return "irregular"
}

// Matrix returns the rates between those with the most traffic, at most MaxPattern of
// them, in their order. The keys of rates are from whom and to whom.
func Matrix[K cmp.Ordered](rates map[[2]K]float64) [][]float64 {
	sums := make(map[K]float64)
	for k, r := range rates {
		sums[k[0]] += r
		sums[k[1]] += r
	}
	nodes := slices.SortedFunc(maps.Keys(sums), func(a, b K) int { return cmp.Or(cmp.Compare(sums[b], sums[a]), cmp.Compare(a, b)) })
	nodes = nodes[:min(len(nodes), MaxPattern)]
	slices.Sort(nodes)
	out := make([][]float64, len(nodes))
	for i, a := range nodes {
		for _, b := range nodes {
			out[i] = append(out[i], rates[[2]K{a, b}])
		}
	}
	return out
}

const (
	leastShare  = 0.03 // of the largest rate: less is noise
	surelyShare = 0.4  // so much isn't
	leastGap    = 3.0  // a factor: rates that differ by less aren't of two kinds
)

// threshold returns from which rate on a flow belongs to the pattern: at the widest gap
// between the rates, on a logarithmic scale, where that may be; where there is none, what
// is more than noise belongs to it.
func threshold(rates [][]float64) float64 {
	var all []float64
	for i, row := range rates {
		for j, r := range row {
			if i != j && r > 0 {
				all = append(all, r)
			}
		}
	}
	if len(all) == 0 {
		return 1
	}
	slices.SortFunc(all, func(a, b float64) int { return cmp.Compare(b, a) })
	top := all[0]
	cut, widest := top*leastShare, leastGap
	for i, r := range all {
		next := top * leastShare
		if i+1 < len(all) {
			next = max(next, all[i+1])
		}
		if next > top*surelyShare {
			continue
		}
		if gap := r / next; gap > widest {
			cut, widest = r, gap
		}
		if next <= top*leastShare {
			break
		}
	}
	return cut
}

// A graph says who talks to whom, at most MaxPattern nodes: a set of neighbours each.
type graph struct {
	n         int
	to, joins []uint64 // directed, and both ways
}

func newGraph(n int) graph { return graph{n: n, to: make([]uint64, n), joins: make([]uint64, n)} }

func (g graph) join(i, j int) {
	g.to[i] |= 1 << j
	g.joins[i] |= 1 << j
	g.joins[j] |= 1 << i
}

// graphOf returns the graph of the rates from cut on, without those that have none.
func graphOf(rates [][]float64, cut float64) graph {
	index, n := make([]int, len(rates)), 0
	for i := range rates {
		index[i] = -1
		for j := range rates {
			if i != j && (rates[i][j] >= cut || rates[j][i] >= cut) {
				index[i] = n
				n++
				break
			}
		}
	}
	g := newGraph(n)
	for i := range rates {
		for j, r := range rates[i] {
			if i != j && r >= cut {
				g.join(index[i], index[j])
			}
		}
	}
	return g
}

func (g graph) degree(i int) int { return bits.OnesCount64(g.joins[i]) }

func (g graph) edges() (n int) {
	for i := range g.n {
		n += g.degree(i)
	}
	return n / 2
}

func (g graph) nodes() []int {
	all := make([]int, g.n)
	for i := range all {
		all[i] = i
	}
	return all
}

func (g graph) all(is func(i int) bool) bool {
	return !slices.ContainsFunc(g.nodes(), func(i int) bool { return !is(i) })
}

// mutual says whether whoever talks is talked to.
func (g graph) mutual() bool { return slices.Equal(g.to, g.joins) }

// bipartite says whether some send only, the others receive only, and nearly each of
// the first sends to each of the second; at least two of each.
func (g graph) bipartite() bool {
	var senders, receivers uint64
	flows := 0
	for i := range g.n {
		if g.to[i] != 0 {
			senders |= 1 << i
		}
		receivers |= g.to[i]
		flows += bits.OnesCount64(g.to[i])
	}
	s, r := bits.OnesCount64(senders), bits.OnesCount64(receivers)
	return senders&receivers == 0 && s >= 2 && r >= 2 && flows >= s*r-s*r/10
}

func (g graph) connected() bool { return bits.OnesCount64(g.reach(0)) == g.n }

// reach returns whom i reaches.
func (g graph) reach(i int) uint64 {
	reached := uint64(1) << i
	for todo := reached; todo != 0; {
		at := bits.TrailingZeros64(todo)
		todo &^= 1 << at
		todo |= g.joins[at] &^ reached
		reached |= g.joins[at]
	}
	return reached
}
