package sim

import (
	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

// A frame is one that an agent sends, to another by the path that it has chosen, or to all
// by the tree that each agent finds for itself.
type frame struct {
	path route.Path // by numbers of agents, nil: to all
	from int32
	gate int32         // the gateway by which it left the sender's area, none: it didn't
	seen map[int32]int // who took it, and how often
	wide map[int32]int // and on the backbone

	number uint64 // of the sender's broadcasts
}

// none is no agent.
const none = -1

// Traffic counts frames.
type Traffic struct {
	Sent      int // to one agent
	Delivered int
	NoPath    int // there was none of route.MaxHops links at most, or it was found broken on the way
	Broken    int
	Looped    int // came by an agent twice
	Broadcast int // sent to all
	Wanted    int // agents who should get one
	Cut       int // of them those who were out of reach of the sender and of all whom it reached
	Got       int
	Again     int // came a second time and was taken
	Spare     int // came a second time by a tree, which only its number told
	Deep      int // went on after route.TreeHops links
}

// atlas holds the graphs that agents with the same records share.
type atlas struct {
	graphs   map[scene]*chart
	canopies map[uint64]*canopy
	finder   route.Finder
}

// A chart is a graph, made when somebody asks for it, and what was found on it.
type chart struct {
	*canopy
	told   []decide.Told
	whole  *route.Graph // nil: not made yet
	tables map[int32]*route.Table
	// of a divided network
	beyond   *decide.Beyond
	lookouts map[int32]*decide.Lookout
}

// A canopy is a graph for trees, who its nodes are, which are those of the chart, too, and
// the trees that were found on it. Most records are of what trees don't tell apart, so many
// charts share one.
type canopy struct {
	links  *route.Graph
	agents []int32 // by index of the graphs
	nodes  map[int32]int32
	trees  map[int32]*route.Tree
}

// maxCharts bounds charts, and canopies: beyond, all are made anew.
const maxCharts = 256

// chart returns the graph of what an agent knows: all that it has routes by.
func (a *agent) chart() *chart {
	area, moving := a.store.Area()
	if area == 0 && !moving {
		return a.charted(scene{a.store.Hash(), 0}, func() []decide.Told { return decide.All(a.store) })
	}
	b := a.beyond()
	c := a.charted(scene{a.store.Hash(), area}, func() []decide.Told { return decide.Joined(decide.All(a.store), b.Gates()) })
	c.beyond = b
	return c
}

// local returns the graph of the agent's area.
func (a *agent) local() *chart {
	area, _ := a.store.Area()
	return a.charted(scene{a.store.LocalHash(), area}, func() []decide.Told {
		return decide.Of(a.store, decide.All(a.store), area)
	})
}

// around returns the graph on which broadcasts of the agent's area spread: while it is moving
// that of the area before, too.
func (a *agent) around() *chart {
	if _, moving := a.store.Area(); moving {
		return a.charted(scene{a.store.LocalHash(), all}, func() []decide.Told { return decide.All(a.store) })
	}
	return a.local()
}

// outside says whether a broadcast's sender is in another area.
func (a *agent) outside(x *frame) bool {
	_, known := a.around().nodes[x.from]
	return !known
}

// backbone returns the graph of the gateways.
func (a *agent) backbone() *chart {
	return a.charted(scene{a.store.WideHash(), backbone}, func() []decide.Told { return decide.Backbone(a.beyond().Gates()) })
}

// charted returns the graph of a scene.
func (a *agent) charted(of scene, tells func() []decide.Told) *chart {
	if c := a.atlas.graphs[of]; c != nil {
		return c
	}
	if len(a.atlas.graphs) >= maxCharts || a.atlas.graphs == nil {
		a.atlas.graphs = make(map[scene]*chart)
	}
	told := tells()
	c := &chart{
		canopy: a.atlas.canopy(told, a.index), told: told,
		tables: make(map[int32]*route.Table), lookouts: make(map[int32]*decide.Lookout),
	}
	a.atlas.graphs[of] = c
	return c
}

// canopy returns the one of what members tell.
func (x *atlas) canopy(told []decide.Told, index map[overlay.AgentID]int32) *canopy {
	of := decide.TreesHash(told)
	if c := x.canopies[of]; c != nil {
		return c
	}
	if len(x.canopies) >= maxCharts || x.canopies == nil {
		x.canopies = make(map[uint64]*canopy)
	}
	c := &canopy{links: decide.Trees(told), nodes: make(map[int32]int32, len(told)), trees: make(map[int32]*route.Tree)}
	for i := range int32(c.links.Len()) {
		n := index[c.links.ID(i)]
		c.agents = append(c.agents, n)
		c.nodes[n] = i
	}
	x.canopies[of] = c
	return c
}

// graph returns the graph for paths.
func (c *chart) graph() *route.Graph {
	if c.whole == nil {
		c.whole = decide.Graph(c.told, nil)
	}
	return c.whole
}

// path returns an agent's shortest path to another, by numbers of agents.
func (s *Sim) path(c *chart, from, to int32) route.Path {
	at, ok := c.nodes[from]
	t := c.tables[from]
	if t == nil && ok {
		t = new(route.Table)
		s.atlas.finder.Delay(c.graph(), at, t)
		c.tables[from] = t
	}
	goal, known := c.nodes[to]
	switch {
	case !ok:
		return nil
	case !known:
		return s.far(c, from, to)
	}
	var all route.Path
	for _, i := range t.Path(goal) {
		all = append(all, c.agents[i])
	}
	return all
}

// far returns an agent's shortest path to one of another area.
func (s *Sim) far(c *chart, from, to int32) (all route.Path) {
	if c.beyond == nil {
		return nil
	}
	l := c.lookouts[from]
	if l == nil {
		l = decide.NewLookout(c.beyond, c.graph(), c.nodes[from], &s.atlas.finder)
		c.lookouts[from] = l
	}
	p, ok := l.Path(discovery.BriefOf(s.agents[to].id))
	if !ok {
		return nil
	}
	for _, i := range p.Near {
		all = append(all, c.agents[i])
	}
	for _, x := range p.Tree {
		n, ok := s.regions.briefs[x.Agent]
		if !ok {
			return nil
		}
		all = append(all, n)
	}
	return all
}

// emit sends a frame from one agent to another, and one from it to all.
func (s *Sim) emit(from, to int32) {
	a := s.agents[from]
	if !a.runs() || s.now < a.awake || from == to || !s.agents[to].runs() {
		return
	}
	s.counted.Sent++
	if p := s.path(a.chart(), from, to); p != nil {
		s.frames = append(s.frames, frame{path: p, from: from, seen: map[int32]int{from: 1}})
		s.hop(len(s.frames)-1, 0)
	} else {
		s.counted.NoPath++
	}
	s.counted.Broadcast++
	for _, b := range s.agents {
		if b.runs() && b.n != from {
			s.counted.Wanted++
		}
	}
	s.counted.Cut += s.cutOff(a)
	a.broadcasts++
	s.frames = append(s.frames, frame{from: from, gate: none, number: a.broadcasts, seen: map[int32]int{from: 1}, wide: make(map[int32]int)})
	s.spread(a, len(s.frames)-1, inside, 0)
}

// hop sends a frame on from the agent at a place of its path.
func (s *Sim) hop(f int, place uint64) {
	p := s.frames[f].path
	if int(place) == len(p)-1 {
		s.counted.Delivered++
		return
	}
	from, to := p[place], p[place+1]
	if !s.agents[from].reaches(to) {
		s.counted.Broken++
		return
	}
	s.push(event{at: s.now.Add(s.world.delay(from, to)), what: frames, to: to, from: from, id: uint64(f)<<8 | (place + 1)})
}
