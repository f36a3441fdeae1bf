package route

import (
	"slices"

	"farlan/overlay"
)

// MaxHops is how many links a path has at most: what a frame can carry.
const MaxHops = overlay.MaxLabels - 1

const none = -1

// A Finder finds paths. It holds the memory that this takes, to be used again: 30 bytes
// a link and direction, and about 280 a node. The zero value is ready. Not safe for
// concurrent use.
type Finder struct {
	steps []step
	best  []int32 // by node: its step of the least weight so far, or none

	work   weights // what a search changes of the graph's
	give   rates
	class  []uint16 // by link
	split  []uint64 // by link
	labels labels
}

// weights are those of links and of relaying by nodes.
type weights struct {
	link, transit []uint64
	// most says that a path weighs as much as the heaviest thing on it, not all together.
	most bool
}

// A step is a node that a path reaches, and the step before.
type step struct {
	weight     uint64
	node, prev int32
}

// search finds the paths of the least weight and of at most some links, from a node to
// all, or with a goal to that one alone. It is Bellman's and Ford's, a link longer in
// each round, and only those go on that the last round improved: at most rounds × links.
// Steps of earlier rounds stay, as longer paths may go on from them. All links weigh
// something, so no path comes by a node twice.
func (f *Finder) search(g *Graph, w weights, from, goal int32, hops int) {
	f.steps = append(f.steps[:0], step{0, from, none})
	f.best = slices.Grow(f.best[:0], g.Len())[:g.Len()]
	for i := range f.best {
		f.best[i] = none
	}
	f.best[from] = 0
	for begin := 0; hops > 0 && begin < len(f.steps); hops-- {
		end := len(f.steps)
		for s := begin; s < end; s++ {
			f.expand(g, w, int32(s), int32(end), goal)
		}
		begin = end
	}
}

// expand goes one link on from a step; end is where the steps of this round begin.
func (f *Finder) expand(g *Graph, w weights, s, end, goal int32) {
	at := f.steps[s]
	if at.prev != none {
		if w.transit[at.node] == barred {
			return
		}
		at.weight = w.join(at.weight, w.transit[at.node])
	}
	for e := g.first[at.node]; e < g.first[at.node+1]; e++ {
		if w.link[e] == barred {
			continue
		}
		next := step{w.join(at.weight, w.link[e]), g.to[e], s}
		if goal != none && f.best[goal] != none && next.weight >= f.steps[f.best[goal]].weight {
			continue
		}
		switch b := f.best[next.node]; {
		case b != none && next.weight >= f.steps[b].weight:
		case b >= end: // nobody went on from it yet
			f.steps[b] = next
		default:
			f.best[next.node] = int32(len(f.steps))
			f.steps = append(f.steps, next)
		}
	}
}

func (w weights) join(a, b uint64) uint64 {
	if w.most {
		return max(a, b)
	}
	return a + b
}

// path appends the path that the last search found to a node, nothing if there is none.
func (f *Finder) path(p Path, to int32) Path {
	start := len(p)
	for s := f.best[to]; s != none; s = f.steps[s].prev {
		p = append(p, f.steps[s].node)
	}
	slices.Reverse(p[start:])
	return p
}

// copyWeights returns weights of the graph's that may be changed.
func (f *Finder) copyWeights(g *Graph) weights {
	f.work.link = append(f.work.link[:0], g.sum.link...)
	f.work.transit = append(f.work.transit[:0], g.sum.transit...)
	return f.work
}
