package mesh

// far is the distance of agents that no way joins. Two of it and a link's cost are still
// an int32, and the sum over all pairs with the largest weights is an int64.
const far = 1_000_000_000

func (v *View) d(from, to int) int32 { return v.row(from)[to] }

// row returns the distances between agent and all others, the same in both directions.
func (v *View) row(agent int) []int32 {
	if v.dist == nil {
		v.settled()
	}
	n := len(v.agents)
	return v.dist[agent*n : agent*n+n]
}

// settled finds the distances and Φ if they aren't known.
func (v *View) settled() {
	if v.dist != nil {
		return
	}
	if n := len(v.agents); !v.derive() {
		v.dist = make([]int32, n*n)
		v.settleAll()
	}
	v.phi = v.sum()
}

// relays says whether agent carries what comes from source.
func (v *View) relays(agent, source int) bool { return agent == source || !v.agents[agent].NoTransit }

// attach adds a link to those that stay.
func (v *View) attach(a, b int, cost int32) {
	v.next[a] = append(v.next[a], step{int32(b), cost})
	v.next[b] = append(v.next[b], step{int32(a), cost})
}

// detach takes one off again, and returns its cost; false if it isn't there.
func (v *View) detach(a, b int) (cost int32, ok bool) {
	for _, end := range [2][2]int{{a, b}, {b, a}} {
		hops := v.next[end[0]]
		for i, h := range hops {
			if int(h.to) == end[1] {
				cost, ok = h.cost, true
				hops[i] = hops[len(hops)-1]
				v.next[end[0]] = hops[:len(hops)-1]
				break
			}
		}
	}
	return cost, ok
}

// settle fills in the distances from one agent (Dijkstra's algorithm).
func (v *View) settle(source int) {
	row := v.row(source)
	for i := range row {
		row[i] = far
	}
	row[source] = 0
	v.heap.push(0, source)
	for len(v.heap) > 0 {
		d, i := v.heap.pop()
		if d > row[i] || !v.relays(i, source) {
			continue
		}
		for _, h := range v.next[i] {
			if to := d + h.cost; to < row[h.to] {
				row[h.to] = to
				v.heap.push(to, int(h.to))
			}
		}
	}
}

// sum returns Φ.
func (v *View) sum() int64 {
	var sum int64
	for i := range v.agents {
		for _, d := range v.row(i)[:i] {
			sum += int64(d)
		}
	}
	links := 0
	for i := range v.next {
		links += len(v.next[i])
	}
	return sum + v.demandSum() + int64(links/2)*v.price()
}

// demandSum returns what demands add to Φ.
func (v *View) demandSum() (sum int64) {
	for _, w := range v.wanted {
		sum += w.weight * int64(v.d(w.from, w.to))
	}
	return sum
}

// price is what a link costs in Φ, so that links that are good for nearly nothing aren't
// made: they must save all the agents so much from somewhere.
func (v *View) price() int64 { return linkPrice * int64(len(v.agents)) }

// own returns an agent's part of Φ: its distances to all that it can reach.
func (v *View) own(agent int) (sum int64) {
	for j := range v.agents {
		if d := v.d(agent, j); d != far {
			sum += int64(d)
		}
	}
	for _, w := range v.wanted {
		if d := v.d(w.from, w.to); w.from == agent && d != far {
			sum += w.weight * int64(d)
		}
	}
	return sum
}

// A heap holds agents by distance, the nearest first: distance<<32 | agent.
type heap []int64

func (h *heap) push(d int32, agent int) {
	x := int64(d)<<32 | int64(agent)
	*h = append(*h, x)
	s := *h
	i := len(s) - 1
	for i > 0 && s[(i-1)/2] > x {
		s[i] = s[(i-1)/2]
		i = (i - 1) / 2
	}
	s[i] = x
}

func (h *heap) pop() (d int32, agent int) {
	s := *h
	top, x := s[0], s[len(s)-1]
	s = s[:len(s)-1]
	*h = s
	for i := 0; len(s) > 0; {
		child := 2*i + 1
		if child+1 < len(s) && s[child+1] < s[child] {
			child++
		}
		if child >= len(s) || x <= s[child] {
			s[i] = x
			break
		}
		s[i] = s[child]
		i = child
	}
	return int32(top >> 32), int(top & (1<<32 - 1))
}
