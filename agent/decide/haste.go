package decide

import (
	"slices"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

// Haste returns how soon a gateway has to tell anew of its area's ways, by what it told and by
// the tree that it has now.
//
// At once if there is an agent to whom no gateway of the area leads any more, or yet: over links
// that are there still, as far as they told. One of them tells then, the first by a hash, so all
// learn of that by one record; in the next epoch, if there is need still, another one is the
// first. Agents exchange links all the time: where another tree leads there, or a link of this
// one was exchanged, senders find a way, and it is told when there is room.
func (b *Beyond) Haste(g *route.Graph, epoch int64, gateway overlay.AgentID, told *discovery.Area, tree []discovery.Leaf, f *route.Finder) discovery.News {
	led, whole := standing(g, gateway, told.Tree, f)
	missing := b.missing(tree, led)
	if len(missing) == 0 && whole {
		return discovery.NoNews
	}
	for _, id := range b.of[told.Number] {
		i := findGate(b.gates, discovery.BriefOf(id))
		if i >= 0 && id != gateway && len(missing) > 0 && len(b.gates[i].Rows) > 0 { // others reach that one
			led, _ = standing(g, id, b.gates[i].Tree, f)
			missing = b.missing(missing, led)
		}
	}
	if slices.ContainsFunc(missing, func(l discovery.Leaf) bool { return b.first(epoch, l.Agent, gateway, told.Number) }) {
		return discovery.Urgent
	}
	return discovery.SlowNews
}

// missing returns those of a tree to whom no way leads; to gateways one does by the backbone.
func (b *Beyond) missing(tree []discovery.Leaf, led map[discovery.Brief]bool) (all []discovery.Leaf) {
	for _, l := range tree {
		if !led[l.Agent] && findGate(b.gates, l.Agent) < 0 {
			all = append(all, l)
		}
	}
	return all
}

// first says whether a gateway of an area is the first to tell of an agent in an epoch.
func (b *Beyond) first(epoch int64, of discovery.Brief, gateway overlay.AgentID, area uint32) bool {
	rank := func(id overlay.AgentID) uint64 {
		h := (uint64(of) + uint64(id.Label()) + uint64(epoch)<<32) * 0x9e3779b97f4a7c15 // as SplitMix64 does
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		return h ^ h>>27
	}
	return !slices.ContainsFunc(b.of[area], func(id overlay.AgentID) bool { return rank(id) < rank(gateway) })
}

// standing returns to whom a gateway's tree leads over links that are in a graph, and whether
// all links are between agents that are.
func standing(g *route.Graph, gateway overlay.AgentID, tree []discovery.Leaf, f *route.Finder) (led map[discovery.Brief]bool, whole bool) {
	at, led := make([]int32, len(tree)+1), make(map[discovery.Brief]bool, len(tree))
	root, ok := g.Index(gateway)
	if !ok {
		return led, false
	}
	at[0], whole = root, true
	for i, l := range tree {
		from, to := at[l.Parent+1], int32(-1)
		if k, known := indexOf(g, l.Agent); known {
			if _, why := f.Figures(g, route.Path{from, k}, nil); why == route.None {
				to, led[l.Agent] = k, true
			} else {
				whole = false
			}
		}
		at[i+1] = to
	}
	return led, whole
}
