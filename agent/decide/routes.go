package decide

import (
	"slices"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

const (
	// A path is left for one that costs less by more than a tenth, and by keepMicros:
	// what is measured differs from time to time.
	keepShare, keepMicros = 10, 2000
	// brokenFor is for how long a link is left out of paths that somebody couldn't use,
	// unless he tells anew of it.
	brokenFor = 10 * time.Second
	// maxBroken bounds them; the oldest is forgotten.
	maxBroken = 256
	// maxHistory is how many changes are remembered for each peer and class.
	maxHistory = 8
)

// A Path is the agents on a way, both ends included.
type Path []overlay.AgentID

// An Input is what an agent knows when it decides on its routes.
type Input struct {
	Now  overlay.Instant
	Told []Told // what all members that aren't gone tell, but for the agent itself
	// Own is what the agent itself knows of its links that work now, and of itself: newer
	// than what it told.
	Own   []discovery.Link
	Facts discovery.Facts
	// Load returns what the agent sends to another, bits of underlay IP packets a second.
	Load func(overlay.AgentID) int64
	// Used says whether an agent was sent frames of late: only to those alternates are
	// found before they are needed.
	Used func(overlay.AgentID) bool
}

// A Way is how frames of a class go to an agent.
type Way struct {
	Path      Path // nil: there is none
	Alternate Path // that shares least with it, nil: none, or it isn't used
	Since     overlay.Instant
	Figures   route.Figures
}

// A Change is one of the ways to an agent that was changed.
type Change struct {
	At       overlay.Instant
	Class    overlay.Class
	From, To Path // nil: there was, or is, none
	Why      Reason
}

// Reason says why a way was changed.
type Reason uint8

// The reasons.
const (
	_       Reason = iota
	First          // there was none before
	Broke          // it can't be taken any more
	Shorter        // there is one that costs less
	Wider          // there is one on which more is left
	Calm           // there is little traffic: the shortest will do
)

// String returns the reason as people read it.
func (r Reason) String() string {
	return [...]string{"", "first", "broke", "shorter", "wider", "little traffic"}[r]
}

// Routes are an agent's own ways to all others. Use NewRoutes. Not safe for concurrent use.
type Routes struct {
	self   overlay.AgentID
	finder route.Finder
	delay  route.Table
	graph  *route.Graph
	me     int32
	peers  map[overlay.AgentID]*peer
	broken map[Hop]brokenLink
	wants  map[Hop]overlay.Instant // see Wants
	input  Input
}

// A brokenLink is one that somebody couldn't use.
type brokenLink struct {
	until overlay.Instant
	told  overlay.Instant // when he had told of it last: when he tells anew, he knows better
}

// A peer is an agent to which there are ways.
type peer struct {
	ways    [overlay.Classes]Way
	history []Change // oldest first
	busy    busy
}

// NewRoutes returns the routes of an agent that knows of nobody.
func NewRoutes(self overlay.AgentID) *Routes {
	return &Routes{
		self: self, graph: route.New(nil, nil), peers: make(map[overlay.AgentID]*peer),
		broken: make(map[Hop]brokenLink), wants: make(map[Hop]overlay.Instant),
	}
}

// Update decides anew, by what is known now. It costs some milliseconds among a hundred
// agents.
func (r *Routes) Update(in Input) {
	r.input = in
	for h, b := range r.broken {
		if in.Now >= b.until {
			delete(r.broken, h)
		}
	}
	told := without(in.Told, r.self)
	nodes, links := facts(told, r.isBroken)
	r.graph = route.New(append(nodes, nodeOf(r.self, in.Facts)), r.withOwn(links))
	r.me, _ = r.graph.Index(r.self)
	r.finder.Delay(r.graph, r.me, &r.delay)
	for id := range r.peers {
		if _, ok := r.graph.Index(id); !ok {
			delete(r.peers, id)
		}
	}
	clear(r.wants)
	for i := range int32(r.graph.Len()) {
		if id := r.graph.ID(i); i != r.me {
			p := r.peers[id]
			if p == nil {
				p = new(peer)
				r.peers[id] = p
			}
			r.decide(i, id, p)
		}
	}
}

// withOwn replaces what others tell of their links to this agent by what it knows itself: it
// hears from them, so these work both ways, and those that it doesn't know don't.
func (r *Routes) withOwn(links []route.Link) []route.Link {
	told := make(map[overlay.AgentID]route.Link)
	for _, l := range links {
		if l.To == r.self {
			told[l.From] = l
		}
	}
	for _, l := range r.input.Own {
		if l.Relayed || l.Forbid {
			continue
		}
		there := linkOf(r.self, l)
		links = append(links, there)
		if _, ok := told[l.Peer]; !ok {
			links = append(links, route.Link{From: l.Peer, To: r.self, RTTMicros: there.RTTMicros, QueueMicros: micros(l.QueueBack), Up: true})
		}
	}
	return links
}

func (r *Routes) isBroken(h Hop, told overlay.Instant) bool {
	b, ok := r.broken[h]
	return ok && told <= b.told
}

// Broken says that an agent on the way can't pass datagrams on to another: until it tells
// anew what links it has, or for a while, no path goes there. It is true if that is news.
func (r *Routes) Broken(now overlay.Instant, h Hop) bool {
	i := slices.IndexFunc(r.input.Told, func(t Told) bool { return t.ID == h.From })
	if _, known := r.broken[h]; known || i < 0 || h.From == r.self {
		return false
	}
	if len(r.broken) >= maxBroken {
		first := true
		var oldest Hop
		for k, b := range r.broken {
			if first || b.until < r.broken[oldest].until {
				oldest, first = k, false
			}
		}
		delete(r.broken, oldest)
	}
	r.broken[h] = brokenLink{now.Add(brokenFor), r.input.Told[i].At}
	return true
}

// decide finds the ways to one agent.
func (r *Routes) decide(to int32, id overlay.AgentID, p *peer) {
	shortest, why := r.settle(to, p.ways[overlay.ClassDelay])
	r.take(p, overlay.ClassDelay, shortest, why)
	widest, why := r.widest(to, id, p, shortest)
	r.take(p, overlay.ClassBulk, widest, why)
	used := r.input.Used == nil || r.input.Used(id)
	for c := range p.ways {
		w := &p.ways[c]
		w.Alternate = nil
		switch {
		case !used || w.Path == nil:
		case c > 0 && slices.Equal(w.Path, p.ways[0].Path):
			w.Alternate = p.ways[0].Alternate
		default:
			other, _ := r.finder.Alternate(r.graph, r.indexes(w.Path))
			w.Alternate = r.path(other)
		}
	}
}

// settle returns the shortest path to an agent, or the one in use if that is little longer.
func (r *Routes) settle(to int32, w Way) (route.Path, Reason) {
	best := r.delay.Path(to)
	now := r.indexes(w.Path)
	switch {
	case now == nil:
		return best, First
	case best == nil:
		return nil, Broke
	}
	is, off := r.finder.Figures(r.graph, now, nil)
	if off != route.None {
		return best, Broke
	}
	could, _ := r.finder.Figures(r.graph, best, nil)
	if is.CostMicros <= could.CostMicros+max(keepMicros, is.CostMicros/keepShare) {
		return now, 0
	}
	return best, Shorter
}

// take makes a path the way to an agent.
func (r *Routes) take(p *peer, c overlay.Class, path route.Path, why Reason) {
	w := &p.ways[c]
	w.Figures = route.Figures{}
	if path != nil {
		w.Figures, _ = r.finder.Figures(r.graph, path, nil)
	}
	next := r.path(path)
	if slices.Equal(next, w.Path) {
		return
	}
	if w.Path == nil && why != First {
		why = First
	}
	if len(p.history) == maxHistory {
		p.history = slices.Delete(p.history, 0, 1)
	}
	p.history = append(p.history, Change{r.input.Now, c, w.Path, next, why})
	w.Path, w.Since = next, r.input.Now
	if c == overlay.ClassBulk {
		p.busy.now, p.busy.last = 0, 0 // that was sent elsewhere
	}
}

// Way returns how frames of a class go to an agent. It stays as it is after Update.
func (r *Routes) Way(to overlay.AgentID, c overlay.Class) Way {
	if p := r.peers[to]; p != nil {
		return p.ways[c]
	}
	return Way{}
}

// History returns what changed of the ways to an agent, the newest last. It must not be
// changed.
func (r *Routes) History(to overlay.AgentID) []Change {
	if p := r.peers[to]; p != nil {
		return p.history
	}
	return nil
}

// Explain says why frames of a class go to an agent as they do. Indexes are those of Agent.
func (r *Routes) Explain(to overlay.AgentID, c overlay.Class) (x route.Explanation, ok bool) {
	at, ok := r.graph.Index(to)
	p := r.peers[to]
	if !ok || p == nil {
		return x, false
	}
	return r.finder.Explain(r.graph, c, r.pair(at, p), nil), true
}

// Agent returns the agent with an index of an Explanation.
func (r *Routes) Agent(i int32) overlay.AgentID { return r.graph.ID(i) }

// path returns a path of indexes as one of agents, nil if there is none.
func (r *Routes) path(p route.Path) Path {
	if p == nil {
		return nil
	}
	all := make(Path, len(p))
	for i, at := range p {
		all[i] = r.graph.ID(at)
	}
	return all
}

// indexes is the inverse of path, nil if an agent isn't there any more.
func (r *Routes) indexes(p Path) route.Path {
	if p == nil {
		return nil
	}
	all := make(route.Path, len(p))
	for i, id := range p {
		at, ok := r.graph.Index(id)
		if !ok {
			return nil
		}
		all[i] = at
	}
	return all
}
