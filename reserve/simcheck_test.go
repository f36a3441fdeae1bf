package reserve

import (
	"time"
)

// moved sees to it that states move as drawn, and that what is over holds nothing.
func (n *simNode) moved(id ID, from, to State) {
	w := n.w
	if !from.May(to) {
		w.fail("agent %d: %v went from %v to %v", n.i, id, from, to)
	}
	switch to {
	case Orphan:
		w.orphans++
	case Unknown:
		w.unknowns++
	}
	if id.Segment != stray || n.b.reservations[id.Reservation] == nil {
		return
	}
	switch to {
	case Active:
		w.active++
		if !n.b.reservations[id.Reservation].declared {
			w.automatic++
		}
	case Rejected:
		w.rejected++
	case Lost:
		w.lost++
	}
	if r := n.b.reservations[id.Reservation]; to.Over() && w.now < r.end {
		w.checkGone(id.Reservation)
	}
}

// checkGone sees to it that nobody holds anything of a reservation that its coordinator says is
// over.
func (w *simWorld) checkGone(reservation [16]byte) {
	for _, n := range w.nodes {
		for _, f := range n.drivers {
			f.expire(w.now)
			for _, g := range f.held {
				if g.id.Reservation == reservation {
					w.fail("agent %d holds %v of what is over", n.i, g.id)
				}
			}
		}
	}
}

// checkSums sees to it that no egress promises more than it may. When it carries less than it did,
// there may be more until what is too much is given back, but nothing new.
func (n *simNode) checkSums(more bool) {
	for e, c := range n.capacity {
		sum := Rate(0)
		for _, f := range n.drivers {
			for _, g := range f.held {
				if g.egress == e {
					sum += g.Rate
				}
			}
		}
		since := n.w.now.Sub(n.changed[e])
		if most := Reservable(max(c, n.before[e])); more && since < shedTime && sum > most || since >= shedTime && n.w.calm && sum > c*mostShare/1000 ||
			n.before[e] == 0 && sum > Reservable(c) {
			n.w.fail("agent %d has promised %v at an egress of %v, %v before", n.i, sum, c, n.before[e])
		}
	}
}

// shedTime is how long agents whose drivers do what they are told take to give back what is too
// much.
const shedTime = 2 * time.Second

// checkWays sees to it that no packets go by what doesn't work, as far as its driver could tell.
func (n *simNode) checkWays(when string) {
	for _, way := range n.ways {
		n.w.ways++
		ok := false
		for _, f := range n.drivers {
			g := f.up(way.ID)
			ok = ok || g != nil && g.Mark.Priority == way.Mark.Priority
		}
		if !ok && !n.excused(way.ID) {
			n.w.fail("agent %d sends by %v, which isn't up, %s", n.i, way.ID, when)
		}
		n.checkLabel(way)
	}
}

// checkLabel sees to it that a flow is passed on by the number that the next agent knows it by, and
// that this agent's is another than all others'.
func (n *simNode) checkLabel(way Way) {
	if way.Next != way.Flow.To {
		next := n.w.nodes[n.w.index[way.Next]]
		id := ID{way.ID.Reservation, way.ID.Segment + 1}
		if next.b == nil || next.b.segments[id] == nil || next.b.segments[id].state.Over() {
			return
		}
		if l := next.b.segments[id].label; l != way.Onward || l == 0 {
			n.w.fail("agent %d passes %v on as %d, and agent %d knows it as %d", n.i, way.ID, way.Onward, next.i, l)
		}
		n.w.labels++
	}
	for _, o := range n.ways {
		if o.ID != way.ID && o.Label == way.Label && o.Label != 0 {
			n.w.fail("agent %d knows %v and %v as %d", n.i, o.ID, way.ID, o.Label)
		}
	}
}

// excused says whether what a segment holds broke by itself, which is seen by the next list at the
// latest: after a minute, and what lists that aren't answered add.
func (n *simNode) excused(id ID) bool {
	at, ok := n.broken[id]
	return ok && n.w.now.Sub(at) < listEvery+30*time.Second
}

// checkReconciled sees to it that what drivers hold is in the journal, a minute after a start.
func (n *simNode) checkReconciled() {
	for _, f := range n.drivers {
		f.expire(n.w.now)
		for _, g := range f.held {
			if s := n.b.segments[g.id]; (s == nil || s.state.Over()) && !n.releases(f, g) {
				n.w.fail("agent %d holds %v a minute after its start, and doesn't know of it", n.i, g.id)
			}
		}
	}
}

// releases says whether a release is on its way that a driver didn't confirm at first.
func (n *simNode) releases(f *fake, g *fakeGrant) bool {
	for _, s := range n.b.order {
		if s.id.Segment == stray && s.grant.Handle == g.Handle && s.driver == f.caps.Name && (s.call != 0 || s.tries > 0) {
			n.w.strays++
			return true
		}
	}
	return false
}

// checkEmpty sees to it that nothing is left, nowhere.
func (w *simWorld) checkEmpty() {
	for _, n := range w.nodes {
		for _, f := range n.drivers {
			f.expire(w.now)
			for _, g := range f.held {
				w.fail("agent %d still holds %v, until %v", n.i, g.id, g.End.Sub(simBeginning))
			}
		}
		if n.b == nil {
			w.fail("agent %d isn't there", n.i)
			continue
		}
		for _, r := range n.b.course {
			if !r.state.Over() {
				w.fail("agent %d: reservation %x is %v: %s", n.i, r.id, r.state, r.reason)
			}
		}
		if len(n.ways) > 0 {
			w.fail("agent %d has ways", n.i)
		}
	}
}

// checkLeaks sees to it that nothing outlives its end by more than a minute while its agent runs.
func (w *simWorld) checkLeaks() {
	for _, n := range w.nodes {
		for _, f := range n.drivers {
			for _, g := range f.held {
				if past := w.now.Sub(max(g.End, n.since)); past > time.Minute+time.Second && n.b != nil {
					w.fail("agent %d holds %v for %v after its end", n.i, g.id, past)
				}
			}
		}
	}
	for _, n := range w.nodes {
		n.checkSums(false)
	}
	w.after(5*time.Second, w.checkLeaks)
}
