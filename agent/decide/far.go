package decide

import (
	"cmp"
	"slices"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

// Lookout returns that of the agent by what it had when it decided last, nil if it isn't in
// any graph then. It uses what r has and must not be used after the next Update.
func (r *Routes) Lookout(b *Beyond) *Lookout {
	if _, ok := r.graph.Index(r.self); !ok {
		return nil
	}
	return NewLookout(b, r.graph, r.me, &r.finder)
}

// A FarPath leads to an agent of another area.
type FarPath struct {
	Gateway overlay.AgentID // by whose tree
	Near    Path            // from the agent to the gateway, both included
	Far
}

// Paths returns the best path to an agent of another area by each gateway that tells of it,
// the best one first; none if that is as Path says.
func (l *Lookout) Paths(to discovery.Brief) (all []FarPath) {
	for _, x := range l.beyond.find(to) {
		gate := &l.beyond.gates[x.gate]
		tree := gate.Way(int(x.at))
		near, cost, there := l.reach(l.gates[x.gate], route.MaxHops-len(tree))
		if !there || gate.NoTransit || l.crosses(near, tree) {
			continue
		}
		p := FarPath{Gateway: gate.ID, Far: Far{near, tree, cost + gate.Tree[x.at].Cost + gate.Cost}}
		for _, i := range near {
			p.Near = append(p.Near, l.graph.ID(i))
		}
		all = append(all, p)
	}
	slices.SortStableFunc(all, func(a, b FarPath) int {
		return cmp.Or(cmp.Compare(a.Cost, b.Cost), compareKeys(a.Gateway, b.Gateway))
	})
	return all
}

// Living returns those of gateways, ascending, that are there in an epoch, by what they tell:
// those that told something of late, and who is linked with them. What a gateway told that died
// lasts as long as any record, and it would be reckoned with, and its area.
func Living(self overlay.AgentID, epoch int64, gates []Gate) []Gate {
	told := Backbone(gates)
	here := present(told, pairsOf(told, namesOf(told)), self, overlay.Instant(epoch)*overlay.Instant(Epoch))
	i := -1
	return slices.DeleteFunc(gates, func(Gate) bool { i++; return !here[i] })
}

// Tellers returns the gateways that tell of an agent, ascending.
func (b *Beyond) Tellers(name discovery.Brief) (all []overlay.AgentID) {
	for _, l := range b.find(name) {
		all = append(all, b.gates[l.gate].ID)
	}
	return all
}
