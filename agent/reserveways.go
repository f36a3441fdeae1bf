package agent

import (
	"maps"
	"slices"
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/reserve"
)

// triedFor is for how long a way is kept that no frames take and no probe tried.
const triedFor = 10 * time.Second

// A reserveProbe is one under way.
type reserveProbe struct {
	last   overlay.Instant // when one was sent last
	answer chan time.Duration
	key    probeKey
	to     *peer // nil: none is under way
}

// useWays has frames go by the ways that there are, and by no others.
func (n *node) useWays(now overlay.Instant) {
	r := &n.reserving
	there := make(map[reserve.ID]bool, len(r.ways))
	for _, w := range r.ways {
		there[w.ID] = true
	}
	for _, id := range slices.SortedFunc(maps.Keys(n.reserved.ways), reserve.ID.Compare) {
		if w := n.reserved.ways[id]; !there[id] && !w.flow.none() {
			n.rest(now, id, w)
		}
	}
	for id := range n.reserved.passages {
		if !there[id] {
			n.revokePassage(id)
		}
	}
	r.undone = false
	for _, w := range r.ways {
		if err := n.useWay(now, w); err != nil {
			n.log.Warn("reserved way can't be used", "id", w.ID, "error", err)
			r.undone = true
		}
	}
}

// useWay has frames take a way, those of this agent's stations or those that it passes on.
func (n *node) useWay(now overlay.Instant, w reserve.Way) error {
	grant := reserve.Grant{ID: w.ID, Rate: w.Rate, Mark: w.Mark} // it ends when there is no way any more
	if w.Flow.From != n.self {
		return n.grantPassage(now, w.ID, passageFlow{w.Label, w.Prev, w.Next, w.Onward, grant})
	}
	f := n.flowOf(&w.Flow, w.Path, w.Onward, grant)
	if w.Flow.Source == (overlay.MAC{}) {
		f.All = true
	} else {
		f.Pair = pairOf(&w.Flow)
	}
	return n.setReserved(now, w.ID, f)
}

// flowOf returns a reserved flow that no frames take yet.
func (n *node) flowOf(f *reserve.Flow, relays []overlay.AgentID, label byte, g reserve.Grant) reservedFlow {
	x := reservedFlow{To: f.To, Number: label, Paced: g.Mark.Device != "", Grant: g}
	if len(relays) > 0 {
		x.Path = slices.Concat([]overlay.AgentID{n.self}, relays, []overlay.AgentID{f.To})
	}
	return x
}

func pairOf(f *reserve.Flow) (p measure.StationPair) {
	copy(p[:6], f.Dest[:])
	copy(p[6:], f.Source[:])
	return p
}

// rest has frames go the ordinary way again, and keeps the reserved one for probes.
func (n *node) rest(now overlay.Instant, id reserve.ID, w *reservedWay) {
	f := w.flow
	f.All, f.Pair = false, measure.StationPair{}
	if err := n.setReserved(now, id, f); err != nil {
		n.clearReserved(id)
	}
}

// tryWay sends a probe by a reservation's way, which is made ready if it isn't there yet.
func (n *node) tryWay(now overlay.Instant, p reserve.Probe) {
	r, id := &n.reserving, reserve.ID{Reservation: p.Reservation}
	x := r.probes[id]
	if x == nil {
		x = &reserveProbe{answer: make(chan time.Duration, 1)}
		r.probes[id] = x
	}
	x.last = now
	x.forget()
	if w := n.reserved.ways[id]; w == nil || w.flow.none() {
		g := reserve.Grant{ID: id, Rate: p.Rate, Mark: p.Mark}
		if err := n.setReserved(now, id, n.flowOf(&p.Flow, p.Path, p.Label, g)); err != nil {
			n.log.Debug("reserved way can't be tried", "id", id, "error", err)
			return
		}
	}
	w := n.reserved.ways[id]
	key, err := n.probeReserved(id, x.answer)
	if err != nil {
		n.log.Debug("reserved way can't be tried", "id", id, "error", err)
		return
	}
	x.key, x.to = key, w.to
}

// forget ends the wait for an answer.
func (x *reserveProbe) forget() {
	if x.to != nil {
		x.to.forget(x.key)
		x.to = nil
	}
	select {
	case <-x.answer:
	default:
	}
}

// takeProbes tells the broker which probes came back.
func (n *node) takeProbes(now overlay.Instant) {
	r := &n.reserving
	for id, x := range r.probes {
		select {
		case <-x.answer:
			x.to = nil
			r.broker.Probed(now, id.Reservation, true)
			r.dirty = true
		default:
		}
	}
}

// unanswered tells the broker that a way fails.
func (n *node) unanswered(id reserve.ID) {
	if r := &n.reserving; r.broker != nil {
		r.broker.Unanswered(id.Reservation)
		r.dirty = true
	}
}

// endTries forgets ways that nobody tries any more.
func (n *node) endTries(now overlay.Instant) {
	for id, x := range n.reserving.probes {
		if now.Sub(x.last) < triedFor {
			continue
		}
		x.forget()
		delete(n.reserving.probes, id)
	}
	for id, w := range n.reserved.ways {
		if w.flow.none() && n.reserving.probes[id] == nil {
			n.clearReserved(id)
		}
	}
}
