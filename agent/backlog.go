package agent

import (
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/reserve"
)

// What harms a pair of stations is told by what waits for it at its own agent, not by how much
// arrives: that is what it got, not what it wants. With --uplink frames wait in the shaper, each
// flow by itself, otherwise at the sockets of their lanes, each for all before it.

// backlogEvery is how often it is looked how much waits at the sockets. What counts is the least
// in a second: a queue that stands, not one that a burst makes.
const backlogEvery = 100 * time.Millisecond

// backlogs are what the loop knows of what waits at the sockets for bulk.
type backlogs struct {
	looked overlay.Instant
	least  []int // of each lane since it was taken; -1: it wasn't looked
}

// lookAtBacklogs notes how much waits.
func (n *node) lookAtBacklogs(now overlay.Instant) {
	b := &n.backlogs
	if now.Sub(b.looked) < backlogEvery {
		return
	}
	b.looked = now
	for len(b.least) < n.lanes {
		b.least = append(b.least, -1)
	}
	for lane := range b.least {
		waiting := 0
		for _, s := range n.sockets {
			waiting += s.Bulk[lane].Waiting()
		}
		if b.least[lane] < 0 || waiting < b.least[lane] {
			b.least[lane] = waiting
		}
	}
}

// take returns what stood at a lane's sockets since it was taken last.
func (b *backlogs) take(lane int) int {
	if lane >= len(b.least) {
		return 0
	}
	least := b.least[lane]
	b.least[lane] = -1
	return max(least, 0)
}

// standBefore says of flows that a lane carried in some time how much stood before them, and for
// how long, as they left at their rate.
func standBefore(flows []measure.Flow, stood int, past time.Duration) {
	sent := uint64(0)
	for i := range flows {
		sent += flows[i].Bytes - flows[i].Over
	}
	if stood == 0 || sent == 0 || past <= 0 {
		return
	}
	waited := time.Duration(float64(stood) / float64(sent) * float64(past))
	for i := range flows {
		flows[i].Waiting, flows[i].Waited = int64(stood), max(flows[i].Waited, waited)
	}
}

// A pairDemand is what a pair of stations sends, for who decides on reservations.
type pairDemand struct {
	measure.Demand
	Agent    overlay.AgentID
	Queue    time.Duration // by how much longer than when it is empty the way there takes now
	Reserved *reserve.ID   // whose way its frames take; nil: none's
}

// pairs returns what this agent's stations send to those of others, the most first. It is for
// the loop.
func (n *node) pairs() []pairDemand {
	var all []pairDemand
	v, t := n.view.Load(), n.reserved.sent.Load()
	for _, d := range n.flows.demands.Pairs() {
		p := v.peer(d.Place)
		if p == nil {
			continue
		}
		x := pairDemand{Demand: d, Agent: p.id}
		p.mu.Lock()
		if p.path != nil {
			x.Queue, _ = p.path.Queues()
		}
		p.mu.Unlock()
		if t != nil {
			head := append(append([]byte{}, d.To[:]...), d.From[:]...)
			if w := t.find(p, head); w != nil {
				x.Reserved = &w.id
				x.waitsFor(w, n.cfg.Uplink.Up > 0)
			}
		}
		all = append(all, x)
	}
	return all
}

// waitsFor says that the pair's frames wait for a way of their own, before which they may have
// waited in the shaper, too.
func (x *pairDemand) waitsFor(w *reservedWay, shaped bool) {
	if x.Queue = 0; !shaped {
		x.Waiting, x.Wait = 0, 0
	}
	if own := int64(w.waiting()); own > x.Waiting {
		x.Waiting = own
		if x.Rate > 0 {
			x.Wait = max(x.Wait, time.Duration(float64(own)*8/float64(x.Rate)*float64(time.Second)))
		}
	}
}
