package mesh

import (
	"math"
	"math/bits"
)

// mostBuckets bounds a sweep's buckets, so that they stay in the nearest cache. With links
// of 1 to 4,000 times the least cost there are as many; else a heap does.
const mostBuckets = 4096

// A sweep finds the distances from one agent after another to all. It is Dijkstra's
// algorithm with buckets of distances for a heap, each as wide as the least cost of a link
// at most: so what is in a bucket gets no nearer any more, in whatever order it is taken
// (Denardo and Fox, "Shortest-route methods: 1. Reaching, pruning, and buckets", 1979).
type sweep struct {
	layout
	mute []bool // carry nothing for others

	shift   uint    // a bucket is 1<<shift wide
	heads   []int32 // of each bucket, the last one of its places; -1 it is empty
	reached []place
	left    int // of them in buckets
	lowest  int // bucket that has some, or none before it does
}

// A layout is the hops of all agents, one after another: those of agent i are from first[i] to
// first[i+1].
type layout struct {
	first []int32
	hops  []step
}

// layout returns that of the links that stay.
func (v *View) layout() (l layout) {
	n := 0
	for _, hops := range v.next {
		n += len(hops)
	}
	l.first, l.hops = append(make([]int32, 0, len(v.agents)+1), 0), make([]step, 0, n)
	for _, hops := range v.next {
		l.hops = append(l.hops, hops...)
		l.first = append(l.first, int32(len(l.hops)))
	}
	return l
}

// of returns the hops of an agent.
func (l *layout) of(agent int32) []step { return l.hops[l.first[agent]:l.first[agent+1]] }

// A step is a neighbour and the cost to it.
type step struct{ to, cost int32 }

// A place is that of an agent in a bucket. Where it was reached by a nearer way later, it
// has another place.
type place struct{ dist, agent, next int32 }

// settleAll fills in the distances between all agents.
func (v *View) settleAll() {
	s, ok := v.sweep()
	for i := range v.agents {
		if ok {
			s.settle(int32(i), v.row(i))
		} else {
			v.settle(i)
		}
	}
}

// sweep returns one over the links that stay; false if costs differ too much.
func (v *View) sweep() (s sweep, ok bool) {
	least, most := int32(MaxCost), int32(1)
	s.layout = v.layout()
	for _, h := range s.hops {
		least, most = min(least, h.cost), max(most, h.cost)
	}
	for i := range v.agents {
		s.mute = append(s.mute, v.agents[i].NoTransit)
	}
	s.shift = uint(bits.Len32(uint32(least)) - 1)
	// Of an agent's hops none goes farther than that many buckets, nor into its own.
	buckets := 1 << bits.Len32(uint32(most>>s.shift)+1)
	if buckets > mostBuckets {
		return s, false
	}
	s.heads = make([]int32, buckets)
	for i := range s.heads {
		s.heads[i] = -1
	}
	return s, true
}

// settle fills in the distances from one agent.
func (s *sweep) settle(source int32, row []int32) {
	for i := range row {
		row[i] = far
	}
	row[source] = 0
	s.begin()
	s.reach(0, source)
	s.spread(source, row)
}

// begin forgets whom it reached.
func (s *sweep) begin() { s.reached, s.left, s.lowest = s.reached[:0], 0, math.MaxInt }

// spread goes on from the agents that were reached, whose distances are in row, until nobody
// gets nearer to the source.
func (s *sweep) spread(source int32, row []int32) {
	for b := s.lowest; s.left > 0; b++ {
		head := &s.heads[b&(len(s.heads)-1)]
		for at := *head; at >= 0; {
			x := s.reached[at]
			at = x.next
			s.left--
			if x.dist != row[x.agent] || s.mute[x.agent] && x.agent != source {
				continue
			}
			for _, h := range s.of(x.agent) {
				if to := x.dist + h.cost; to < row[h.to] {
					row[h.to] = to
					s.reach(to, h.to)
				}
			}
		}
		*head = -1
	}
}

// reach puts an agent into the bucket of its distance.
func (s *sweep) reach(dist, agent int32) {
	b := int(dist >> s.shift)
	head := &s.heads[b&(len(s.heads)-1)]
	s.reached = append(s.reached, place{dist, agent, *head})
	*head = int32(len(s.reached) - 1)
	s.left++
	s.lowest = min(s.lowest, b)
}
