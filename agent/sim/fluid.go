package sim

import (
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

// Data is simulated as rates, not frames: each second all flows get what is max-min fair on
// the ways that their senders have chosen, and what is left of links and access links is
// what agents tell. So what agents do to themselves by choosing shows.

// A Plant is a network of fixed links, on which flows are carried.
type Plant struct {
	Links []Line
	// Up and Down are the agents' access links, bits a second.
	Up, Down []int64
	Flows    []Flow
}

// A Line is a link that carries so many bits a second each way.
type Line struct {
	A, B int32
	Rate int64
}

// A Flow is what an agent wants to send to another, bits a second.
type Flow struct {
	From, To int32
	Wants    int64
}

const (
	// recent is of how many seconds agents tell the mean, updateEvery how often those who
	// send decide on their ways.
	recent, updateEvery = 5, 5
)

// fluid is the state of a Plant.
type fluid struct {
	*Plant
	routes map[int32]*decide.Routes // of senders
	parts  []int64                  // by link and direction, then agents up, then agents down: what it carries
	left   [recent][]int64          // of it, in the last seconds
	place  map[[2]int32]int         // of a link from an agent to another: index into parts
	second int
	rates  []int64      // by flow
	ways   []route.Path // by flow, of numbers of agents
	moves  []int        // by flow: how often its way was changed
}

func newFluid(p *Plant, agents int) *fluid {
	x := &fluid{Plant: p, routes: make(map[int32]*decide.Routes), place: make(map[[2]int32]int)}
	for _, l := range p.Links {
		x.place[[2]int32{l.A, l.B}], x.place[[2]int32{l.B, l.A}] = len(x.parts), len(x.parts)+1
		x.parts = append(x.parts, l.Rate, l.Rate)
	}
	x.parts = append(append(x.parts, p.Up[:agents]...), p.Down[:agents]...)
	for i := range x.left {
		x.left[i] = slices.Clone(x.parts)
	}
	x.rates, x.ways, x.moves = make([]int64, len(p.Flows)), make([]route.Path, len(p.Flows)), make([]int, len(p.Flows))
	return x
}

// via returns the parts that a way takes of what there is.
func (x *fluid) via(p route.Path, agents int) (all []int) {
	for i := 1; i < len(p); i++ {
		all = append(all, x.place[[2]int32{p[i-1], p[i]}], 2*len(x.Links)+int(p[i-1]), 2*len(x.Links)+agents+int(p[i]))
	}
	return all
}

// share gives all flows their max-min fair rates (progressive filling: Bertsekas and
// Gallager, Data Networks, § 6.5.2), and returns what is left.
func (x *fluid) share(agents int) []int64 {
	left, users := slices.Clone(x.parts), make([]int64, len(x.parts))
	vias := make([][]int, len(x.Flows))
	var open []int
	for i, p := range x.ways {
		x.rates[i] = 0
		if vias[i] = x.via(p, agents); len(vias[i]) > 0 {
			open = append(open, i)
		}
		for _, part := range vias[i] {
			users[part]++
		}
	}
	for len(open) > 0 {
		least := int64(1) << 60
		for _, i := range open {
			least = min(least, x.Flows[i].Wants-x.rates[i])
			for _, part := range vias[i] {
				least = min(least, left[part]/users[part])
			}
		}
		for _, i := range open {
			x.rates[i] += least
			for _, part := range vias[i] {
				left[part] -= least
			}
		}
		full := func(part int) bool { return left[part] < users[part] }
		done := func(i int) bool { return x.rates[i] >= x.Flows[i].Wants || slices.ContainsFunc(vias[i], full) }
		var ended []int
		for _, i := range open {
			if done(i) {
				ended = append(ended, i)
			}
		}
		open = slices.DeleteFunc(open, func(i int) bool { return slices.Contains(ended, i) })
		for _, i := range ended {
			for _, part := range vias[i] {
				users[part]--
			}
		}
	}
	return left
}

// flow is a second of all flows.
func (s *Sim) flow() {
	x := s.fluid
	x.second++
	x.left[x.second%recent] = x.share(len(s.agents))
	for i := range x.Flows {
		if from := x.Flows[i].From; (x.second+int(mix(uint64(from), s.set.Seed)%updateEvery))%updateEvery == 0 {
			s.choose(i)
		}
	}
}

// choose lets a flow's sender decide on its ways, and the flow take them.
func (s *Sim) choose(i int) {
	x, f := s.fluid, s.fluid.Flows[i]
	a := s.agents[f.From]
	if !a.runs() {
		x.ways[i] = nil
		return
	}
	if s.set.mutant != sane {
		s.take(i, s.careless(i))
		return
	}
	r := x.routes[f.From]
	if r == nil {
		r = decide.NewRoutes(a.id)
		x.routes[f.From] = r
	}
	r.Update(decide.Input{
		Now: a.steady(), Told: a.chart().told, Own: a.rows(), Facts: a.facts(),
		Load: func(id overlay.AgentID) int64 {
			if id == s.agents[f.To].id {
				return x.rates[i]
			}
			return 0
		},
		Used: func(id overlay.AgentID) bool { return id == s.agents[f.To].id },
	})
	var way route.Path
	for _, id := range r.Way(s.agents[f.To].id, overlay.ClassBulk).Path {
		way = append(way, s.index[id])
	}
	s.take(i, way)
}

// take lets a flow take a way.
func (s *Sim) take(i int, way route.Path) {
	if x := s.fluid; !slices.Equal(way, x.ways[i]) {
		x.moves[i]++
		x.ways[i] = way
	}
}

// careless is what mutants choose instead.
func (s *Sim) careless(i int) (way route.Path) {
	x, f := s.fluid, s.fluid.Flows[i]
	c := s.agents[f.From].chart()
	from, ok := c.nodes[f.From]
	to, known := c.nodes[f.To]
	if !ok || !known {
		return nil
	}
	q := route.Pair{From: from, To: to, LoadKbit: uint32(x.rates[i] / 1000), Lot: route.Lot(uint64(x.second/updateEvery), c.graph().ID(from), c.graph().ID(to))}
	for _, n := range x.ways[i] {
		q.Current = append(q.Current, c.nodes[n])
	}
	if s.set.mutant == noTurns {
		q.Lot = 0
	}
	for _, at := range s.atlas.finder.Choose(c.graph(), q, nil).Path {
		way = append(way, c.agents[at])
	}
	return way
}

// left returns what was left of a part of late as it is measured: what is full is told as
// 1 kbit/s.
func (s *Sim) left(part int) (sum int64) {
	for _, left := range s.fluid.left {
		sum += left[part]
	}
	noise := s.noise(uint64(part)<<32 | uint64(s.fluid.second))
	return max(sum/recent+s.fluid.parts[part]*noise/1000, 1000)
}

// facts returns what an agent tells of itself.
func (a *agent) facts() (f discovery.Facts) {
	if x := a.fluid; x != nil {
		f.LeftUp = a.left(2*len(x.Links) + int(a.n))
		f.LeftDown = a.left(2*len(x.Links) + len(a.agents) + int(a.n))
	}
	return f
}

// fixed returns the rows of an agent's links in a Plant.
func (a *agent) fixed() (rows []discovery.Link) {
	for _, l := range a.fluid.Links {
		peer := l.A + l.B - a.n
		if l.A != a.n && l.B != a.n || !a.reaches(peer) {
			continue
		}
		r := discovery.Link{Peer: a.agents[peer].id, Intent: discovery.Intent{
			Holds: l.A == a.n, Accepts: l.B == a.n, Left: a.left(a.fluid.place[[2]int32{a.n, peer}]),
		}}
		rows = append(rows, a.timed(r, peer))
	}
	slices.SortFunc(rows, func(x, y discovery.Link) int { return x.Peer.Compare(y.Peer) })
	return rows
}

// Total returns what all flows get together, bits a second, and how often they changed their
// ways so far.
func (s *Sim) Total() (rate int64, moves int) {
	for i := range s.fluid.Flows {
		rate, moves = rate+s.fluid.rates[i], moves+s.fluid.moves[i]
	}
	return rate, moves
}

const flowEvery = time.Second
