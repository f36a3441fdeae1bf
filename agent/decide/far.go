package decide

import (
	"cmp"
	"slices"
	"time"

	"farlan/discovery"
	"farlan/measure"
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

// bypassFor is how long at least one way is taken to an agent of another area until another one
// is.
const bypassFor = Epoch

// A Bypass decides whether what is sent to an agent of another area that is reached directly goes
// by gateways all the same, as that costs less. The zero Bypass is ready, and pure; not safe for
// concurrent use.
type Bypass struct {
	gateway overlay.AgentID // zero: none is taken
	since   overlay.Instant // when that changed last, 0 never
}

// Step returns the path to take, of those by gateways that work, the best one first; ok is false
// if that is the direct one, of which direct is what was measured. As elsewhere a way is left for
// one that costs less by a tenth; one that isn't there any more, or isn't measured, at once.
func (b *Bypass) Step(now overlay.Instant, direct measure.Pair, all []FarPath) (best FarPath, ok bool) {
	i := slices.IndexFunc(all, func(f FarPath) bool { return f.Gateway == b.gateway })
	if direct.RTT <= 0 || i < 0 {
		b.take(now, overlay.AgentID{})
		i = -1
	}
	straight := linkOf(overlay.AgentID{}, discovery.Link{Pair: direct})
	cost := microseconds(straight.Cost(straight))
	is, at := cost, i
	if i >= 0 {
		is = all[i].Cost
	}
	least := is - max(keepMicros*time.Microsecond, is/keepShare)
	switch {
	case direct.RTT <= 0 || b.since != 0 && now.Sub(b.since) < bypassFor:
	case len(all) > 0 && all[0].Cost < least && (i < 0 || all[0].Cost <= cost):
		at = 0
	case i >= 0 && cost < least:
		at = -1
	}
	if at < 0 {
		b.take(now, overlay.AgentID{})
		return FarPath{}, false
	}
	b.take(now, all[at].Gateway)
	return all[at], true
}

func (b *Bypass) take(now overlay.Instant, gateway overlay.AgentID) {
	if b.gateway != gateway {
		b.gateway, b.since = gateway, now
	}
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
