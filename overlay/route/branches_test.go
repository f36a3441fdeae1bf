package route

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// An agent's place in all trees is what the trees say of it.
func TestBranchesAreTheTrees(t *testing.T) {
	var f Finder
	var b Branches
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 9))
		n := 5 + r.IntN(60)
		w := randomWorld(r, n, 3/float64(n), true)
		trees := make([]Tree, n)
		for origin := range trees {
			f.Tree(w.graph(), int32(origin), &trees[origin])
		}
		for self := range int32(n) {
			f.Branches(w.shuffled(r), self, &b)
			for origin := range int32(n) {
				parent, ok := b.Parent(origin)
				want, reached := trees[origin].Parent(self)
				if ok != reached || parent != want {
					t.Fatalf("seed %d: %d takes broadcasts of %d from %d, %v, the tree says %d, %v", seed, self, origin, parent, ok, want, reached)
				}
				got := b.Children(nil, origin)
				slices.Sort(got)
				if children := slices.Sorted(slices.Values(trees[origin].Children(self))); !slices.Equal(got, children) {
					t.Fatalf("seed %d: %d passes broadcasts of %d on to %v, the tree says %v", seed, self, origin, got, children)
				}
			}
		}
	}
	f.Branches(newWorld(3).graph(), 7, &b)
	if _, ok := b.Parent(0); ok || b.Children(nil, 7) != nil {
		t.Error("who isn't there has a place")
	}
}

func BenchmarkBranches(b *testing.B) {
	bench(b, func(b *testing.B, _ *world, g *Graph) {
		var f Finder
		var all Branches
		k := 0
		for b.Loop() {
			f.Branches(g, int32(k%g.Len()), &all)
			k++
		}
	})
}
