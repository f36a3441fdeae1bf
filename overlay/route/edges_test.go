package route

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"farlan/overlay"
)

// A graph of edges is the one that New makes of their links, also where they are out of order,
// there twice, of nobody, or more than an agent may have.
func TestUndirected(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 9))
		nodes := make([]Node, r.IntN(40))
		if seed == 0 {
			nodes = make([]Node, MaxDegree+3)
		}
		for i := range nodes {
			nodes[i] = Node{ID: overlay.AgentID{byte(i >> 8), byte(i)}, NoTransit: r.IntN(5) == 0, CostMicros: uint32(r.IntN(2) * 900), UpKbit: uint32(r.IntN(3))}
		}
		var edges []Edge
		for a := range nodes {
			for b := range nodes[:a] {
				if r.IntN(4) == 0 || seed == 0 && b == 0 {
					edges = append(edges, Edge{int32(b), int32(a), uint32(r.IntN(5) * 1000), uint32(r.IntN(2) * 50), uint32(r.IntN(2) * 70)})
				}
			}
		}
		slices.SortFunc(edges, func(x, y Edge) int {
			if x.A != y.A {
				return int(x.A - y.A)
			}
			return int(x.B - y.B)
		})
		switch {
		case seed%5 == 1:
			slices.Reverse(nodes)
		case seed%5 == 2:
			r.Shuffle(len(edges), func(i, j int) { edges[i], edges[j] = edges[j], edges[i] })
		case seed%5 == 3 && len(edges) > 0:
			edges = append(edges, Edge{A: -1, B: 1}, Edge{A: 3, B: 1 << 20}, edges[len(edges)-1])
		}
		want := New(nodes, linksOf(nodes, edges))
		got := Undirected(slices.Clone(nodes), edges)
		want.off, got.off = append([]offLink{}, want.off...), append([]offLink{}, got.off...)
		if len(edges) > 0 && !reflect.DeepEqual(got, want) || got.Hash() != want.Hash() {
			t.Fatalf("seed %d: %d nodes and %d edges make another graph", seed, len(nodes), len(edges))
		}
	}
}
