package reserve

import "farlan/overlay"

// Flows returns the flows to an agent of which something is known, ascending: Explain says why
// each of them has a reservation, or none.
func (b *Broker) Flows(to overlay.AgentID) (all []Flow) {
	for _, n := range b.wishes {
		if n.flow.To == to {
			all = append(all, n.flow)
		}
	}
	return all
}
