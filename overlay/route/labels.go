package route

import "slices"

// A label is the best path to a node of at most some links, by the links so far.
type label struct {
	weight uint64 // barred: there is none
	prev   int32  // the node before
	links  uint8  // that it has: less than the label's place if a shorter path is as good
}

// labels find the shortest of the widest paths from a node to all. Links are admitted
// from the widest class to the narrowest, and only what a class improves is looked at
// again: most labels change a few times, however many classes there are. The class with
// which a node is reached first is that of its widest path.
type labels struct {
	of     []label              // MaxHops+1 by node
	queued []uint16             // by node, a bit for each number of links: see changed
	change [MaxHops + 1][]int32 // by number of links: nodes whose label has improved
	fresh  []int32              // nodes that this class reached first
	order  []int32              // links, the widest class first
	source []int32              // by link
	starts [classes + 1]int32   // by classes - class: where they start in order
}

// reset makes all labels empty but that of from, and orders links by class.
func (l *labels) reset(g *Graph, from int32, class []uint16) {
	l.of = slices.Grow(l.of[:0], g.Len()*(MaxHops+1))[:g.Len()*(MaxHops+1)]
	for i := range l.of {
		l.of[i] = label{weight: barred}
	}
	for h := range MaxHops + 1 {
		l.of[int(from)*(MaxHops+1)+h] = label{0, none, 0}
	}
	l.queued = slices.Grow(l.queued[:0], g.Len())[:g.Len()]
	clear(l.queued)
	l.order = slices.Grow(l.order[:0], len(g.to))[:len(g.to)]
	l.source = slices.Grow(l.source[:0], len(g.to))[:len(g.to)]
	clear(l.starts[:])
	for _, c := range class {
		l.starts[classes-c]++
	}
	for i := range classes {
		l.starts[i+1] += l.starts[i]
	}
	for v := g.Len() - 1; v >= 0; v-- { // each takes the last free place of its class
		for e := g.first[v+1] - 1; e >= g.first[v]; e-- {
			at := &l.starts[classes-class[e]]
			*at--
			l.order[*at], l.source[e] = e, int32(v)
		}
	}
}

// admit takes the links of order from at to end, those of a class, in addition, and
// improves all labels by them.
func (f *Finder) admit(g *Graph, from int32, at, end int32) {
	l := &f.labels
	l.fresh = l.fresh[:0]
	for _, e := range l.order[at:end] {
		for h := range uint8(MaxHops) {
			f.relax(g, from, l.source[e], e, h)
		}
	}
	least := f.class[l.order[at]]
	for h := uint8(1); h < MaxHops; h++ {
		for _, v := range l.change[h] {
			l.queued[v] &^= 1 << h
			for e := g.first[v]; e < g.first[v+1]; e++ {
				if f.class[e] >= least {
					f.relax(g, from, v, e, h)
				}
			}
		}
		l.change[h] = l.change[h][:0]
	}
}

// relax improves the label of a link's other end by the path of h links to its source,
// and by none if there is one of less links that is as good: that has been.
func (f *Finder) relax(g *Graph, from, source, e int32, h uint8) {
	l := &f.labels
	at := l.of[int(source)*(MaxHops+1)+int(h)]
	if at.weight == barred || at.links != h {
		return
	}
	if source != from {
		if g.sum.transit[source] == barred {
			return
		}
		at.weight += g.sum.transit[source]
	}
	weight, to := at.weight+f.split[e], g.to[e]
	of := l.of[int(to)*(MaxHops+1):][:MaxHops+1]
	h++
	if weight >= of[h].weight {
		return
	}
	if of[MaxHops].weight == barred {
		l.fresh = append(l.fresh, to)
	}
	for k := int(h); k <= MaxHops && of[k].weight > weight; k++ {
		of[k] = label{weight, source, h}
	}
	if h < MaxHops && l.queued[to]&(1<<h) == 0 {
		l.queued[to] |= 1 << h
		l.change[h] = append(l.change[h], to)
	}
}

// path appends the best path to a node that has been reached.
func (l *labels) path(p Path, to int32) Path {
	start := len(p)
	p = append(p, to)
	at := l.of[int(to)*(MaxHops+1)+MaxHops]
	for at.links > 0 {
		p = append(p, at.prev)
		at = l.of[int(at.prev)*(MaxHops+1)+int(at.links)-1]
	}
	slices.Reverse(p[start:])
	return p
}
