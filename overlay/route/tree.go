package route

import "slices"

// TreeHops is how many links a broadcast goes at most: it isn't told its path, so this
// may be more than MaxHops. Who is farther gets none.
const TreeHops = 32

// A Tree is how the broadcasts of one agent spread: by the shortest paths from it. Every
// agent computes the same from the same facts, passes what it accepts on to its children,
// and accepts a frame only from its parent (the reverse-path check of TRILL, RFC 6325
// § 4.5.2) and only after as many links as it is deep. So an agent whose facts don't
// change accepts a frame once at most, and no frame goes more than TreeHops links,
// whatever the agents disagree about: where they do, frames are lost, not multiplied.
//
// An agent needs no whole trees but its place in each: see Branches.
//
// The zero value is empty; a Finder fills it, and may fill it again.
type Tree struct {
	origin   int32
	parent   []int32 // none: it isn't in the tree, or is the origin
	depth    []uint8
	first    []int32 // the children of node i are those from first[i] to first[i+1]
	children []int32
	queue    []int32 // to be used again
}

// Tree finds the tree of an agent's broadcasts.
func (f *Finder) Tree(g *Graph, origin int32, t *Tree) {
	n := g.Len()
	t.origin = origin
	t.parent = slices.Grow(t.parent[:0], n)[:n]
	t.depth = slices.Grow(t.depth[:0], n)[:n]
	t.first = slices.Grow(t.first[:0], n+1)[:n+1]
	t.children = t.children[:0]
	clear(t.depth)
	clear(t.first)
	for i := range t.parent {
		t.parent[i] = none
	}
	if !g.has(origin) {
		return
	}
	f.search(g, g.sum, origin, none, TreeHops)
	for v, s := range f.best {
		if s != none && f.steps[s].prev != none {
			t.parent[v] = f.steps[f.steps[s].prev].node
			t.first[t.parent[v]+1]++
		}
	}
	for i := range n {
		t.first[i+1] += t.first[i]
	}
	t.children = slices.Grow(t.children, int(t.first[n]))[:t.first[n]]
	for v := n - 1; v >= 0; v-- { // each takes the last free place of its parent's
		if p := t.parent[v]; p != none {
			t.first[p+1]--
			t.children[t.first[p+1]] = int32(v)
		}
	}
	copy(t.first, t.first[1:])
	t.first[n] = int32(len(t.children))
	t.measure(origin)
}

// measure tells how deep nodes are. A parent is nearer than its children, so there is
// no ring; but it may be farther than TreeHops, as a path of a child's by way of it may
// have been shorter in links than its own.
func (t *Tree) measure(origin int32) {
	t.queue = append(t.queue[:0], origin)
	for i := 0; i < len(t.queue); i++ {
		for _, v := range t.Children(t.queue[i]) {
			t.depth[v] = t.depth[t.queue[i]] + 1
			t.queue = append(t.queue, v)
		}
	}
	for v := range t.parent {
		if t.depth[v] == 0 {
			t.parent[v] = none
		}
	}
}

// Children returns to whom a node passes frames of the origin's on. It is the tree's
// memory.
func (t *Tree) Children(at int32) []int32 {
	if at < 0 || int(at)+1 >= len(t.first) || t.depth[at] == TreeHops {
		return nil
	}
	return t.children[t.first[at]:t.first[at+1]]
}

// Parent returns from whom a node gets frames of the origin's; ok is false if it gets
// none, or is the origin.
func (t *Tree) Parent(at int32) (parent int32, ok bool) {
	if at < 0 || int(at) >= len(t.parent) || t.parent[at] == none {
		return none, false
	}
	return t.parent[at], true
}

// Depth returns how many links a node is from the origin, 0 if it is not in the tree.
func (t *Tree) Depth(at int32) int {
	if _, ok := t.Parent(at); !ok {
		return 0
	}
	return int(t.depth[at])
}

// Accept says whether a node takes a frame of the origin's that came from another one
// after so many links.
func (t *Tree) Accept(at, from int32, hops int) bool {
	parent, ok := t.Parent(at)
	return ok && parent == from && int(t.depth[at]) == hops
}
