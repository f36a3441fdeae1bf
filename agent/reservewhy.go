package agent

import (
	"fmt"

	"farlan/overlay"
	"farlan/reserve"
)

// reservedWhy says of the flows to a goal why each has a reservation, or none; nil if nothing is
// reserved at this agent.
func (n *node) reservedWhy(g goal, names map[overlay.AgentID]string) []reservedWhyView {
	b := n.reserving.broker
	if b == nil {
		return nil
	}
	all := []reservedWhyView{}
	if g.peer == nil {
		return all
	}
	meant := func(f reserve.Flow) bool {
		return f.To == g.peer.id && (g.station == nil || f.Dest == *g.station || f.Dest == overlay.MAC{})
	}
	rows := b.List()
	plain := plainNames(rows, names)
	for _, f := range b.Flows(g.peer.id) {
		if why := b.Explain(f); meant(f) && why != "" {
			all = append(all, reservedWhyView{flowOf(f, names), plain.Replace(why)})
		}
	}
	for i := range rows { // what the other end coordinates
		r := &rows[i]
		if r.Coordinator != n.self && r.From == n.self && r.Flow.From == n.self && meant(r.Flow) && !r.Whole.Over() {
			why := fmt.Sprintf("%v %v: %s coordinates it, for %s", r.Whole, n.innerRate(r), *agentName(r.Coordinator, names), r.Owner)
			all = append(all, reservedWhyView{flowOf(r.Flow, names), why})
		}
	}
	return all
}
