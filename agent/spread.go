package agent

import (
	"slices"
	"sync/atomic"
	"time"

	"farlan/agent/decide"
	"farlan/overlay"
	"farlan/overlay/route"
)

// What is flooded, broadcasts above all, goes from the agent from whose ports it comes, the
// origin, down a tree of the links that agents keep (see decide.Trees): where links are
// chosen, a sender of its own to each member would be dear. Each agent finds its own place in
// the tree of every origin from what all tell. It takes what comes from its parent there,
// and passes it on to its children (see flood.go). So no agent sends more copies than it has
// links.
//
// When what all tell changes, agents learn that one after the other. So for a while they take
// floods from former parents, too, and pass them on to former children, and what comes twice
// is told by its number. A link that breaks is none of the tree's business until its ends
// tell so: the parent sends to the child as it sends everything else, by others if need be.
//
// Who isn't in the tree, as it is new or all its links are cut, gets a copy from the origin
// itself, and sends copies of its own to all. So does everybody in networks that are so small
// that all are linked with all.
const (
	// treesGap is how long at least after places were found they are found anew because
	// somebody told something, treesEvery in any case; or if that is more, so much for each
	// agent that there is: it takes a millisecond among a hundred, 10 ms among a thousand.
	treesGap, treesGapShare     = 50 * time.Millisecond, time.Millisecond
	treesEvery, treesEveryShare = time.Second, 5 * time.Millisecond
	// formerFor is how long places count that were left: news takes a second to all, and
	// another one until the last of a thousand has looked at them.
	formerFor = 3 * time.Second
	// maxPlaces bounds those that count; which was the newest for the shortest time is
	// forgotten first. At the end of an epoch many links change, and others may know nothing
	// of it for a second: what they go by is what counted until then.
	maxPlaces = 8
)

// spreads is how an agent's part of floods is done.
type spreads struct {
	now     atomic.Pointer[spreading]
	numbers atomic.Uint64 // of datagrams that were flooded; starts with the clock's microseconds
	cuts    atomic.Uint32
	sent    atomic.Uint64 // datagrams that were flooded
	copies  atomic.Uint64 // of them
	passed  atomic.Uint64 // copies of others' that were passed on

	// The loop's own.
	finder   route.Finder
	branches route.Branches // scratch
	places   []treePlaces   // that count, the newest last
	hash     uint64         // of the graph by which the newest were found
	found    overlay.Instant
	stirred  bool   // somebody told something since
	met      bool   // members came or went since lanes were told
	shared   bool   // another member has this agent's label
	told     uint64 // the version of this agent's own links then
}

// treePlaces are an agent's places in all trees, for a time.
type treePlaces struct {
	since, until overlay.Instant // until 0: now
	of           map[overlay.AgentID]treePlace
	// Of a gateway: its places in the trees of others on the backbone, by their origins, and
	// whether floods enter its area by this agent, and leave it.
	between map[overlay.AgentID]treePlace
	entry   bool
}

// A treePlace is of whom an agent takes the floods of an origin, and to whom it passes them
// on. Of its own there is no parent.
type treePlace struct {
	parent   overlay.AgentID
	children []overlay.AgentID
}

// A spreading is what lanes see of it. It is immutable.
type spreading struct {
	view   *view
	chosen bool    // this agent's own floods go down its tree
	own    []*peer // then: to whom they go
	direct int     // how many of these, the last ones, aren't in the tree
	idle   []*peer // who isn't either, and has no session: one is opened for each frame
	of     map[overlay.Label]*branch
	far    *crossing // nil: the network isn't divided
}

// A branch is an agent's part in the floods of an origin.
type branch struct {
	origin            *peer
	parents, children []*peer
}

// source returns whose floods come from a peer that says of which origin they are, and to
// whom they are passed on; nil if they are not to be taken from it.
func (s *spreading) source(label overlay.Label, from *peer) (origin *peer, children []*peer) {
	if s == nil {
		s = &spreading{}
	}
	b := s.of[label]
	switch {
	case b != nil && (b.origin == from || slices.Contains(b.parents, from)):
		return b.origin, b.children
	case from.label == label:
		return from, nil // which isn't in any tree: see above
	}
	return nil, nil
}

// mindSpread finds this agent's places in the trees anew, if it is time, and tells lanes what
// has changed.
func (n *node) mindSpread(now overlay.Instant) {
	s := &n.spread
	s.stirred = s.stirred || s.told != n.own.linksVersion
	past, agents := now.Sub(s.found), time.Duration(n.near()+1)
	changed := s.met
	if past >= max(treesEvery, agents*treesEveryShare) || s.stirred && past >= max(treesGap, agents*treesGapShare) {
		s.found, s.stirred, s.told = now, false, n.own.linksVersion
		changed = n.findPlaces(now) || changed
	}
	changed = s.forget(now) || changed
	is := s.now.Load()
	if changed || is == nil {
		s.met = false
		is = &spreading{of: n.branches()}
	}
	if is.view != n.view.Load() || is.chosen != n.floodsByTree() {
		s.now.Store(n.newSpreading(is.of))
	}
}

// forget takes away the places that don't count any more, and says whether there were such.
func (s *spreads) forget(now overlay.Instant) bool {
	before := len(s.places)
	s.places = slices.DeleteFunc(s.places, func(p treePlaces) bool { return p.until != 0 && p.until <= now })
	for len(s.places) > maxPlaces {
		i := decide.Briefest(len(s.places), func(i int) overlay.Instant { return s.places[i].since })
		s.places = slices.Delete(s.places, i, i+1)
	}
	return len(s.places) < before
}

// findPlaces finds the places by what all tell now, and says whether others than these
// counted before.
func (n *node) findPlaces(now overlay.Instant) bool {
	s := &n.spread
	g := decide.Trees(n.replicated())
	backbone := n.backboneTrees()
	hash := g.Hash()
	if backbone != nil {
		hash = hash*31 + backbone.Hash()
	}
	if hash == s.hash && len(s.places) > 0 {
		return false
	}
	p := treePlaces{since: now, of: n.placesIn(g)}
	if backbone != nil {
		area, _ := n.store.Area()
		entry, ok := n.beyond().Entry(backbone, area)
		p.between, p.entry = n.placesIn(backbone), ok && entry == n.self
	}
	if len(s.places) > 0 {
		s.places[len(s.places)-1].until = now.Add(formerFor)
	}
	s.places, s.hash = append(s.places, p), hash
	return true
}

// floodsByTree says whether this agent's own floods go down its tree.
func (n *node) floodsByTree() bool {
	return (n.linking.chosen || n.divided()) && !n.spread.shared
}

// backboneTrees returns the graph of gateways' trees, nil if this agent is none.
func (n *node) backboneTrees() *route.Graph {
	if n.area.gate == nil {
		return nil
	}
	return decide.Trees(decide.Backbone(n.beyond().Gates()))
}

// placesIn returns this agent's places in the trees of a graph, by their origins.
func (n *node) placesIn(g *route.Graph) map[overlay.AgentID]treePlace {
	s, of := &n.spread, make(map[overlay.AgentID]treePlace)
	self, ok := g.Index(n.self)
	if ok {
		b := &s.branches
		s.finder.Branches(g, self, b)
		for origin := range int32(g.Len()) {
			parent, reached := b.Parent(origin)
			if !reached && origin != self {
				continue
			}
			x := treePlace{}
			if reached {
				x.parent = g.ID(parent)
			}
			for _, v := range b.Children(nil, origin) {
				x.children = append(x.children, g.ID(v))
			}
			of[g.ID(origin)] = x
		}
	}
	return of
}

// branches returns this agent's part in the floods of all others, but for those that share a
// label: nobody could tell whose these are.
func (n *node) branches() map[overlay.Label]*branch {
	all, twice := make(map[overlay.Label]*branch, len(n.peers)), []overlay.Label{n.label}
	n.spread.shared = false
	for id, p := range n.peers {
		n.spread.shared = n.spread.shared || p.label == n.label
		if p.far {
			continue
		}
		b := &branch{origin: p}
		for _, places := range n.spread.places {
			if x, ok := places.of[id]; ok {
				b.parents = n.addPeer(b.parents, x.parent)
				b.children = n.addPeers(b.children, x.children)
			}
		}
		if n.relaysNothing() {
			b.children = nil
		}
		if all[p.label] != nil {
			twice = append(twice, p.label)
		}
		all[p.label] = b
	}
	for _, l := range twice {
		delete(all, l)
	}
	return all
}

// newSpreading returns what counts now, of which the part in others' floods is given.
func (n *node) newSpreading(of map[overlay.Label]*branch) *spreading {
	v := n.view.Load()
	next := &spreading{view: v, of: of, chosen: n.floodsByTree()}
	for _, places := range n.spread.places {
		next.own = n.addPeers(next.own, places.of[n.self].children)
	}
	inTree := len(next.own)
	area, _ := n.store.Area()
	for _, p := range v.floods() {
		switch {
		case p.member.Area != area: // to the area that this agent comes from only down its tree
		case n.inTrees(p.id), slices.Contains(next.own[:inTree], p):
		case p.out.Load() != nil:
			next.own = append(next.own, p)
		default:
			next.idle = append(next.idle, p)
		}
	}
	next.direct = len(next.own) - inTree
	next.far = n.crossing(next)
	return next
}

// inTrees says whether this agent's floods reach another one down every tree that counts.
func (n *node) inTrees(id overlay.AgentID) bool {
	for _, places := range n.spread.places {
		if _, ok := places.of[id]; !ok {
			return false
		}
	}
	return len(n.spread.places) > 0
}

func (n *node) addPeers(all []*peer, ids []overlay.AgentID) []*peer {
	for _, id := range ids {
		all = n.addPeer(all, id)
	}
	return all
}

// addPeer adds a peer, if there is one and it isn't there yet.
func (n *node) addPeer(all []*peer, id overlay.AgentID) []*peer {
	if p := n.peers[id]; p != nil && !slices.Contains(all, p) {
		all = append(all, p)
	}
	return all
}

func (n *node) floodsView() floodsView {
	s := &n.spread
	v := floodsView{To: len(n.view.Load().linked), Sent: s.sent.Load(), Copies: s.copies.Load(), Passed: s.passed.Load()}
	c := &n.edge.chatter
	v.Frames, v.Bytes, v.Asks, v.AskBytes = c.frames.Load(), c.bytes.Load(), c.asks.Load(), c.askBytes.Load()
	v.Answers, v.Quiet = c.answers.Load(), c.quiet.Load()
	v.Alone, v.Spared, v.Groups = n.grouping.alone.Load(), n.grouping.spared.Load(), n.sw.Groups.Count(n.now()).Groups
	if is := s.now.Load(); is != nil && is.chosen {
		v.Tree, v.To, v.Direct = true, len(is.own), is.direct
	}
	return v
}
