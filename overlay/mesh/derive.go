package mesh

import "slices"

// derivable is how many links of two views may differ, for each hundred agents, so that the
// distances of one are sooner found from those of the other than anew.
const derivable = 60

// Like names views whose distances are known: when this one's own are asked for, they may be
// found from those of the one of the same agents that differs by fewest links, to the same
// result. So simulators find those of agents that know nearly the same. The others aren't
// changed, and not kept for longer.
func (v *View) Like(others []*View) {
	if v.dist == nil {
		v.like = append(v.like[:0], others...)
	}
}

// A difference is a link that differs between two views: what it costs, 0 where it isn't.
type difference struct {
	a, b     int32
	was, now int32
}

// derive finds the distances from those of a view that is alike; false if there is none, or
// all are less alike than was thought.
func (v *View) derive() bool {
	u, all := v.nearest()
	v.like = nil
	if u == nil {
		return false
	}
	s, ok := v.sweep()
	if !ok {
		return false
	}
	v.dist = slices.Clone(u.dist)
	m := mender{sweep: s, changed: all, stale: make([]bool, len(v.agents))}
	for i := range v.agents {
		m.mend(v.row(i))
	}
	return true
}

// nearest returns the view that is most alike, nil if none is, and what differs.
func (v *View) nearest() (u *View, all []difference) {
	most := max(1, len(v.agents)*derivable/100)
	for _, x := range v.like {
		if x == v || x.dist == nil || x.what.cost != 0 || v.mutes || x.mutes || !slices.Equal(v.keys, x.keys) {
			continue
		}
		if some, ok := v.differences(x, most); ok && v.sameAgents(x) {
			u, all, most = x, some, len(some)-1
		}
	}
	return u, all
}

func (v *View) sameAgents(u *View) bool {
	return slices.EqualFunc(v.agents, u.agents, func(a, b Agent) bool { return a.ID == b.ID })
}

// A mender makes the distances from an agent what they are after links changed, looking at
// those only that they change (Ramalingam and Reps, "On the computational complexity of
// dynamic graph problems", 1996). It does one agent after another, as what that takes stays
// in the nearest cache.
type mender struct {
	sweep
	changed []difference
	lost    []int32 // whose way is gone
	stale   []bool  // the same
}

// mend corrects the distances from one agent.
func (m *mender) mend(row []int32) {
	m.lose(row)
	m.begin()
	for _, t := range m.lost {
		best := int32(far)
		for _, h := range m.of(t) {
			if !m.stale[h.to] {
				best = min(best, row[h.to]+h.cost)
			}
		}
		if row[t] = best; best < far {
			m.reach(best, t)
		}
	}
	for _, t := range m.lost {
		m.stale[t] = false
	}
	for _, x := range m.changed {
		if x.now == 0 || x.was != 0 && x.now > x.was {
			continue
		}
		if d := row[x.a] + x.now; d < row[x.b] {
			row[x.b] = d
			m.reach(d, x.b)
		} else if d := row[x.b] + x.now; d < row[x.a] {
			row[x.a] = d
			m.reach(d, x.a)
		}
	}
	m.spread(-1, row) // all carry what comes from anybody
}

// lose finds the agents to which no way is left that is as short as it was, the nearest first:
// beginning with those whose last link is another one now. A way that is as short ends with a
// link, and comes from a bucket before.
func (m *mender) lose(row []int32) {
	m.lost = m.lost[:0]
	m.begin()
	for _, x := range m.changed {
		switch a, b := row[x.a], row[x.b]; {
		case x.was == 0:
		case a+x.was == b:
			m.reach(b, x.b)
		case b+x.was == a:
			m.reach(a, x.a)
		}
	}
	for b := m.lowest; m.left > 0; b++ {
		head, later := &m.heads[b&(len(m.heads)-1)], int32(-1)
		for at := *head; at >= 0; {
			x := &m.reached[at]
			this := at
			at = x.next
			if int(x.dist>>m.shift) != b { // in a later round of the buckets
				x.next, later = later, this
				continue
			}
			m.left--
			if m.stale[x.agent] || m.held(row, x.agent) {
				continue
			}
			m.stale[x.agent] = true
			m.lost = append(m.lost, x.agent)
			dist, agent := x.dist, x.agent // reaching others moves x
			for _, h := range m.of(agent) {
				if row[h.to] == dist+h.cost && !m.stale[h.to] {
					m.reach(row[h.to], h.to)
				}
			}
		}
		*head = later
	}
}

// held says whether there is a way to an agent as short as it was.
func (m *mender) held(row []int32, t int32) bool {
	for _, h := range m.of(t) {
		if !m.stale[h.to] && row[h.to]+h.cost == row[t] {
			return true
		}
	}
	return false
}

// differences returns the links that stay and differ from another view's; false if there are
// more than most.
func (v *View) differences(u *View, most int) (all []difference, ok bool) {
	for i, k := 0, 0; len(all) <= most; {
		for i < len(u.links) && u.costs[i] == 0 {
			i++
		}
		for k < len(v.links) && v.costs[k] == 0 {
			k++
		}
		order := 0
		switch {
		case i == len(u.links) && k == len(v.links):
			return all, true
		case i == len(u.links):
			order = 1
		case k == len(v.links):
			order = -1
		default:
			order = byEnds(&u.links[i], &v.links[k])
		}
		var x difference
		if order <= 0 {
			x.a, x.b, x.was = int32(u.links[i].A), int32(u.links[i].B), u.costs[i]
			i++
		}
		if order >= 0 {
			x.a, x.b, x.now = int32(v.links[k].A), int32(v.links[k].B), v.costs[k]
			k++
		}
		if x.was != x.now {
			all = append(all, x)
		}
	}
	return nil, false
}
