package mesh

import (
	"cmp"
	"slices"
)

// derivable is how many links of two views may differ, for each hundred agents, so that the
// distances of one are sooner found from those of the other than anew.
const derivable = 60

// Like says that a view of the same agents, whose distances are known, differs by few links:
// when its own distances are asked for, they may be found from those, to the same result. So
// simulators find those of agents that know nearly the same. The other one isn't changed, and
// not kept for longer.
func (v *View) Like(other *View) {
	if other != v && v.dist == nil {
		v.like = other
	}
}

// A difference is a link that differs between two views: what it costs, 0 where it isn't.
type difference struct {
	a, b     int
	was, now int32
}

// derive finds the distances from those of a view that is alike; false if there is none, or
// it is less alike than was thought.
func (v *View) derive() bool {
	u := v.like
	v.like = nil
	if u == nil || u.dist == nil || u.what.cost != 0 || v.mutes || u.mutes || len(u.agents) != len(v.agents) {
		return false
	}
	for i := range v.agents {
		if v.agents[i].ID != u.agents[i].ID {
			return false
		}
	}
	all, ok := v.differences(u, max(1, len(v.agents)*derivable/100))
	if !ok {
		return false
	}
	fresh := v.next
	v.next = make([][]hop, len(u.next))
	for i, hops := range u.next {
		v.next[i] = slices.Clone(hops)
	}
	v.dist = slices.Clone(u.dist)
	slices.SortStableFunc(all, func(x, y difference) int { return cmp.Compare(y.kind(), x.kind()) })
	for _, x := range all {
		v.become(x)
	}
	v.next = fresh
	return true
}

// kind is 1 of links that are new or cost less, so that as few agents as possible are without
// a way meanwhile; 0 of others.
func (x difference) kind() int {
	if x.was == 0 || x.now != 0 && x.now < x.was {
		return 1
	}
	return 0
}

// become makes a link what it is now, and the distances with it.
func (v *View) become(x difference) {
	if x.kind() == 0 {
		v.cut(x.a, x.b)
		v.what.old, v.what.cost = v.what.old[:0], 0 // that isn't undone
	} else if x.was != 0 {
		v.detach(x.a, x.b)
	}
	if x.now != 0 {
		v.attach(x.a, x.b, x.now)
		v.shorten(x.a, x.b, x.now)
	}
}

// shorten lowers the distances that a link makes less which is new.
func (v *View) shorten(a, b int, cost int32) {
	w, n := &v.what, len(v.agents)
	w.near, w.over = v.better(a, b, cost, w.near[:0]), v.better(b, a, cost, w.over[:0])
	rowA, rowB := v.row(a), v.row(b)
	for _, s := range w.near {
		row, toB := v.row(s), rowA[s]+cost
		for _, t := range w.over {
			if d := toB + rowB[t]; d < row[t] {
				row[t], v.dist[t*n+s] = d, d
			}
		}
	}
}

// differences returns the links that stay and differ from another view's; false if there are
// more than most.
func (v *View) differences(u *View, most int) (all []difference, ok bool) {
	for i, k := 0, 0; len(all) <= most; {
		for i < len(u.links) && u.links[i].leaving() {
			i++
		}
		for k < len(v.links) && v.links[k].leaving() {
			k++
		}
		if i == len(u.links) && k == len(v.links) {
			return all, true
		}
		order := 0
		switch {
		case i == len(u.links):
			order = 1
		case k == len(v.links):
			order = -1
		default:
			order = byEnds(u.links[i], v.links[k])
		}
		var x difference
		if order <= 0 {
			l := &u.links[i]
			x.a, x.b, x.was = l.A, l.B, u.cost(l.A, l.B, l.Cost)
			i++
		}
		if order >= 0 {
			l := &v.links[k]
			x.a, x.b, x.now = l.A, l.B, v.cost(l.A, l.B, l.Cost)
			k++
		}
		if x.was != x.now {
			all = append(all, x)
		}
	}
	return nil, false
}
