package route

import (
	"cmp"
	"math"
	"slices"
)

const (
	// MaxAdvice is how many moves are advised at most: the best ones.
	MaxAdvice = 16
	// MaxFlows is how many flows count: the heaviest ones.
	MaxFlows = 1 << 12
	// maxPeers is of how many flows of a station bottlenecks are looked for: the heaviest.
	maxPeers = 16
	// maxFlow is as what a heavier flow counts, kbit/s: so that MaxFlows times this times
	// maxMicros has 63 bits.
	maxFlow = 1 << 25
)

// A Station is a machine, by the agent on whose LAN it is.
type Station struct {
	Agent int32
	Fixed bool // it can't move, as it is no VM
}

// A Flow is what a station sends to another one, by their places in a list.
type Flow struct {
	From, To int
	Kbit     uint32
}

// An Advice is that a station should move from an agent to another one. It supposes that
// all others stay where they are.
type Advice struct {
	Station  int
	From, To int32
	// Was and Will are what its flows cost now and then: the sum of their rates times
	// what the shortest paths between the agents cost, kbit/s · µs. Flows within a LAN
	// cost nothing, those between agents that don't reach each other a minute.
	Was, Will uint64
	// WasKbit and WillKbit are the narrowest of the widest paths that its flows (the
	// heaviest 16) have now and then, with what these flows take given back: math.MaxUint32
	// if all are within a LAN, 0 if one isn't known, or there is no path.
	WasKbit, WillKbit uint32
	// Unless is an advice before this one, by its place, about a station with which this
	// one exchanges traffic: if it is followed this one doesn't hold any more; -1: none.
	Unless int
}

// An adviser is what Advise knows while it does.
type adviser struct {
	*Finder
	g        *Graph
	stations []Station
	flows    []Flow
	of       [][]int    // by station: its flows
	to, from [][]uint32 // by agent: what it costs from each agent to it, and back; nil: nobody asked
}

// Advise says which stations would gain by which moves to one of the hosts, nil for all
// agents: for each station the best one, if its flows cost less by a tenth at least; the
// greatest savings first, MaxAdvice at most. It is a pure function of its arguments, and
// moves nothing. Flows between stations that aren't in the list, or whose agents aren't in
// the graph, are ignored. It takes two searches for each agent whose stations have flows.
func (f *Finder) Advise(g *Graph, hosts []int32, stations []Station, flows []Flow) []Advice {
	a := &adviser{Finder: f, g: g, stations: stations}
	a.take(flows)
	if hosts == nil {
		for i := range g.nodes {
			hosts = append(hosts, int32(i))
		}
	}
	var all []Advice
	for s := range stations {
		if x, ok := a.best(s, hosts); ok {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(x, y Advice) int {
		return cmp.Or(cmp.Compare(y.Was-y.Will, x.Was-x.Will), cmp.Compare(x.Station, y.Station))
	})
	all = all[:min(len(all), MaxAdvice)]
	for i := range all {
		all[i].Unless = slices.IndexFunc(all[:i], func(before Advice) bool { return a.exchange(all[i].Station, before.Station) })
		a.bottlenecks(&all[i])
	}
	return all
}

// take sorts out the flows.
func (a *adviser) take(flows []Flow) {
	known := func(s int) bool { return s >= 0 && s < len(a.stations) && a.g.has(a.stations[s].Agent) }
	for _, x := range flows {
		if known(x.From) && known(x.To) && x.From != x.To {
			x.Kbit = min(x.Kbit, maxFlow)
			a.flows = append(a.flows, x)
		}
	}
	slices.SortFunc(a.flows, func(x, y Flow) int {
		return cmp.Or(cmp.Compare(y.Kbit, x.Kbit), cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To))
	})
	a.flows = a.flows[:min(len(a.flows), MaxFlows)]
	a.of = make([][]int, len(a.stations))
	a.to, a.from = make([][]uint32, a.g.Len()), make([][]uint32, a.g.Len())
	for i, x := range a.flows {
		a.of[x.From], a.of[x.To] = append(a.of[x.From], i), append(a.of[x.To], i)
	}
}

// best returns the best move of a station.
func (a *adviser) best(s int, hosts []int32) (x Advice, ok bool) {
	if a.stations[s].Fixed || len(a.of[s]) == 0 {
		return x, false
	}
	here := a.stations[s].Agent
	x = Advice{Station: s, From: here, To: here, Was: a.cost(s, here)}
	x.Will = x.Was
	for _, h := range hosts {
		if !a.g.has(h) {
			continue
		}
		if c := a.cost(s, h); c < x.Will || c == x.Will && h < x.To && x.To != here {
			x.To, x.Will = h, c
		}
	}
	return x, x.To != here && x.Was-x.Will >= (x.Was+9)/10
}

// cost returns what the flows of a station cost if it is at an agent.
func (a *adviser) cost(s int, at int32) (sum uint64) {
	for _, i := range a.of[s] {
		x := a.flows[i]
		if x.From == s {
			peer := a.stations[x.To].Agent
			a.measure(peer)
			sum += uint64(x.Kbit) * uint64(a.to[peer][at])
		} else {
			peer := a.stations[x.From].Agent
			a.measure(peer)
			sum += uint64(x.Kbit) * uint64(a.from[peer][at])
		}
	}
	return sum
}

// measure finds what the shortest paths cost from an agent to all, and back.
func (a *adviser) measure(agent int32) {
	if a.to[agent] != nil {
		return
	}
	costs := func(w weights) []uint32 {
		a.search(a.g, w, agent, none, MaxHops)
		all := make([]uint32, a.g.Len())
		for v, s := range a.Finder.best {
			all[v] = maxMicros
			if s != none {
				all[v] = uint32(min(maxMicros, a.steps[s].weight>>tieBits))
			}
		}
		return all
	}
	a.from[agent] = costs(a.g.sum)
	back := a.copyWeights(a.g)
	for u := range int32(a.g.Len()) {
		for e := a.g.first[u]; e < a.g.first[u+1]; e++ {
			there, _ := a.g.link(a.g.to[e], u)
			back.link[e] = a.g.sum.link[there]
		}
	}
	a.to[agent] = costs(back)
}

// exchange says whether two stations have a flow.
func (a *adviser) exchange(s, t int) bool {
	return slices.ContainsFunc(a.of[s], func(i int) bool { return a.flows[i].From == t || a.flows[i].To == t })
}

// bottlenecks looks for the narrowest paths of a station's flows, now and then.
func (a *adviser) bottlenecks(x *Advice) {
	flows := a.of[x.Station]
	flows = flows[:min(len(flows), maxPeers)]
	ends := func(i int, at int32) (from, to int32) {
		if a.flows[i].From == x.Station {
			return at, a.stations[a.flows[i].To].Agent
		}
		return a.stations[a.flows[i].From].Agent, at
	}
	var now []Path
	var own []Load
	for _, i := range flows {
		from, to := ends(i, x.From)
		p := a.widest(from, to, nil)
		now = append(now, p)
		own = append(own, Load{p, int64(a.flows[i].Kbit)})
	}
	x.WasKbit, x.WillKbit = math.MaxUint32, math.MaxUint32
	for k, i := range flows {
		x.WasKbit = min(x.WasKbit, a.rate(now[k], own))
		from, to := ends(i, x.To)
		x.WillKbit = min(x.WillKbit, a.rate(a.widest(from, to, own), own))
	}
}

// widest returns the widest path between two agents, of one node if they are the same.
func (a *adviser) widest(from, to int32, own []Load) Path {
	if from == to {
		return Path{from}
	}
	return a.bulkTo(a.g, from, to, own, none, near)
}

// rate returns what is left on a path; none is as narrow as one that isn't known.
func (a *adviser) rate(p Path, own []Load) uint32 {
	switch len(p) {
	case 0:
		return 0
	case 1:
		return math.MaxUint32
	}
	return figuresOf(a.g, p, a.given(a.g, own)).RateKbit
}
