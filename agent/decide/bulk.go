package decide

import (
	"slices"
	"time"

	"farlan/overlay"
	"farlan/overlay/route"
)

// Who sends little takes the shortest path for all of it. Who sends much, for a while, wants
// to know what the paths that come into question carry, and takes the widest of those that
// are known: a path that nobody measured isn't tried with others' traffic.

const (
	busyRate = 1_000_000 // bits a second from which on that is much, and half of it no more
	// busyAfter is how long much must be sent before anything is measured for it,
	// calmAfter how long little before the shortest path will do again.
	busyAfter = 2 * time.Second
	calmAfter = 30 * time.Second
	// TurnEvery is how often lots are drawn whether a pair may move to a better path.
	TurnEvery = 5 * time.Second
	// relaysWanted is by how many relays paths come into question, beside the shortest.
	relaysWanted = 2
)

// busy is whether much is sent to an agent.
type busy struct {
	is    bool
	since overlay.Instant // when what is sent crossed the line to the other state, 0: it didn't

	// The most that was sent in this epoch and in the one before: facts may tell of that.
	epoch     int64
	now, last int64
}

// load notes what is sent.
func (b *busy) load(at overlay.Instant, load int64) {
	if e := int64(at) / int64(TurnEvery); e != b.epoch {
		if b.last = b.now; e > b.epoch+1 {
			b.last = 0
		}
		b.epoch, b.now = e, 0
	}
	b.now = max(b.now, load)
}

func (b *busy) look(now overlay.Instant, load int64) bool {
	after, crossed := busyAfter, load >= busyRate
	if b.is {
		after, crossed = calmAfter, load < busyRate/2
	}
	switch {
	case !crossed:
		b.since = 0
	case b.since == 0:
		b.since = now
	case now.Sub(b.since) >= after:
		b.is, b.since = !b.is, 0
	}
	return b.is
}

// widest returns the path for the bulk to an agent, of which shortest is the other class's.
func (r *Routes) widest(to int32, id overlay.AgentID, p *peer, shortest route.Path) (route.Path, Reason) {
	var load int64
	if r.input.Load != nil {
		load = r.input.Load(id)
	}
	p.busy.load(r.input.Now, load)
	current := r.indexes(p.ways[overlay.ClassBulk].Path)
	is, off := r.finder.Figures(r.graph, current, nil)
	if !p.busy.look(r.input.Now, load) {
		if current == nil || off != route.None {
			return shortest, Broke
		}
		return shortest, Calm
	}
	if off != route.None {
		current, is = shortest, route.Figures{}
		if current != nil {
			is, _ = r.finder.Figures(r.graph, current, nil)
		}
	}
	r.ask(to, current, shortest)
	direct, off := r.finder.Figures(r.graph, route.Path{r.me, to}, nil)
	if current == nil || is.RateKbit == 0 || off == route.None && direct.RateKbit == 0 {
		return current, Broke
	}
	q := r.pair(to, p)
	q.Current = current
	q.Lot = route.Lot(uint64(r.input.Now)/uint64(TurnEvery), r.self, id)
	choice := r.finder.Choose(r.graph, q, nil)
	return choice.Path, Wider
}

// pair returns a peer as routes reckon with it.
func (r *Routes) pair(to int32, p *peer) route.Pair {
	var load int64
	if p.busy.is {
		load = max(p.busy.now, p.busy.last)
	}
	return route.Pair{From: r.me, To: to, Current: r.indexes(p.ways[overlay.ClassBulk].Path), LoadKbit: kbit(load)}
}

// ask notes which links' rates a decision on the bulk to an agent waits for: those of the
// direct path, of the paths in use, and of the best ones by a relay.
func (r *Routes) ask(to int32, paths ...route.Path) {
	paths = append(paths, route.Path{r.me, to})
	for _, relay := range r.relays(to) {
		paths = append(paths, route.Path{r.me, relay, to})
	}
	for _, p := range paths {
		for i := 1; i < len(p); i++ {
			link := route.Path{p[i-1], p[i]}
			if _, off := r.finder.Figures(r.graph, link, nil); off == route.None {
				r.wants[Hop{r.graph.ID(link[0]), r.graph.ID(link[1])}] = r.input.Now
			}
		}
	}
}

// relays returns the relays by which the paths of two links to an agent are the shortest.
func (r *Routes) relays(to int32) []int32 {
	type relay struct {
		at   int32
		cost uint32
	}
	var best []relay
	for i := range int32(r.graph.Len()) {
		if i == r.me || i == to {
			continue
		}
		f, off := r.finder.Figures(r.graph, route.Path{r.me, i, to}, nil)
		if off != route.None {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, f.CostMicros, func(x relay, cost uint32) int { return int(int64(x.cost) - int64(cost)) })
		best = slices.Insert(best, at, relay{i, f.CostMicros})
		best = best[:min(len(best), relaysWanted)]
	}
	all := make([]int32, len(best))
	for i, b := range best {
		all[i] = b.at
	}
	return all
}

// Wants yields the links whose rates decisions wait for, of this agent or of others.
func (r *Routes) Wants(yield func(Hop) bool) {
	for h := range r.wants {
		if !yield(h) {
			return
		}
	}
}
