package sim

import "math"

// Sample compares the ways that some agents have to all others with the shortest ones over any
// links at all: the sum of round trips divided by that of the best, by agents that are drawn;
// and says how many pairs have no way. For networks that are too large to look at all pairs.
func (s *Sim) Sample(origins int) (quality float64, without int) {
	var is, best float64
	for range origins {
		a := s.agents[s.draw(uint64(len(s.agents)))]
		if !a.runs() {
			continue
		}
		c, shortest := a.chart(), s.shortest(a.n)
		for _, b := range s.agents {
			if !b.runs() || b == a {
				continue
			}
			p := s.path(c, a.n, b.n)
			if p == nil {
				without++
				continue
			}
			is += float64(s.length(p))
			best += float64(shortest[b.n])
		}
	}
	return is / best, without
}

// shortest returns the shortest round trips of an agent to all, over any links (Dijkstra's
// algorithm on a full graph).
func (s *Sim) shortest(from int32) []int64 {
	d, done := make([]int64, len(s.agents)), make([]bool, len(s.agents))
	for i := range d {
		d[i] = math.MaxInt64
	}
	d[from] = 0
	for range d {
		at := int32(-1)
		for i := range d {
			if !done[i] && (at < 0 || d[i] < d[at]) {
				at = int32(i)
			}
		}
		if d[at] == math.MaxInt64 {
			break
		}
		done[at] = true
		for i := range d {
			if rtt := s.world.micros(at, int32(i)); !done[i] && rtt > 0 {
				d[i] = min(d[i], d[at]+int64(rtt))
			}
		}
	}
	return d
}
