package sim

import (
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/overlay"
	"farlan/overlay/route"
)

// Broadcasts spread as agents have them spread (agent/spread.go): each agent has its place in
// the origin's tree by what it knows, and for a while the places that it had before; what comes
// twice is told by its number. Who isn't in the tree gets a copy from the origin itself. An
// agent looks for its place when a broadcast comes by, not whenever it hears news.

// A broadcast of a divided network goes by three trees: the sender's in its area, that of the
// gateway by which it leaves that area, on the backbone, and those of the gateways by which it
// comes into others.
const (
	inside   = iota // the sender's area
	between         // on the backbone
	arriving        // in another area
)

// What is said with a frame of a broadcast: on which tree, and how many links it came on it.
func leg(f int, tree, hops uint64) uint64 { return uint64(f)<<8 | tree<<6 | hops }

const (
	// formerFor is how long a place counts that was left, maxPlaces how many count at most.
	formerFor = 3 * time.Second
	maxPlaces = 8
	// newsFor is how long news takes to all.
	newsFor = time.Second
)

// heardOf is whose broadcasts an agent remembers, and whether among gateways.
type heardOf struct {
	from int32
	wide bool
}

// places are the graphs by which an agent has its places in trees, those of before, which count
// for a while, first.
type places struct {
	by     []*canopy
	since  []overlay.Instant
	until  []overlay.Instant // of those of before
	looked overlay.Instant
}

// at notes by which graph an agent has its places now, and returns all that count.
func (p *places) at(c *canopy, now overlay.Instant) []*canopy {
	if last := len(p.by) - 1; last < 0 {
		p.by, p.since = append(p.by, c), append(p.since, now)
	} else if p.by[last] != c { // it may have been left just after it was looked for
		p.until = append(p.until, max(p.looked.Add(formerFor), now.Add(newsFor)))
		p.by, p.since = append(p.by, c), append(p.since, now)
	}
	p.looked = now
	for len(p.until) > 0 && p.until[0] < now {
		p.forget(0)
	}
	for len(p.by) > maxPlaces {
		p.forget(decide.Briefest(len(p.since), func(i int) overlay.Instant { return p.since[i] }))
	}
	return p.by
}

// forget takes a former place away.
func (p *places) forget(i int) {
	p.by, p.since, p.until = slices.Delete(p.by, i, i+1), slices.Delete(p.since, i, i+1), slices.Delete(p.until, i, i+1)
}

// bare says whether agents go by the trees of what they know alone, to show what these are
// worth without former places and numbers.
func (s *Sim) bare() bool {
	return s.set.mutant == noNumbers || s.set.mutant == noCheck || s.set.mutant == noSides
}

// canopies returns the graphs by which an agent has its places in a broadcast's tree.
func (a *agent) canopies(c *chart, tree uint64) []*canopy {
	if a.bare() {
		return []*canopy{c.canopy}
	}
	return a.places[tree].at(c.canopy, a.now)
}

// tree returns how an agent's broadcasts spread.
func (s *Sim) tree(c *canopy, origin int32) *route.Tree {
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

// root returns the chart of a broadcast's tree, as an agent sees it, and whose tree it is.
func (a *agent) root(x *frame, tree uint64) (c *chart, origin int32) {
	area, moving := a.store.Area()
	switch {
	case area == 0 && !moving:
		return a.chart(), x.from
	case tree == inside:
		return a.around(), x.from
	case tree == between:
		return a.backbone(), x.gate
	}
	return a.local(), a.entry(area)
}

// entry returns the gateway by which broadcasts come into an area and leave it, as an agent
// sees it; none if there is none.
func (a *agent) entry(area uint32) int32 {
	if id, ok := a.beyond().Entry(a.backbone().graph(), area); ok {
		return a.index[id]
	}
	return none
}

// spread sends a broadcast to an agent's children, and on another tree from where it begins.
func (s *Sim) spread(a *agent, f int, tree, hops uint64) {
	x := &s.frames[f]
	to := a.copies(x, tree)
	if len(to) > 0 && hops >= route.TreeHops {
		s.counted.Deep++
		return
	}
	for _, n := range to {
		if a.reaches(n) {
			s.push(event{at: s.now.Add(s.world.delay(a.n, n)), what: frames, to: n, from: a.n, id: leg(f, tree, hops+1)})
		}
	}
	area, _ := a.store.Area()
	if area == 0 || a.entry(area) != a.n {
		return
	}
	switch {
	case tree == inside && x.gate == none:
		x.gate, x.wide[a.n] = a.n, 1
		s.spread(a, f, between, 0)
	case tree == between && a.outside(x):
		if a.get(x, arriving) {
			s.spread(a, f, arriving, 0)
		}
	}
}

// copies returns to whom an agent sends a broadcast on a tree.
func (a *agent) copies(x *frame, tree uint64) (to []int32) {
	c, origin := a.root(x, tree)
	graphs := a.canopies(c, tree)
	for _, by := range graphs {
		at, ok := by.nodes[a.n]
		if !ok {
			continue
		}
		for _, child := range a.tree(by, origin).Children(at) {
			if n := by.agents[child]; !slices.Contains(to, n) {
				to = append(to, n)
			}
		}
	}
	if tree == inside && a.n == x.from && !a.bare() {
		to = a.apart(graphs, to)
	}
	return to
}

// apart adds those who aren't in the trees of an agent's own broadcasts by every graph that
// counts: they get copies from itself.
func (a *agent) apart(graphs []*canopy, to []int32) []int32 {
	area, _ := a.store.Area()
	for _, b := range a.control.members {
		m, ok := a.store.Member(a.agents[b.n].id)
		if !ok || m.Area != area || b.n == a.n || slices.Contains(to, b.n) {
			continue
		}
		if slices.ContainsFunc(graphs, func(c *canopy) bool { return !a.covers(c, b.n) }) {
			to = append(to, b.n)
		}
	}
	return to
}

// covers says whether another agent is in the tree of an agent's own broadcasts.
func (a *agent) covers(c *canopy, n int32) bool {
	at, ok := c.nodes[n]
	if ok {
		_, ok = a.tree(c, a.n).Parent(at)
	}
	return ok
}

// cutOff returns how many of those who run nobody reaches now, whom an agent reaches or others
// whom it reaches.
func (s *Sim) cutOff(from *agent) int {
	left := slices.DeleteFunc(slices.Clone(s.agents), func(b *agent) bool { return !b.runs() || b == from })
	for queue := []*agent{from}; len(queue) > 0 && len(left) > 0; queue = queue[1:] {
		left = slices.DeleteFunc(left, func(b *agent) bool {
			reached := queue[0].reaches(b.n)
			if reached {
				queue = append(queue, b)
			}
			return reached
		})
	}
	return len(left)
}

// get counts that the agent takes a broadcast by a tree. It is false if it tells by the number
// that it has taken it before, or a mutant has too often.
func (a *agent) get(x *frame, tree uint64) bool {
	if !a.isNew(x, tree) {
		a.counted.Spare++
		return false
	}
	seen, counted := x.seen, &a.counted
	if tree == between {
		seen = x.wide
	}
	seen[a.n]++
	switch {
	case seen[a.n] == 1 && tree != between:
		counted.Got++
	case seen[a.n] == 1:
	case tree != between:
		counted.Again++
	}
	return seen[a.n] <= 8
}

// isNew says whether the agent hasn't taken a broadcast before, by what it remembers of numbers.
func (a *agent) isNew(x *frame, tree uint64) bool {
	of := heardOf{x.from, tree == between}
	f := a.heard[of]
	if f == nil {
		f = new(overlay.Floods)
		*f = overlay.NewFloods()
		a.heard[of] = f
	}
	return a.bare() || f.Take(a.steady(), x.number, 1) == overlay.Flood
}

// accepts says whether a broadcast comes from whom an agent takes it of.
func (a *agent) accepts(x *frame, from int32, tree, hops uint64) bool {
	c, origin := a.root(x, tree)
	if tree == arriving && a.set.mutant != noSides && !a.outside(x) {
		return false
	}
	if tree == inside && from == x.from && !a.bare() { // of its own it may send copies to all
		return true
	}
	for _, by := range a.canopies(c, tree) {
		at, known := by.nodes[a.n]
		parent, also := by.nodes[from]
		if known && also && (a.set.mutant == noCheck || a.isParent(a.tree(by, origin), at, parent, int(hops))) {
			return true
		}
	}
	return false
}

// isParent says whether a node of a tree takes a broadcast of another one. By numbers it does
// however many links that came: one of a former place is longer, or shorter. Without, that
// tells agents apart that see different trees.
func (a *agent) isParent(t *route.Tree, at, from int32, hops int) bool {
	if a.bare() {
		return t.Accept(at, from, hops)
	}
	parent, ok := t.Parent(at)
	return ok && parent == from
}

// take takes a frame.
func (a *agent) take(e event) {
	s, f := a.Sim, int(e.id>>8)
	x := &s.frames[f]
	if x.path != nil {
		if x.seen[a.n]++; x.seen[a.n] > 1 {
			s.counted.Looped++
			return
		}
		s.hop(f, e.id&0xff)
		return
	}
	tree, hops := e.id>>6&3, e.id&63
	if !a.accepts(x, e.from, tree, hops) {
		return
	}
	if a.get(x, tree) {
		s.spread(a, f, tree, hops)
	}
}
