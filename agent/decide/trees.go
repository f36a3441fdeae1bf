package decide

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"farlan/overlay"
	"farlan/overlay/route"
)

// treeStep is the least round trip that trees tell apart; above, they tell powers of two of
// it apart.
const treeStep = 4 * time.Millisecond

// Trees makes a graph of the links on which broadcasts spread, of what members tell,
// ascending by id: those that both ends keep. Of what they cost it has only what hardly ever
// changes: round trips in powers of two, and what operators add. For agents that don't know
// the same for a moment lose broadcasts, and news of queues, losses and rates is on its way
// at any time. Links cost the same in both directions, as route.Branches wants.
func Trees(told []Told) *route.Graph {
	nodes := make([]route.Node, 0, len(told))
	for i := range told {
		nodes = append(nodes, route.Node{ID: told[i].ID, NoTransit: told[i].NoTransit, CostMicros: micros(told[i].Cost)})
	}
	pairs := pairsOf(told, namesOf(told))
	edges := make([]route.Edge, 0, len(pairs))
	for _, p := range pairs {
		a, b := &told[p.a].Rows[p.rowA], &told[p.b].Rows[p.rowB]
		if !b.Forbid {
			edges = append(edges, route.Edge{
				A: int32(p.a), B: int32(p.b), RTTMicros: coarse(max(a.RTT, b.RTT)), CostA: micros(a.Cost), CostB: micros(b.Cost),
			})
		}
	}
	return route.Undirected(nodes, edges)
}

// Briefest returns which of several trees was the newest for the shortest time, when it is
// given since when each was; the last one, which still is, doesn't count. So of those that are
// kept, as somebody may know no newer one yet, that one is missed least.
func Briefest(count int, since func(int) overlay.Instant) (least int) {
	for i := range count - 1 {
		if since(i+1).Sub(since(i)) < since(least+1).Sub(since(least)) {
			least = i
		}
	}
	return least
}

// TreesHash returns a hash of what Trees depends on: where it is equal, Trees are. To compute
// it takes a small part of what Trees takes.
func TreesHash(told []Told) uint64 {
	b := make([]byte, 0, 64*len(told))
	for i := range told {
		t := &told[i]
		b = append(append(b, t.ID[:]...), flag(t.NoTransit))
		b = binary.BigEndian.AppendUint32(b, micros(t.Cost))
		for k := range t.Rows {
			if r := &t.Rows[k]; r.Kept() && !r.Relayed && !r.Forbid {
				b = binary.BigEndian.AppendUint64(append(b, 2|flag(holds(r))), uint64(r.Peer))
				b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, coarse(r.RTT)), micros(r.Cost))
			}
		}
		b = append(b, 0xff) // the end of the rows
	}
	h := sha256.Sum256(b)
	return binary.BigEndian.Uint64(h[:])
}

func flag(is bool) byte {
	if is {
		return 1
	}
	return 0
}

// coarse returns the least step that isn't less than a round trip, in µs.
func coarse(rtt time.Duration) uint32 {
	step := treeStep
	for step < rtt && step < time.Minute {
		step *= 2
	}
	return micros(step)
}
