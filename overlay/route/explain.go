package route

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"farlan/overlay"
)

// A Reason says why a link or path isn't taken.
type Reason uint8

// The reasons. The first ones are why frames can't take a path, the others why they
// don't.
const (
	None      Reason = iota
	NoPath           // it joins nobody, or is one that makes no sense
	NoLink           // nobody tells of such a link
	OneWay           // only one end tells of it
	Down             // an end tells that it is down, or loses all
	Relayed          // datagrams between its ends go by other members
	NoTransit        // an agent on the way relays nothing
	TooLong          // it has more than MaxHops links

	Longer      // it costs more
	Narrower    // there is less left on it
	RateUnknown // nobody knows what is left on it
	Tie         // it is as good: a hash decides
	Enough      // it is better, but the one in use has room for more than what is sent
	TooLittle   // it is better than the one in use, but by too little to move
	NotItsTurn  // it is better, and will be taken when it is the pair's turn
)

var reasons = [...]string{
	None: "taken", NoPath: "no path", NoLink: "no link", OneWay: "only one end has the link",
	Down: "link down", Relayed: "no link of its own: relayed", NoTransit: "relays nothing",
	TooLong: "more than 8 links", Longer: "longer", Narrower: "narrower", RateUnknown: "rate not known",
	Tie: "as good, a hash decides", Enough: "better, but not needed", TooLittle: "better by too little", NotItsTurn: "better, waits for its turn",
}

// String returns the reason as people read it.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return "unknown"
}

// MaxRejected is how many paths an explanation rejects: the best ones.
const MaxRejected = 8

// relaysShown is how many relays an explanation tries beside the paths that the chosen
// one's links stand against.
const relaysShown = 3

// An Option is a path that was chosen, or rejected for a reason.
type Option struct {
	Path    Path
	Figures Figures // zero if it can't be taken; but for NoTransit and TooLong
	Reason  Reason
	At      int32 // the agent, or the first end of the link, that the reason is about; -1: none
}

// A Change is what would make the chosen path another one: that one of its links gets
// worse.
type Change struct {
	From, To int32
	Instead  Path   // the best path without the link in this direction; nil: there is none
	Micros   uint32 // of class delay: taken if the link costs more than this more; at just this a hash decides
	Kbit     uint32 // of class bulk: taken in turn if no more than this is left of the link, own load given back; 0: only without it
}

// An Explanation says why a pair's frames go where they do.
type Explanation struct {
	Class    overlay.Class
	Chosen   Option   // Path is nil if there is none
	Rejected []Option // best first, then those that can't be taken; MaxRejected at most
	Changes  []Change // one for each link of the chosen path
}

// Explain says why frames of a class go where they do: for the bulk with Choose's
// arguments, else only From and To of the pair matter. It takes some twenty searches.
func (f *Finder) Explain(g *Graph, c overlay.Class, q Pair, plans []Load) Explanation {
	x := Explanation{Class: c, Chosen: Option{Reason: NoPath, At: none}}
	if !g.has(q.From) || !g.has(q.To) || q.From == q.To {
		return x
	}
	var own []Load
	choice := Choice{Path: f.delayTo(g, q.From, q.To, none)}
	if c == overlay.ClassBulk {
		choice, own = f.Choose(g, q, plans), q.loads(plans)
	}
	r := f.given(g, own)
	if choice.Path != nil {
		x.Chosen = Option{choice.Path, figuresOf(g, choice.Path, r), None, none}
		x.Changes = f.changes(g, c, q, own, x.Chosen)
	}
	x.Rejected = f.options(g, c, q, own, choice, x)
	slices.SortFunc(x.Rejected, func(a, b Option) int {
		return cmp.Or(compareBool(a.Reason < Longer, b.Reason < Longer),
			compareOptions(c, a, b), cmp.Compare(len(a.Path), len(b.Path)), slices.Compare(a.Path, b.Path))
	})
	x.Rejected = x.Rejected[:min(len(x.Rejected), MaxRejected)]
	return x
}

// compareOptions orders options of a class, the better one first.
func compareOptions(c overlay.Class, a, b Option) int {
	wide := 0
	if c == overlay.ClassBulk {
		wide = cmp.Compare(class(b.Figures.RateKbit), class(a.Figures.RateKbit))
	}
	return cmp.Or(wide, cmp.Compare(a.Figures.CostMicros, b.Figures.CostMicros))
}

// delayTo returns the shortest path as Delay finds it, without link skip unless that is
// none; nil if there is none.
func (f *Finder) delayTo(g *Graph, from, to, skip int32) Path {
	w := g.sum
	if skip != none {
		w = f.copyWeights(g)
		w.link[skip] = barred
	}
	f.search(g, w, from, to, MaxHops)
	return f.path(nil, to)
}

// changes returns what would make the chosen path another one.
func (f *Finder) changes(g *Graph, c overlay.Class, q Pair, own []Load, chosen Option) []Change {
	var all []Change
	spread := uint64(near)
	if q.LoadKbit > 0 {
		spread = wide // it would be limited
	}
	for i, v := range chosen.Path[1:] {
		x := Change{From: chosen.Path[i], To: v}
		e, _ := g.link(x.From, x.To)
		if c == overlay.ClassBulk {
			x.Instead = f.bulkTo(g, q.From, q.To, own, e, spread)
		} else {
			x.Instead = f.delayTo(g, q.From, q.To, e)
		}
		if x.Instead != nil {
			instead := figuresOf(g, x.Instead, f.given(g, own))
			if c == overlay.ClassBulk {
				f.prepare(g, q.From, own, none, spread)
				shorter := f.length(g, x.Instead) < f.length(g, chosen.Path)
				x.Kbit = giveUp(chosen.Figures, instead, q.LoadKbit, shorter, len(x.Instead) > 2)
			} else {
				x.Micros = instead.CostMicros - chosen.Figures.CostMicros
			}
		}
		all = append(all, x)
	}
	return all
}

// giveUp returns the highest rate of its path at which a pair with a load moves to
// another one, 0 if it doesn't at any; shorter says that the other one is taken if they
// are as wide, relayed that it goes by relays.
func giveUp(now, instead Figures, load uint32, shorter, relayed bool) uint32 {
	return uint32(sort.Search(math.MaxUint32, func(kbit int) bool {
		now.RateKbit = uint32(kbit) + 1
		wide := cmp.Compare(class(now.RateKbit), class(instead.RateKbit))
		return wide > 0 || wide == 0 && !shorter || now.enough(load) || !worth(now, instead, relayed)
	}))
}

// options returns the paths that a pair's frames might take, but don't.
func (f *Finder) options(g *Graph, c overlay.Class, q Pair, own []Load, choice Choice, x Explanation) []Option {
	other, _ := f.Alternate(g, choice.Path)
	paths := append([]Path{{q.From, q.To}, choice.Best, f.delayTo(g, q.From, q.To, none), other},
		f.bulkTo(g, q.From, q.To, own, none, near))
	for _, change := range x.Changes {
		paths = append(paths, change.Instead)
	}
	r := f.given(g, own)
	paths = append(paths, relays(g, c, q, r)...)
	var all []Option
	seen := []Path{choice.Path, nil}
	for _, p := range paths {
		if slices.ContainsFunc(seen, func(s Path) bool { return slices.Equal(s, p) }) {
			continue
		}
		seen = append(seen, p)
		o := Option{Path: p, At: none}
		if o.Reason = g.valid(p); o.Reason == None {
			o.Figures = figuresOf(g, p, r)
			o.Reason = reject(c, o, x.Chosen, choice)
		} else {
			o.At = q.From // only the link straight to the other isn't valid
		}
		all = append(all, o)
	}
	return append(all, f.forbidden(g, q, x.Chosen)...)
}

// reject says why a valid path wasn't chosen.
func reject(c overlay.Class, o, chosen Option, choice Choice) Reason {
	a, b := o.Figures, chosen.Figures
	if c == overlay.ClassBulk {
		switch {
		case choice.Why != None && slices.Equal(o.Path, choice.Best):
			return choice.Why
		case a.RateKbit == 0 && b.RateKbit != 0:
			return RateUnknown
		case b.RateKbit != 0 && class(a.RateKbit) < class(b.RateKbit):
			return Narrower
		case choice.Why != None && class(a.RateKbit) > class(b.RateKbit):
			return choice.Why
		}
	}
	if a.CostMicros > b.CostMicros {
		return Longer
	}
	return Tie
}

// relays returns the best paths by one relay each.
func relays(g *Graph, c overlay.Class, q Pair, r rates) []Path {
	var all []Option
	for e := g.first[q.From]; e < g.first[q.From+1]; e++ {
		p := Path{q.From, g.to[e], q.To}
		if g.valid(p) == None {
			all = append(all, Option{Path: p, Figures: figuresOf(g, p, r)})
		}
	}
	slices.SortStableFunc(all, func(a, b Option) int { return compareOptions(c, a, b) })
	var paths []Path
	for _, o := range all[:min(len(all), relaysShown)] {
		paths = append(paths, o.Path)
	}
	return paths
}

// forbidden returns what would be shorter than the chosen path but for the limits that
// agents and frames have: the best path by agents that don't relay, and the best with
// more than MaxHops links.
func (f *Finder) forbidden(g *Graph, q Pair, chosen Option) []Option {
	var all []Option
	better := func(p Path, why Reason, at int32) {
		if x := figuresOf(g, p, g.rates); chosen.Path == nil || x.CostMicros < chosen.Figures.CostMicros {
			all = append(all, Option{p, x, why, at})
		}
	}
	f.search(g, g.sum, q.From, q.To, TreeHops)
	if p := f.path(nil, q.To); len(p) > MaxHops+1 {
		better(p, TooLong, none)
	}
	w := f.copyWeights(g)
	for i, n := range g.nodes {
		w.transit[i] = micros(uint64(n.CostMicros)) << tieBits
	}
	f.search(g, w, q.From, q.To, MaxHops)
	p := f.path(nil, q.To)
	for i := 1; i < len(p)-1; i++ {
		if g.nodes[p[i]].NoTransit {
			better(p, NoTransit, p[i])
			break
		}
	}
	return all
}
