package sim

import (
	"farlan/agent/decide"
	"farlan/overlay/route"
)

// A frame is one that an agent sends, to another by the path that it has chosen, or to all
// by the tree that each agent finds for itself.
type frame struct {
	path route.Path // by numbers of agents, nil: to all
	from int32
	seen map[int32]int // who took it, and how often
}

// Traffic counts frames.
type Traffic struct {
	Sent      int // to one agent
	Delivered int
	NoPath    int // there was none of route.MaxHops links at most, or it was found broken on the way
	Broken    int
	Looped    int // came by an agent twice
	Broadcast int // sent to all
	Wanted    int // agents who should get one
	Got       int
	Again     int // came a second time and was taken
	Deep      int // went on after route.TreeHops links
}

// atlas holds the graphs that agents with the same records share.
type atlas struct {
	graphs map[[32]byte]*chart
	finder route.Finder
}

// A chart is a graph, who its nodes are, and what was found on it.
type chart struct {
	told   []decide.Told
	graph  *route.Graph
	links  *route.Graph // for trees, with the same indexes
	agents []int32      // by index of the graphs
	nodes  map[int32]int32
	tables map[int32]*route.Table
	trees  map[int32]*route.Tree
}

const maxCharts = 256

// chart returns the graph of what an agent knows.
func (a *agent) chart() *chart {
	hash := a.store.Hash()
	if c := a.atlas.graphs[hash]; c != nil {
		return c
	}
	if len(a.atlas.graphs) >= maxCharts || a.atlas.graphs == nil {
		a.atlas.graphs = make(map[[32]byte]*chart)
	}
	told := decide.All(a.store)
	c := &chart{
		told: told, graph: decide.Graph(told, nil), links: decide.Trees(told), nodes: make(map[int32]int32),
		tables: make(map[int32]*route.Table), trees: make(map[int32]*route.Tree),
	}
	for i := range int32(c.graph.Len()) {
		n := a.index[c.graph.ID(i)]
		c.agents = append(c.agents, n)
		c.nodes[n] = i
	}
	a.atlas.graphs[hash] = c
	return c
}

// path returns an agent's shortest path to another, by numbers of agents.
func (s *Sim) path(c *chart, from, to int32) route.Path {
	at, ok := c.nodes[from]
	t := c.tables[from]
	if t == nil && ok {
		t = new(route.Table)
		s.atlas.finder.Delay(c.graph, at, t)
		c.tables[from] = t
	}
	goal, known := c.nodes[to]
	if !ok || !known {
		return nil
	}
	var all route.Path
	for _, i := range t.Path(goal) {
		all = append(all, c.agents[i])
	}
	return all
}

// tree returns how an agent's broadcasts spread.
func (s *Sim) tree(c *chart, origin int32) *route.Tree {
	t := c.trees[origin]
	if t == nil {
		t = new(route.Tree)
		at, ok := c.nodes[origin]
		if !ok {
			at = -1
		}
		s.atlas.finder.Tree(c.links, at, t)
		c.trees[origin] = t
	}
	return t
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
	s.frames = append(s.frames, frame{from: from, seen: map[int32]int{from: 1}})
	s.spread(a, len(s.frames)-1, 0)
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

// spread sends a broadcast to an agent's children.
func (s *Sim) spread(a *agent, f int, hops uint64) {
	c := a.chart()
	at, ok := c.nodes[a.n]
	if !ok {
		return
	}
	if hops >= route.TreeHops {
		s.counted.Deep++
		return
	}
	for _, child := range s.tree(c, s.frames[f].from).Children(at) {
		if n := c.agents[child]; a.reaches(n) {
			s.push(event{at: s.now.Add(s.world.delay(a.n, n)), what: frames, to: n, from: a.n, id: uint64(f)<<8 | (hops + 1)})
		}
	}
}

// take takes a frame.
func (a *agent) take(e event) {
	s, f, hops := a.Sim, int(e.id>>8), e.id&0xff
	x := &s.frames[f]
	if x.path != nil {
		if x.seen[a.n]++; x.seen[a.n] > 1 {
			s.counted.Looped++
			return
		}
		s.hop(f, hops)
		return
	}
	c := a.chart()
	at, known := c.nodes[a.n]
	from, also := c.nodes[e.from]
	if !known || !also || !s.tree(c, x.from).Accept(at, from, int(hops)) && s.set.mutant != noCheck {
		return
	}
	if x.seen[a.n]++; x.seen[a.n] > 1 {
		s.counted.Again++
		if x.seen[a.n] > 8 {
			return // enough for a mutant
		}
	} else {
		s.counted.Got++
	}
	s.spread(a, f, hops)
}
