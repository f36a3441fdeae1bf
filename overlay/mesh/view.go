package mesh

import (
	"cmp"
	"slices"

	"farlan/overlay"
)

// A View is the facts of one epoch and what follows from them: the distances of all
// agents from each other over the links that stay, and Φ. These are found when somebody asks
// for them: an agent that has no turn needs none. Choosers with equal facts may share one. It
// is not safe for concurrent use, as what-if questions change it meanwhile.
type View struct {
	agents []Agent
	each   int // links that an agent chooses
	links  []Link
	costs  []int32  // of each link, 0 if it doesn't stay
	keys   []uint64 // of each agent
	ring   []int    // agents in the order of their keys
	place  []int    // where each is in ring
	rules  map[pair]ruling

	at     [][]int32 // of each agent, the links that are up, by the other end: indices into links
	mutes  bool      // some carry nothing for others
	owned  []int     // of each, how many of them it holds
	next   [][]step  // of each, its neighbours over the links that stay
	dist   []int32   // from each to each over these, in µs; far where there is no way; nil: see settled
	wanted []demand
	phi    int64
	pieces pieces
	like   []*View // see Like

	what whatIf
	heap heap
}

// A demand is what two agents' traffic adds to their pair's weight.
type demand struct {
	from, to int
	weight   int64
}

// NewView returns what follows from facts, which it keeps. What makes no sense in them
// (agents that aren't there, links of an agent with itself, second links of a pair, more
// than MaxLinks of an agent) is ignored. It fails with ErrTooMany.
func NewView(f Facts) (*View, error) {
	n := len(f.Agents)
	if n > MaxAgents {
		return nil, ErrTooMany
	}
	v := &View{
		agents: f.Agents, each: min(max(f.Own, ownLinks), mostOwn), rules: ruleAll(f.Agents),
		keys: make([]uint64, n), ring: make([]int, n), place: make([]int, n),
		at: make([][]int32, n), owned: make([]int, n), next: make([][]step, n),
	}
	for i := range f.Agents {
		v.keys[i], v.ring[i] = keyOf(f.Network, f.Agents[i].ID), i
		v.mutes = v.mutes || f.Agents[i].NoTransit
	}
	slices.SortFunc(v.ring, byKey(v.keys))
	for p, i := range v.ring {
		v.place[i] = p
	}
	for i := range f.Agents {
		demands := f.Agents[i].Demands
		for _, d := range demands[:min(len(demands), MaxDemands)] {
			if d.Peer >= 0 && d.Peer < n && d.Peer != i && d.Weight > 0 {
				v.wanted = append(v.wanted, demand{i, d.Peer, int64(min(d.Weight, int32(n)))})
			}
		}
	}
	v.connect(f.Links)
	v.what.init(n)
	return v, nil
}

// Forget lets the memory go that distances take, 4 bytes for each pair: they are found anew
// when they are needed once more.
func (v *View) Forget() { v.dist, v.like = nil, nil }

// Known says whether distances are known, so that finding others may begin with them: see Like.
func (v *View) Known() bool { return v.dist != nil }

// connect takes the links over.
func (v *View) connect(links []Link) {
	all := v.sift(links)
	v.links, v.costs = make([]Link, 0, len(all)), make([]int32, 0, len(all))
	v.reserve(all)
	for _, l := range all {
		v.at[l.A] = append(v.at[l.A], int32(len(v.links)))
		v.at[l.B] = append(v.at[l.B], int32(len(v.links)))
		v.links = append(v.links, l)
		for end, i := range [2]int{l.A, l.B} {
			if l.By[end] != Accepts {
				v.owned[i]++
			}
		}
		cost := int32(0)
		if !l.leaving() {
			cost = v.cost(l.A, l.B, l.Cost)
			v.attach(l.A, l.B, cost)
		}
		v.costs = append(v.costs, cost)
	}
}

// reserve makes room for each agent's links, in two pieces of memory for all.
func (v *View) reserve(links []Link) {
	degrees := make([]int, len(v.agents))
	for _, l := range links {
		degrees[l.A]++
		degrees[l.B]++
	}
	at, next := make([]int32, 2*len(links)), make([]step, 2*len(links))
	for i, n := range degrees {
		v.at[i], v.next[i] = at[:0:n], next[:0:n]
		at, next = at[n:], next[n:]
	}
}

// sift returns the links that count, in the order of their ends, and thus of each agent
// in the order of the others.
func (v *View) sift(links []Link) []Link {
	all := make([]Link, 0, len(links))
	for _, l := range links {
		if min(l.A, l.B) >= 0 && max(l.A, l.B) < len(v.agents) && l.A != l.B {
			all = append(all, l)
		}
	}
	all = sortBy(all, len(v.agents), func(l *Link) int { return min(l.A, l.B) })
	all = sortBy(all, len(v.agents), func(l *Link) int { return max(l.A, l.B) }) // see byEnds
	all = slices.CompactFunc(all, func(x, y Link) bool { return pairOf(x.A, x.B) == pairOf(y.A, y.B) })
	count := make([]int, len(v.agents))
	return slices.DeleteFunc(all, func(l Link) bool {
		if count[l.A] == MaxLinks || count[l.B] == MaxLinks {
			return true
		}
		count[l.A]++
		count[l.B]++
		return false
	})
}

// sortBy returns links in the order of an end, those of the same one as they were.
func sortBy(links []Link, agents int, end func(*Link) int) []Link {
	next, all := make([]int, agents+1), make([]Link, len(links))
	for i := range links {
		next[end(&links[i])+1]++
	}
	for i := range agents {
		next[i+1] += next[i]
	}
	for i := range links {
		at := &next[end(&links[i])]
		all[*at] = links[i]
		*at++
	}
	return all
}

// byEnds is the order of a view's links.
func byEnds(x, y *Link) int {
	if x.A == y.A && x.B == y.B { // mostly
		return 0
	}
	return cmp.Or(cmp.Compare(max(x.A, x.B), max(y.A, y.B)), cmp.Compare(min(x.A, x.B), min(y.A, y.B)))
}

// Index returns an agent's place in the facts, -1 if it isn't a member.
func (v *View) Index(id overlay.AgentID) int {
	i, ok := slices.BinarySearchFunc(v.agents, id, func(a Agent, id overlay.AgentID) int { return a.ID.Compare(id) })
	if !ok {
		return -1
	}
	return i
}

// Agents returns how many there are.
func (v *View) Agents() int { return len(v.agents) }

// Distance returns what the best way between two agents costs over the links that stay,
// in µs; false if there is none.
func (v *View) Distance(from, to int) (int32, bool) {
	d := v.d(from, to)
	return d, d != far
}

// Full says that there are so few agents that each has a link with each.
func (v *View) Full() bool { return len(v.agents) <= fullMesh }

// Phi returns the potential that accepted moves lower: the distances of all pairs,
// weighted by 1 and their demand, plus the price of the links, in µs.
func (v *View) Phi() int64 {
	v.settled()
	return v.phi
}

// Degree returns how many links of an agent are up.
func (v *View) Degree(agent int) int { return len(v.at[agent]) }

// cost returns what a link costs that is measured at so much: the operators' shares are
// added.
func (v *View) cost(a, b int, measured int32) int32 {
	sum := clamp(measured) + clamp(v.agents[a].Cost) + clamp(v.agents[b].Cost) + v.rules[pairOf(a, b)].cost
	return max(1, clamp(sum))
}

// allowed says whether two agents may have a link.
func (v *View) allowed(a, b int) bool { return a != b && !v.rules[pairOf(a, b)].forbid }

// link returns the link of two agents that is up, nil if there is none.
func (v *View) link(a, b int) *Link {
	for _, i := range v.at[a] {
		if l := &v.links[i]; l.A == b || l.B == b {
			return l
		}
	}
	return nil
}

// hold returns what agent says of its link with peer.
func (l *Link) hold(agent int) Hold {
	if l.A == agent {
		return l.By[0]
	}
	return l.By[1]
}

// other returns the end of the link that isn't agent.
func (l *Link) other(agent int) int { return l.A + l.B - agent }

// Cap returns how many links an agent may have. Where there were few agents before, it
// may have more until it gave them up in its turns.
func (v *View) Cap() int {
	if n := len(v.agents); n <= fewAgents {
		return max(4*v.each, n-1)
	}
	return 4 * v.each
}

// room says whether an agent that has so many links may be given one more that nobody
// must have: places are kept for those that it will choose itself, and one for the new
// link of an exchange or of the ring.
func (v *View) room(agent, degree int) bool {
	return degree+max(0, v.each-v.owned[agent])+1 < v.Cap()
}

// Turn says whether an agent may move in an epoch: it needs to know candidates then.
func (v *View) Turn(agent int, epoch int64) bool { return v.turn(agent, epoch, sane.turns) }

// turn says whether an epoch is one of an agent's turns, of which it has so many in each
// turnsOf epochs, at places by hash: were each epoch drawn by itself, some of 490 agents
// would wait for 30 epochs.
func (v *View) turn(agent int, epoch int64, turns int) bool {
	lot := func(e int64) uint64 { return mix(v.keys[agent] ^ mix(uint64(e))) }
	first, mine, before := epoch-epoch%turnsOf, lot(epoch), 0
	for e := first; e < first+turnsOf; e++ {
		if lot(e) < mine {
			before++
		}
	}
	return before < turns
}
