package measure

import (
	"cmp"
	"math/bits"
	"slices"
)

// A shape is a graph that has a name.
type shape struct {
	name  string
	graph graph
}

// shapes returns the shapes of n nodes, simplest first.
func shapes(n int) (all []shape) {
	all = append(all, shape{"line", lattice(false, n)})
	for a := 2; a*a <= n; a++ {
		if n%a != 0 {
			continue
		}
		all = append(all, shape{"mesh", lattice(false, a, n/a)})
		for b := a; b*b <= n/a; b++ {
			if n/a%b == 0 {
				if n == 1<<3 {
					continue // a hypercube
				}
				all = append(all, shape{"mesh", lattice(false, a, b, n/a/b)})
			}
		}
	}
	if n >= 4 && n&(n-1) == 0 {
		dims := make([]int, bits.TrailingZeros(uint(n)))
		for i := range dims {
			dims[i] = 2
		}
		all = append(all, shape{"hypercube", lattice(false, dims...)})
	}
	for a := 3; a*a <= n; a++ {
		if n%a == 0 {
			all = append(all, shape{"torus", lattice(true, a, n/a)})
		}
	}
	for a := 3; a*a*a <= n; a++ {
		for b := a; n%a == 0 && b*b <= n/a; b++ {
			if n/a%b == 0 {
				all = append(all, shape{"torus", lattice(true, a, b, n/a/b)})
			}
		}
	}
	return all
}

// lattice returns a grid, with its edges joined or not.
func lattice(wrap bool, dims ...int) graph {
	n := 1
	for _, d := range dims {
		n *= d
	}
	g := newGraph(n)
	for i := range n {
		stride := 1
		for _, d := range dims {
			switch x := i / stride % d; {
			case x+1 < d:
				g.join(i, i+stride)
			case wrap:
				g.join(i, i-x*stride)
			}
			stride *= d
		}
	}
	return g
}

// mostTries bounds the search for a likeness. Lattices take about as many as nodes.
const mostTries = 20_000

// like says whether g is the graph h under other numbers, if that is found soon.
func (g graph) like(h graph) bool {
	if g.n != h.n || g.edges() != h.edges() || !slices.Equal(g.degrees(), h.degrees()) {
		return false
	}
	m := matching{g: g, h: h, order: h.wide(), as: make([]int, h.n), tries: mostTries}
	return m.match(0)
}

func (g graph) degrees() []int {
	all := make([]int, g.n)
	for i := range all {
		all[i] = g.degree(i)
	}
	slices.Sort(all)
	return all
}

// wide returns the nodes breadth first from one of the least degree, so that each but
// the first is joined to one before it, if the graph is connected.
func (g graph) wide() []int {
	start := slices.MinFunc(g.nodes(), func(a, b int) int { return cmp.Or(cmp.Compare(g.degree(a), g.degree(b)), cmp.Compare(a, b)) })
	order, seen := []int{start}, uint64(1)<<start
	for at := 0; at < len(order); at++ {
		for rest := g.joins[order[at]] &^ seen; rest != 0; rest &= rest - 1 {
			order = append(order, bits.TrailingZeros64(rest))
		}
		seen |= g.joins[order[at]]
	}
	return order
}

// A matching numbers g's nodes as h's, one after the other.
type matching struct {
	g, h  graph
	order []int // of h
	as    []int // which of g each of h is
	used  uint64
	tries int
}

func (m *matching) match(k int) bool {
	if k == len(m.order) {
		return len(m.order) == m.h.n
	}
	if m.tries--; m.tries < 0 {
		return false
	}
	node := m.order[k]
	fit := ^m.used
	for _, before := range m.order[:k] {
		if m.h.joins[node]>>before&1 == 1 {
			fit &= m.g.joins[m.as[before]]
		} else {
			fit &^= m.g.joins[m.as[before]]
		}
	}
	if m.g.n < 64 {
		fit &= 1<<m.g.n - 1
	}
	for ; fit != 0; fit &= fit - 1 {
		at := bits.TrailingZeros64(fit)
		if m.g.degree(at) != m.h.degree(node) {
			continue
		}
		m.as[node] = at
		m.used |= 1 << at
		if m.match(k + 1) {
			return true
		}
		m.used &^= 1 << at
	}
	return false
}
