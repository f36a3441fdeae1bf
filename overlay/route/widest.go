package route

import (
	"math"
	"math/bits"
	"slices"
)

// rates are what is left of links, kbit/s, 0 unknown, and of nodes: of their access
// links, and of what they relay; what isn't known is math.MaxUint32 there.
type rates struct {
	link, up, down, transit []uint32
}

// A Load is what an agent itself sends on a path, which is given back before paths are
// compared; or with a minus what it has just decided to send there, which facts don't
// tell yet, and which is taken off. Kbit/s of underlay IP packets.
type Load struct {
	Path Path
	Kbit int64
}

// Widths are compared by class, 32 to the octave: what is within 3 % is as wide, and
// the shorter path wins. A link's narrowness is classes minus its width's class.
const classes = 896

// Of paths that are as wide the shorter one wins, but if their lengths differ by little,
// a hash of the links and of the sender decides: each link counts as longer by as much as
// this of 2048, times a byte of the hash. A sender whose path limits it has others beside
// it who look for the same, so it counts all as little that is less than as much again.
const (
	near = 1 // an eighth
	wide = 8 // as much again
)

// class returns the class of a width: up to 63 kbit/s its value, above that its highest
// bit and the five behind it. It never falls as the width grows.
func class(kbit uint32) uint16 {
	shift := max(0, bits.Len32(kbit)-6)
	return uint16(shift<<5) + uint16(kbit>>shift)
}

// Bulk finds the widest paths from a node to all others, and of those that are as wide
// the shortest: for frames of overlay.ClassBulk.
//
//   - A path is as wide as its narrowest part: a link, the access link of an end, and
//     both directions of that of a relay, or what it has left for relaying.
//   - own is what the node itself sends: that is given back before paths are compared,
//     or each path would look the worse for being used, and traffic would go to and fro.
//   - Lengths that differ by less than an eighth are told apart by a hash, so that not
//     all agents choose the same relay.
//   - A path of which a link's rate isn't known is taken only if no other is known; but
//     the link straight to a node is taken until its rate is known, which its traffic
//     tells.
//
// The work is that of a few searches: see labels.
func (f *Finder) Bulk(g *Graph, from int32, own []Load, t *Table) {
	t.reset(g.Len(), from)
	if !g.has(from) {
		return
	}
	f.prepare(g, from, own, none, near)
	l := &f.labels
	l.reset(g, from, f.class)
	for at := 0; at < len(l.order); {
		end := at + 1
		for end < len(l.order) && f.class[l.order[end]] == f.class[l.order[at]] {
			end++
		}
		f.admit(g, from, int32(at), int32(end))
		for _, to := range l.fresh {
			place := int(to) * (MaxHops + 1)
			t.length[to] = uint8(len(l.path(t.paths[place:place:place+MaxHops+1], to)))
		}
		at = end
	}
	for e := g.first[from]; e < g.first[from+1]; e++ {
		if to := g.to[e]; g.rates.link[e] == 0 {
			at := int(to) * (MaxHops + 1)
			t.length[to] = uint8(copy(t.paths[at:], []int32{from, to}))
		}
	}
}

// bulkTo returns the widest path to one node, as Bulk finds it if spread is near; nil if
// there is none. It goes without link skip, unless that is none.
func (f *Finder) bulkTo(g *Graph, from, to int32, own []Load, skip int32, spread uint64) Path {
	if e, ok := g.link(from, to); ok && e != skip && g.rates.link[e] == 0 {
		return Path{from, to}
	}
	w := f.prepare(g, from, own, skip, spread)
	f.search(g, f.narrowness(g), from, to, MaxHops)
	if f.best[to] == none {
		return nil
	}
	f.atLeast(g, uint16(classes-f.steps[f.best[to]].weight))
	f.search(g, w, from, to, MaxHops)
	return f.path(nil, to)
}

// prepare computes the classes of all links for a node that sends own, and the lengths
// by which it tells paths apart that are as wide. It returns the weights that atLeast
// sets.
func (f *Finder) prepare(g *Graph, from int32, own []Load, skip int32, spread uint64) weights {
	r := f.given(g, own)
	f.class = slices.Grow(f.class[:0], len(g.to))[:len(g.to)]
	f.split = slices.Grow(f.split[:0], len(g.to))[:len(g.to)]
	for u := range int32(g.Len()) {
		for e := g.first[u]; e < g.first[u+1]; e++ {
			f.class[e] = class(r.width(u, g.to[e], e, u != from))
			h := mix(g.keys[from], g.sum.link[e]&(1<<tieBits-1)^g.keys[g.to[e]])
			cost := uint64(g.links[e].micros)
			cost += cost * spread * (h >> 32 & 0xff) >> 11
			f.split[e] = cost<<tieBits | h&linkTie
		}
	}
	if skip != none {
		f.split[skip] = barred
	}
	f.work.link = slices.Grow(f.work.link[:0], len(g.to))[:len(g.to)]
	return weights{link: f.work.link, transit: g.sum.transit}
}

// narrowness returns weights by which the lightest path is the widest.
func (f *Finder) narrowness(g *Graph) weights {
	f.work.transit = slices.Grow(f.work.transit[:0], g.Len())[:g.Len()]
	for i, w := range g.sum.transit {
		f.work.transit[i] = 0
		if w == barred {
			f.work.transit[i] = barred
		}
	}
	for e, c := range f.class {
		f.work.link[e] = uint64(classes - c)
		if f.split[e] == barred {
			f.work.link[e] = barred
		}
	}
	return weights{link: f.work.link, transit: f.work.transit, most: true}
}

// atLeast bars links that are narrower than a class.
func (f *Finder) atLeast(g *Graph, c uint16) {
	for e := range g.to {
		f.work.link[e] = f.split[e]
		if f.class[e] < c {
			f.work.link[e] = barred
		}
	}
}

// length returns by what paths that are as wide are compared, as prepared.
func (f *Finder) length(g *Graph, p Path) uint64 {
	sum := uint64(0)
	for i, v := range p[1:] {
		e, _ := g.link(p[i], v)
		if sum += f.split[e]; i > 0 {
			sum += g.sum.transit[p[i]]
		}
	}
	return sum
}

// width returns what is left of a link with the access links of its ends; relayed says
// that the first end relays.
func (r rates) width(from, to, link int32, relayed bool) uint32 {
	w := min(r.link[link], r.up[from], r.down[to])
	if relayed {
		w = min(w, r.transit[from])
	}
	return w
}

// given returns the graph's rates with what an agent sends given back.
func (f *Finder) given(g *Graph, own []Load) rates {
	if len(own) == 0 {
		return g.rates
	}
	f.give.link = append(f.give.link[:0], g.rates.link...)
	f.give.up = append(f.give.up[:0], g.rates.up...)
	f.give.down = append(f.give.down[:0], g.rates.down...)
	f.give.transit = append(f.give.transit[:0], g.rates.transit...)
	for _, taken := range [...]bool{false, true} { // what is taken last: there is no less than nothing
		for _, l := range own {
			if l.Kbit < 0 == taken && g.valid(l.Path) == None { // else nothing goes there any more
				f.giveBack(g, l)
			}
		}
	}
	return f.give
}

// giveBack adds a load on a valid path to the rates.
func (f *Finder) giveBack(g *Graph, l Load) {
	for i, v := range l.Path[1:] {
		u := l.Path[i]
		if e, _ := g.link(u, v); f.give.link[e] != 0 {
			add(&f.give.link[e], l.Kbit)
		}
		add(&f.give.up[u], l.Kbit)
		add(&f.give.down[v], l.Kbit)
		if i > 0 {
			add(&f.give.transit[u], l.Kbit)
		}
	}
}

// add adds a rate. What is no limit stays none, what is known stays known.
func add(to *uint32, kbit int64) {
	if *to != math.MaxUint32 {
		kbit = max(-math.MaxUint32, min(kbit, math.MaxUint32))
		*to = uint32(max(1, min(int64(*to)+kbit, math.MaxUint32)))
	}
}

// valid says why frames can't take a path, or None.
func (g *Graph) valid(p Path) Reason {
	if len(p) < 2 {
		return NoPath
	}
	if len(p) > MaxHops+1 {
		return TooLong
	}
	for i, u := range p {
		switch {
		case !g.has(u) || slices.Contains(p[:i], u):
			return NoPath
		case i == 0:
			continue
		}
		if _, ok := g.link(p[i-1], u); !ok {
			return g.why(p[i-1], u)
		}
		if i < len(p)-1 && g.sum.transit[u] == barred {
			return NoTransit
		}
	}
	return None
}

// Figures are what a path is like.
type Figures struct {
	CostMicros uint32 // of its links and relays: half the round trip, queues, hops, losses
	RTTMicros  uint32 // the sum of its links' smallest round trips
	RateKbit   uint32 // what is left on it, and what own loads take that were given back; 0: unknown
}

// Figures returns what a path is like for an agent that sends own. Why it can't be taken
// is told by the reason, None if it can.
func (f *Finder) Figures(g *Graph, p Path, own []Load) (Figures, Reason) {
	if why := g.valid(p); why != None {
		return Figures{}, why
	}
	return figuresOf(g, p, f.given(g, own)), None
}

// figuresOf returns the figures of a path of links.
func figuresOf(g *Graph, p Path, r rates) Figures {
	var x Figures
	x.RateKbit = math.MaxUint32
	for i, v := range p[1:] {
		u := p[i]
		e, _ := g.link(u, v)
		x.CostMicros += g.links[e].micros
		x.RTTMicros = uint32(min(uint64(x.RTTMicros)+uint64(g.links[e].rtt), math.MaxUint32))
		x.RateKbit = min(x.RateKbit, r.width(u, v, e, i > 0))
		if i > 0 {
			x.CostMicros += uint32(micros(uint64(g.nodes[u].CostMicros)))
		}
	}
	return x
}
