// Package route says which way frames go: it is the graph of what all agents know of
// each other's links, and pure functions on it. All of it is integers and ties are
// broken by hashes, so agents that know the same compute the same, whatever the order
// in which they came to know it.
//
// Facts (Node, Link) become a Graph (graph.go, cost.go). On it a Finder finds paths of
// at most MaxHops links (search.go): the shortest to all others for what is in haste
// (Delay, table.go), the widest for the bulk (Bulk, widest.go and labels.go; for a pair
// with a load of its own Choose, choose.go), alternates for when one breaks
// (alternate.go), the tree by which an agent's broadcasts spread (Tree, tree.go), and an
// agent's place in the trees of all (Branches, branches.go).
// Explain says why a path was chosen and what would change that (explain.go), Advise
// which stations had better be elsewhere (advise.go).
//
// Agents are named by their index in the graph, in the order of their ids. Nothing that
// agents tell can make any of this panic, loop, or grow beyond MaxNodes and MaxDegree.
package route

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"farlan/overlay"
)

// Bounds of a graph.
const (
	// MaxNodes is how many agents a graph has at most: those of the lowest ids. The
	// others can't be reached through it, and don't relay.
	MaxNodes = 1 << 14
	// MaxDegree is how many links an agent has at most: those to the lowest ids.
	MaxDegree = 1 << 10
)

// A Node is what an agent tells of itself. Rates are kbit/s of underlay IP packets that
// are left, what flows now not counted; 0 is unknown, so who has nothing left tells 1.
type Node struct {
	ID          overlay.AgentID
	NoTransit   bool   // it relays nothing
	TransitKbit uint32 // what is left of the limit that it has for relaying; 0: no limit
	UpKbit      uint32 // what is left of its access link, up
	DownKbit    uint32 // and down
	CostMicros  uint32 // what relaying by it costs more
}

// A Link is what From tells of its link to To, in that direction. Rates are as those of
// a Node.
type Link struct {
	From, To    overlay.AgentID
	RTTMicros   uint32 // smallest round trip; 0: unknown
	QueueMicros uint32 // how long datagrams queue on the way there
	Loss        uint32 // on the way there, 1 of LossUnit
	RateKbit    uint32 // what is left on the way there; 0: unknown
	CostMicros  uint32 // what somebody wants it to cost more, both ways
	Up          bool
	Relayed     bool // datagrams go by other members: no link of its own
}

// A Path is the agents on a way, both ends included, by their indexes.
type Path []int32

// A Graph is made of facts by New and doesn't change: it is safe for concurrent use. It
// takes 24 bytes a link and direction, and 84 a node.
type Graph struct {
	nodes []Node   // ascending by id
	keys  []uint64 // hashes of the ids
	first []int32  // the links of node i are those from first[i] to first[i+1]
	to    []int32  // ascending within a node
	links []figures
	sum   weights // for shortest paths
	rates rates
	off   []offLink // ascending: told by somebody, but no links
}

// figures are what people are shown of a link.
type figures struct{ micros, rtt uint32 }

// An offLink is a pair of which somebody told, and why it is no link.
type offLink struct {
	from, to int32
	why      Reason
}

// A fact is a Link with indexes for ids.
type fact struct {
	from, to int32
	*Link
}

// New makes a graph of facts in any order. A pair is a link if both ends tell that it is
// up (as in OSPF, RFC 2328 § 16.1 2b), and its round trip is the longer one of what they
// tell: so one liar alone can neither invent links to others nor shorten them. Links of
// agents that aren't nodes, and of an agent to itself, are ignored; of facts that are
// there twice one is taken, the same one whatever the order.
func New(nodes []Node, links []Link) *Graph {
	g := &Graph{nodes: order(nodes)}
	g.describe()
	facts := g.facts(links)
	begin := begins(facts, len(g.nodes))
	g.room(len(facts))
	g.first = append(make([]int32, 0, len(g.nodes)+1), 0)
	at := 0
	for i := range g.nodes {
		for degree := 0; at < len(facts) && facts[at].from == int32(i); at++ {
			if degree++; degree <= MaxDegree {
				g.add(facts[at], facts, begin)
			}
		}
		g.first = append(g.first, int32(len(g.to)))
	}
	return g
}

// describe takes over what nodes tell.
func (g *Graph) describe() {
	n := len(g.nodes)
	g.keys, g.sum.transit = make([]uint64, n), make([]uint64, n)
	g.rates.up, g.rates.down, g.rates.transit = make([]uint32, n), make([]uint32, n), make([]uint32, n)
	var named []byte
	for i := range g.nodes {
		x := &g.nodes[i]
		named = append(append(named[:0], "farlan route 1"...), x.ID[:]...)
		h := sha256.Sum256(named)
		g.keys[i], g.sum.transit[i] = binary.BigEndian.Uint64(h[:]), micros(uint64(x.CostMicros))<<tieBits
		if x.NoTransit {
			g.sum.transit[i] = barred
		}
		g.rates.up[i], g.rates.down[i], g.rates.transit[i] = limit(x.UpKbit), limit(x.DownKbit), limit(x.TransitKbit)
	}
}

// order returns the nodes by ascending id, each once.
func order(nodes []Node) []Node {
	all := slices.SortedFunc(slices.Values(nodes), func(a, b Node) int {
		return cmp.Or(a.ID.Compare(b.ID), compareBool(b.NoTransit, a.NoTransit),
			cmp.Compare(a.UpKbit, b.UpKbit), cmp.Compare(a.DownKbit, b.DownKbit),
			cmp.Compare(a.TransitKbit, b.TransitKbit), cmp.Compare(a.CostMicros, b.CostMicros))
	})
	all = slices.CompactFunc(all, func(a, b Node) bool { return a.ID == b.ID })
	return all[:min(len(all), MaxNodes)]
}

// room makes room for so many links.
func (g *Graph) room(links int) {
	g.to, g.links = make([]int32, 0, links), make([]figures, 0, links)
	g.sum.link, g.rates.link = make([]uint64, 0, links), make([]uint32, 0, links)
}

// facts returns the links with indexes, in their order, each direction once.
func (g *Graph) facts(links []Link) []fact {
	seats := seatsOf(g.nodes)
	all, last := make([]fact, 0, len(links)), int32(none)
	for i := range links {
		l := &links[i]
		from := last // most come one after another
		if from == none || g.nodes[from].ID != l.From {
			from = seats.find(l.From)
		}
		if last = from; from == none {
			continue
		}
		if to := seats.find(l.To); to != none && from != to {
			all = append(all, fact{from, to, l})
		}
	}
	all = bySender(all, len(g.nodes))
	for at := 0; at < len(all); {
		end := at + 1
		for end < len(all) && all[end].from == all[at].from {
			end++
		}
		slices.SortFunc(all[at:end], func(a, b fact) int {
			if a.to != b.to {
				return int(a.to - b.to)
			}
			return a.against(b)
		})
		at = end
	}
	return slices.CompactFunc(all, func(a, b fact) bool { return a.from == b.from && a.to == b.to })
}

// against orders facts of the same direction: the first one counts.
func (f fact) against(b fact) int {
	return cmp.Or(compareBool(f.Up, b.Up), compareBool(b.Relayed, f.Relayed),
		cmp.Compare(b.RTTMicros, f.RTTMicros), cmp.Compare(b.QueueMicros, f.QueueMicros),
		cmp.Compare(b.Loss, f.Loss), cmp.Compare(f.RateKbit, b.RateKbit), cmp.Compare(b.CostMicros, f.CostMicros))
}

// bySender returns facts in the order of who tells them.
func bySender(facts []fact, nodes int) []fact {
	next, all := begins(facts, nodes), make([]fact, len(facts))
	for _, f := range facts {
		all[next[f.from]] = f
		next[f.from]++
	}
	return all
}

// seats are the first bytes of nodes' ids, in their order, to find nodes by.
type seats struct {
	nodes []Node
	heads []uint64
}

func seatsOf(nodes []Node) seats {
	s := seats{nodes, make([]uint64, len(nodes))}
	for i := range nodes {
		s.heads[i] = binary.BigEndian.Uint64(nodes[i].ID[:])
	}
	return s
}

// find returns the index of a node, none if there is no such one.
func (s seats) find(id overlay.AgentID) int32 {
	head := binary.BigEndian.Uint64(id[:])
	low, high := 0, len(s.heads)
	for low < high {
		if m := (low + high) / 2; s.heads[m] < head {
			low = m + 1
		} else {
			high = m
		}
	}
	for ; low < len(s.heads) && s.heads[low] == head; low++ {
		if s.nodes[low].ID == id {
			return int32(low)
		}
	}
	return none
}

// begins returns where the facts of each node begin, and behind the last one's they end.
func begins(facts []fact, nodes int) []int32 {
	all := make([]int32, nodes+1)
	for _, f := range facts {
		all[f.from+1]++
	}
	for i := range nodes {
		all[i+1] += all[i]
	}
	return all
}

// add adds a link, or why it is none, as its other end sees it too. begin is where the
// facts of each node begin in all.
func (g *Graph) add(f fact, all []fact, begin []int32) {
	there, ok := slices.BinarySearchFunc(all[begin[f.to]:begin[f.to+1]], f.from, func(a fact, to int32) int { return cmp.Compare(a.to, to) })
	there += int(begin[f.to])
	why := f.state()
	switch {
	case why != None:
	case !ok || beyond(all, there):
		why = OneWay
	default:
		why = all[there].state()
	}
	if why != None {
		g.off = append(g.off, offLink{f.from, f.to, why})
		return
	}
	back := all[there]
	cost, rtt := linkMicros(f.Link, back.Link)
	g.to = append(g.to, f.to)
	g.links = append(g.links, figures{uint32(cost), rtt})
	g.sum.link = append(g.sum.link, cost<<tieBits|g.tie(f.from, f.to))
	g.rates.link = append(g.rates.link, f.RateKbit)
}

// beyond says whether fact i is one that its agent has too many of.
func beyond(all []fact, i int) bool {
	return i >= MaxDegree && all[i-MaxDegree].from == all[i].from
}

// state says why a fact makes no link, or None.
func (f fact) state() Reason {
	switch {
	case f.Relayed:
		return Relayed
	case !f.Up || f.Loss >= LossUnit:
		return Down
	}
	return None
}

// Len returns how many nodes there are.
func (g *Graph) Len() int { return len(g.nodes) }

// ID returns the id of a node.
func (g *Graph) ID(i int32) overlay.AgentID { return g.nodes[i].ID }

// Degree returns how many links a node has.
func (g *Graph) Degree(i int32) int { return int(g.first[i+1] - g.first[i]) }

// Index returns an agent's index; ok is false if it is no node.
func (g *Graph) Index(id overlay.AgentID) (i int32, ok bool) {
	at, ok := slices.BinarySearchFunc(g.nodes, id, func(n Node, id overlay.AgentID) int { return n.ID.Compare(id) })
	return int32(at), ok
}

// has says whether i is a node's index.
func (g *Graph) has(i int32) bool { return i >= 0 && int(i) < len(g.nodes) }

// link returns the index of the link between two nodes.
func (g *Graph) link(from, to int32) (int32, bool) {
	at, ok := slices.BinarySearch(g.to[g.first[from]:g.first[from+1]], to)
	return g.first[from] + int32(at), ok
}

// why returns why there is no link between two nodes.
func (g *Graph) why(from, to int32) Reason {
	at, ok := slices.BinarySearchFunc(g.off, offLink{from: from, to: to}, func(a, b offLink) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	if !ok {
		return NoLink
	}
	return g.off[at].why
}

// Hash returns a hash of the facts as far as routes depend on them.
func (g *Graph) Hash() uint64 {
	h := sha256.New()
	var b []byte
	for i, n := range g.nodes {
		b = append(b[:0], n.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, g.sum.transit[i])
		for _, r := range [...]uint32{g.rates.up[i], g.rates.down[i], g.rates.transit[i]} {
			b = binary.BigEndian.AppendUint32(b, r)
		}
		for e := g.first[i]; e < g.first[i+1]; e++ {
			b = binary.BigEndian.AppendUint32(b, uint32(g.to[e]))
			b = binary.BigEndian.AppendUint32(b, g.links[e].micros)
			b = binary.BigEndian.AppendUint32(b, g.rates.link[e])
		}
		h.Write(b)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// limit returns a rate as a limit: what isn't known limits nothing.
func limit(kbit uint32) uint32 {
	if kbit == 0 {
		return math.MaxUint32
	}
	return kbit
}

// mix folds the product of x and y, so that every bit of both counts (as in wyhash).
func mix(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x^0x9e3779b97f4a7c15, y^0xe7037ed1a0b428db)
	return hi ^ lo
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
