package agent

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// A laneTop counts what a lane sends for its stations. The lane holds the lock while it
// carries a batch, the node's loop for a moment each second.
type laneTop struct {
	mu  sync.Mutex
	top measure.Top
}

// laneTop returns the counter of a lane, made if there is none.
func (n *node) laneTop(lane int) *laneTop {
	for len(n.tops) <= lane {
		n.tops = append(n.tops, new(laneTop))
	}
	return n.tops[lane]
}

// count notes a frame for a station at another agent.
func (t *laneTop) count(to overlay.Place, f *overlay.Frame) {
	t.top.Count((*measure.StationPair)(f.Head), to, onWire(f))
}

// waited notes how long a frame for a station has waited for the uplink.
func (t *laneTop) waited(f *overlay.Frame, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.top.Wait((*measure.StationPair)(f.Head), d)
}

// onWire returns how many bytes a frame is once it is cut into its segments, each with
// headers of its own.
func onWire(f *overlay.Frame) int {
	n := f.Len()
	if f.Super == 0 {
		return n
	}
	head := int(f.Start) // of the transport's header
	if tcp := head + 12; f.Super != overlay.SuperUDP && tcp < len(f.Head) {
		head += int(f.Head[tcp]>>4) * 4
	} else {
		head += 8
	}
	return n + max(n-head-1, 0)/max(int(f.Segment), 1)*head
}

// flows is what the loop knows of what this agent's stations send.
type flows struct {
	rates   measure.Flows
	demands measure.Demands
	at      overlay.Instant // when what the lanes counted was taken last
	taken   []measure.Flow  // scratch
}

// collect takes over what the lanes have counted.
func (f *flows) collect(now overlay.Instant, tops []*laneTop, stood *backlogs) {
	f.taken = f.taken[:0]
	past := now.Sub(f.at)
	f.at = now
	for lane, t := range tops {
		before := len(f.taken)
		t.mu.Lock()
		f.taken = t.top.Take(f.taken)
		t.mu.Unlock()
		standBefore(f.taken[before:], stood.take(lane), past)
	}
	f.rates.Add(now, f.taken)
	f.demands.Add(now, f.taken)
}

const (
	flowsTold  = 32     // flows that an agent tells of at most, and agents
	flowsShown = 1000   // of its own that it shows
	flowTold   = 50_000 // bits a second: smaller ones aren't told
)

// traffic returns what this agent tells of its stations' traffic.
func (n *node) traffic() (t discovery.Traffic) {
	sums := make(map[discovery.Brief]int64)
	for _, f := range n.flows.rates.Top(flowsShown) {
		p := n.view.Load().peer(f.Place)
		if p == nil {
			continue
		}
		agent := discovery.BriefOf(p.id)
		sums[agent] += int64(f.Rate)
		if len(t.Flows) < flowsTold && f.Rate >= flowTold {
			t.Flows = append(t.Flows, discovery.Flow{From: f.From, To: f.To, Agent: agent, Rate: int64(f.Rate)})
		}
	}
	for agent, rate := range sums {
		if rate >= flowTold {
			t.Sums = append(t.Sums, discovery.Sum{Agent: agent, Rate: rate})
		}
	}
	slices.SortFunc(t.Sums, func(a, b discovery.Sum) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(a.Agent, b.Agent))
	})
	t.Sums = t.Sums[:min(len(t.Sums), flowsTold)]
	return t
}

// tellFlows publishes what this agent's stations send, if it is news.
func (n *node) tellFlows(now overlay.Instant) {
	t, agents := n.traffic(), n.near()+1
	if !n.own.flows.Due(now, t, agents) {
		return
	}
	if body, err := t.Append(nil); err != nil {
		n.log.Error("can't tell of this agent's traffic", "error", err)
	} else if v, ok := n.sign(discovery.KindTraffic, body); ok {
		n.own.flowsVersion = v
		n.own.flows.Tell(now, t, agents)
	}
}

// sentTo returns how much is sent to an agent, in bits a second.
func (n *node) sentTo(id overlay.AgentID) (rate int64) {
	for _, s := range n.own.flows.Told.Sums {
		if s.Agent == discovery.BriefOf(id) {
			rate += s.Rate
		}
	}
	return rate
}
