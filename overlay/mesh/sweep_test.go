package mesh

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A sweep finds what trying until nothing gets shorter finds, whatever links cost; and
// where they cost so differently that it would need many buckets, it isn't used.
func TestSweep(t *testing.T) {
	t.Parallel()
	swept := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 2))
		n := 1 + r.IntN(60)
		f := randomFacts(r, n, r.IntN(4*n))
		least, most := 1+r.IntN(1<<r.IntN(14)), 1<<r.IntN(24)
		for i := range f.Links {
			f.Links[i].Cost = int32(least + r.IntN(most))
		}
		v := mustView(t, f)
		want := slow(v)
		if !slices.Equal(v.dist, want) {
			t.Fatalf("seed %d: distances are wrong", seed)
		}
		if _, ok := v.sweep(); ok {
			swept++
		}
		for i := range n {
			v.settle(i)
		}
		if !slices.Equal(v.dist, want) {
			t.Fatalf("seed %d: distances by the heap are wrong", seed)
		}
	}
	if swept < 200 || swept == 400 {
		t.Errorf("%d of 400 networks were swept", swept)
	}
}
