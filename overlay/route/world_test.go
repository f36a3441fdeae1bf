package route

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"farlan/overlay"
)

// A world is facts, and a plain reading of them for tests to compare with. Node i has
// index i.
type world struct {
	nodes []Node
	links []Link
}

func id(i int) (a overlay.AgentID) {
	binary.BigEndian.PutUint32(a[:], uint32(i)+1)
	return a
}

func newWorld(n int) *world {
	w := &world{}
	for i := range n {
		w.nodes = append(w.nodes, Node{ID: id(i)})
	}
	return w
}

// link adds a link in both directions.
func (w *world) link(a, b int, rttMicros, kbit uint32) *world {
	w.links = append(w.links,
		Link{From: id(a), To: id(b), RTTMicros: rttMicros, RateKbit: kbit, Up: true},
		Link{From: id(b), To: id(a), RTTMicros: rttMicros, RateKbit: kbit, Up: true})
	return w
}

// find returns what a tells of its link to b.
func (w *world) find(a, b int) *Link {
	for i := range w.links {
		if w.links[i].From == id(a) && w.links[i].To == id(b) {
			return &w.links[i]
		}
	}
	return nil
}

func (w *world) graph() *Graph { return New(w.nodes, w.links) }

// shuffled returns a graph of the facts in another order.
func (w *world) shuffled(r *rand.Rand) *Graph {
	nodes, links := slices.Clone(w.nodes), slices.Clone(w.links)
	r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	r.Shuffle(len(links), func(i, j int) { links[i], links[j] = links[j], links[i] })
	return New(nodes, links)
}

// randomWorld is a ring, so that paths may need more than MaxHops links, with chords and
// with all that facts may have. Values are few, so that many paths are as good. In a
// symmetric one both ends tell the same, and no queues or losses differ.
func randomWorld(r *rand.Rand, n int, chords float64, symmetric bool) *world {
	w := newWorld(n)
	rate := func() uint32 { return []uint32{0, 1, 50, 100, 101, 1000, 100_000}[r.IntN(7)] }
	for i := range w.nodes {
		v := &w.nodes[i]
		v.NoTransit = r.IntN(8) == 0
		v.TransitKbit, v.UpKbit, v.DownKbit = rate(), rate(), rate()
		v.CostMicros = uint32(1000 * max(0, r.IntN(6)-3))
	}
	for a := range n {
		for b := range a {
			if a-b == 1 || a-b == n-1 || r.Float64() < chords {
				w.link(a, b, 1000*uint32(r.IntN(6)), rate())
			}
		}
	}
	for i := range w.links {
		l := &w.links[i]
		if symmetric {
			continue
		}
		l.QueueMicros = uint32(500 * max(0, r.IntN(5)-3))
		l.RateKbit = rate()
		switch r.IntN(30) {
		case 0:
			l.Up = false
		case 1:
			l.Relayed = true
		case 2:
			l.Loss = LossUnit / 50
		case 3:
			l.Loss = LossUnit
		case 4:
			l.CostMicros = 1500
		case 5:
			l.RTTMicros += 1000
		case 6:
			l.To = id(n + 1) // who isn't there
		}
	}
	return w
}

// usable says whether both ends tell that there is a link.
func (w *world) usable(a, b int) bool {
	for _, l := range []*Link{w.find(a, b), w.find(b, a)} {
		if l == nil || !l.Up || l.Relayed || l.Loss >= LossUnit {
			return false
		}
	}
	return true
}

// micros returns what a path costs by the facts.
func (w *world) micros(p Path) (sum uint64) {
	for i := 1; i < len(p); i++ {
		a, b := w.find(int(p[i-1]), int(p[i])), w.find(int(p[i]), int(p[i-1]))
		rtt := max(a.RTTMicros, b.RTTMicros)
		if rtt == 0 {
			rtt = 1_000_000
		}
		sum += uint64(rtt/2+a.QueueMicros+500+a.CostMicros+b.CostMicros) + lossCost(a.Loss)
		if i > 1 {
			sum += uint64(w.nodes[p[i-1]].CostMicros)
		}
	}
	return sum
}

// kbit returns what is left on a path by the facts, loads given back; 0 is unknown.
func (w *world) kbit(p Path, own []Load) int64 {
	const most = 1<<32 - 1
	least := int64(most)
	narrow := func(told uint32, uses func(i int, q Path) bool) {
		if told == 0 {
			return
		}
		given, taken := int64(told), int64(0)
		for _, o := range own {
			for i := range o.Path {
				if uses(i, o.Path) {
					given, taken = given+max(0, o.Kbit), taken+min(0, o.Kbit)
				}
			}
		}
		least = min(least, max(1, min(given, most)+taken))
	}
	unknown := false
	for i := 1; i < len(p); i++ {
		a, b := p[i-1], p[i]
		told := w.find(int(a), int(b)).RateKbit
		unknown = unknown || told == 0
		narrow(told, func(j int, q Path) bool { return j > 0 && q[j-1] == a && q[j] == b })
		narrow(w.nodes[a].UpKbit, func(j int, q Path) bool { return j < len(q)-1 && q[j] == a })
		narrow(w.nodes[b].DownKbit, func(j int, q Path) bool { return j > 0 && q[j] == b })
		if i > 1 {
			narrow(w.nodes[a].TransitKbit, func(j int, q Path) bool { return j > 0 && j < len(q)-1 && q[j] == a })
		}
	}
	if unknown {
		return 0
	}
	return least
}

// paths calls do with every path without a ring between two nodes that has at most some
// links. The path is valid during the call.
func (w *world) paths(from, to, links int, do func(Path)) {
	near := make([][]int, len(w.nodes))
	for a := range near {
		for b := range near {
			if a != b && w.usable(a, b) {
				near[a] = append(near[a], b)
			}
		}
	}
	var p Path
	var visit func(v int)
	visit = func(v int) {
		p = append(p, int32(v))
		defer func() { p = p[:len(p)-1] }()
		if v == to {
			do(p)
			return
		}
		if len(p) > links || len(p) > 1 && w.nodes[v].NoTransit {
			return
		}
		for _, u := range near[v] {
			if !slices.Contains(p, int32(u)) {
				visit(u)
			}
		}
	}
	visit(from)
}
