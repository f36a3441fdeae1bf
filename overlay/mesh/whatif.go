package mesh

import "math/bits"

// whatIf is what a View needs to answer what one link less or more would change, and to
// take it back.
type whatIf struct {
	a, b  int // the link that is cut, if cost isn't zero
	cost  int32
	old   []entry // distances as they were
	near  []int   // agents on the one side of the link, and on the other
	over  []int
	far   []step // over, and how far they are from the link's end
	stale []bool // not yet repaired
	trial []int32
}

type entry struct {
	at   int
	dist int32
}

func (w *whatIf) init(n int) {
	w.stale, w.trial = make([]bool, n), make([]int32, n)
}

// cut takes a link off and returns by how much the distances' part of Φ rises; nothing
// if the link isn't there. undo must follow.
//
// Only pairs with an end on each side of the link are looked at: those whose distance
// is that over the link. The rows of the smaller side are repaired from what stays
// (Ramalingam and Reps, "An incremental algorithm for a generalization of the
// shortest-path problem", 1996).
func (v *View) cut(a, b int) (rise int64) {
	v.settled() // with the link
	w := &v.what
	c, ok := v.detach(a, b)
	if !ok {
		return 0
	}
	w.a, w.b, w.cost = a, b, c
	before := v.demandSum()
	w.near, w.over = v.behind(a, b, c, w.near[:0]), v.behind(b, a, c, w.over[:0])
	if len(w.near) > len(w.over) {
		a, b = b, a
		w.near, w.over = w.over, w.near
	}
	for _, s := range w.near {
		rise += v.repair(s, v.d(s, a)+c, b)
	}
	return rise + v.demandSum() - before
}

// behind appends the agents whose best way to b, one at least, comes over the link from a.
func (v *View) behind(a, b int, c int32, into []int) []int {
	if !v.relays(a, b) {
		return append(into, a)
	}
	toA, toB := v.row(a), v.row(b)
	for s := range v.agents {
		if toA[s]+c == toB[s] {
			into = append(into, s)
		}
	}
	return into
}

// repair finds the distances anew from s to those on the other side that it reached
// over the link that was cut, whose end b was so far.
func (v *View) repair(s int, toB int32, b int) (rise int64) {
	w, n := &v.what, len(v.agents)
	row, beyond := v.row(s), v.row(b)
	first := len(w.old)
	for _, t := range w.over {
		if row[t] == toB+beyond[t] {
			w.stale[t] = true
			w.old = append(w.old, entry{s*n + t, row[t]})
		}
	}
	lost := w.old[first:]
	for _, e := range lost {
		t, best := e.at-s*n, int32(far)
		for _, h := range v.next[t] {
			if !w.stale[h.to] && v.relays(int(h.to), s) {
				best = min(best, row[h.to]+h.cost)
			}
		}
		if w.trial[t] = best; best < far {
			v.heap.push(best, t)
		}
	}
	for len(v.heap) > 0 {
		d, t := v.heap.pop()
		if !w.stale[t] || d > w.trial[t] {
			continue
		}
		w.stale[t] = false
		if !v.relays(t, s) {
			continue
		}
		for _, h := range v.next[t] {
			if to := d + h.cost; w.stale[h.to] && to < w.trial[h.to] {
				w.trial[h.to] = to
				v.heap.push(to, int(h.to))
			}
		}
	}
	for _, e := range lost {
		t := e.at - s*n
		w.stale[t] = false
		row[t], v.dist[t*n+s] = w.trial[t], w.trial[t]
		rise += int64(w.trial[t] - e.dist)
	}
	return rise
}

// undo takes back what cut did.
func (v *View) undo() {
	w, n := &v.what, len(v.agents)
	for _, e := range w.old {
		v.dist[e.at], v.dist[e.at%n*n+e.at/n] = e.dist, e.dist
	}
	if w.cost != 0 {
		v.attach(w.a, w.b, w.cost)
	}
	w.old, w.cost = w.old[:0], 0
}

// gain returns by how much the distances' part of Φ would fall with one more link.
func (v *View) gain(a, b int, cost int32) (fall int64) {
	w := &v.what
	if sum, ok := v.joins(a, b, cost); ok {
		return sum
	}
	w.near, w.over = v.better(a, b, cost, w.near[:0]), v.better(b, a, cost, w.over[:0])
	rowA, rowB := v.row(a), v.row(b)
	w.far = w.far[:0]
	for _, t := range w.over {
		w.far = append(w.far, step{int32(t), rowB[t]})
	}
	for _, s := range w.near {
		row, toB := v.row(s), rowA[s]+cost
		for _, t := range w.far { // without branches, which nobody could foresee
			fall += int64(max(0, row[t.to]-toB-t.cost))
		}
	}
	return fall + v.wantedGain(a, b, cost)
}

// wantedGain returns what demands add to a gain.
func (v *View) wantedGain(a, b int, cost int32) (fall int64) {
	for _, x := range v.wanted {
		d := min(v.via(x.from, a, b, x.to, cost), v.via(x.from, b, a, x.to, cost))
		fall += x.weight * int64(max(0, v.d(x.from, x.to)-d))
	}
	return fall
}

// joins returns the gain of a link that joins two pieces, if that is what it does and all
// agents carry what others send: then each pair of the two comes nearer, and two sums tell
// by how much. While agents start, and where what is cut holds them together, nearly all
// links do that, and there are most pairs to look at.
func (v *View) joins(a, b int, cost int32) (fall int64, ok bool) {
	if v.mutes || v.d(a, b) != far {
		return 0, false
	}
	rowA, rowB := v.row(a), v.row(b)
	var near, over, toA, toB int64
	most := [2]int32{}
	for s, d := range rowA {
		switch {
		case d != far:
			near, toA, most[0] = near+1, toA+int64(d), max(most[0], d)
		case rowB[s] != far:
			over, toB, most[1] = over+1, toB+int64(rowB[s]), max(most[1], rowB[s])
		}
	}
	if most[0]+cost >= far-most[1] { // so long that it is as if there were no way
		return 0, false
	}
	return near*over*int64(far-cost) - over*toA - near*toB + v.wantedGain(a, b, cost), true
}

// gainAtMost returns a bound of what gain returns, much sooner. Two agents on different
// sides of the link come nearer to each other at most by the less of what either comes
// nearer to the link's other end, and that is less than the ends do. The sum of that is
// the integral of how many pairs come nearer by more than so much, which is taken in steps.
func (v *View) gainAtMost(a, b int, cost int32) (most int64) {
	if gain, ok := v.joins(a, b, cost); ok {
		return gain
	}
	const steps = 64
	var near, over [steps]int64
	rowA, rowB := v.row(a), v.row(b)
	shift := max(0, bits.Len32(uint32(max(0, rowA[b]-cost)))-6)
	passA, passB := !v.agents[a].NoTransit, !v.agents[b].NoTransit
	for s, toA := range rowA {
		switch by := rowB[s] - toA; {
		case by > cost && (passA || s == a):
			near[min((by-cost)>>shift, steps-1)]++
		case -by > cost && (passB || s == b):
			over[min((-by-cost)>>shift, steps-1)]++
		}
	}
	var n, o int64
	for i := steps - 1; i >= 0; i-- {
		n, o = n+near[i], o+over[i]
		most += n * o << shift
	}
	return most + v.wantedGain(a, b, cost)
}

// better appends the agents who would be nearer to b over a link from a.
func (v *View) better(a, b int, cost int32, into []int) []int {
	toA, toB := v.row(a), v.row(b)
	for s := range v.agents {
		if toA[s]+cost < toB[s] && v.relays(a, s) {
			into = append(into, s)
		}
	}
	return into
}

// via returns the distance over a link from a to b.
func (v *View) via(from, a, b, to int, cost int32) int32 {
	if !v.relays(a, from) || !v.relays(b, to) {
		return far
	}
	return v.d(from, a) + cost + v.d(b, to)
}
