package mesh

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// The useful nominees are those that looking at all finds, and no link gains more than it
// is said to gain at most.
func TestUseful(t *testing.T) {
	t.Parallel()
	found := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		n := 2 + r.IntN(60)
		f := randomFacts(r, n, r.IntN(2*n))
		for i := range f.Agents {
			f.Agents[i].NoTransit = f.Agents[i].NoTransit && seed%2 == 0
		}
		for i := range f.Links {
			f.Links[i].Cost = int32(100 + r.IntN(4000))
		}
		v := mustView(t, f)
		a := r.IntN(n)
		var costs, all []ranked
		for b := range n {
			if b == a || v.link(a, b) != nil {
				continue
			}
			cost := int32(1 + r.IntN(3000))
			costs = append(costs, ranked{b, int64(cost)})
			gain, most := v.gain(a, b, cost), v.gainAtMost(a, b, cost)
			if gain > most {
				t.Fatalf("seed %d: %d–%d gains %d, %d at most", seed, a, b, gain, most)
			}
			if gain > v.price() && v.room(b, v.Degree(b)) {
				all = append(all, ranked{b, -gain})
			}
		}
		want := take(nil, all, mostUseful)
		if got := take(nil, v.useful(a, costs), mostUseful); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v, want %v", seed, got, want)
		}
		if len(all) > mostUseful {
			found++
		}
	}
	if found < 50 {
		t.Errorf("in %d networks only there was something to choose from", found)
	}
}

// A link that joins two pieces gains what looking at all pairs finds.
func TestJoins(t *testing.T) {
	t.Parallel()
	joined := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 4))
		n := 2 + r.IntN(40)
		f := randomFacts(r, n, r.IntN(n))
		for i := range f.Agents {
			f.Agents[i].NoTransit = false
		}
		v := mustView(t, f)
		for a := range n {
			for b := range a {
				fall, ok := v.joins(a, b, 700)
				if !ok {
					continue
				}
				joined++
				v.mutes = true // so that it looks at all
				if want := v.gain(a, b, 700); fall != want {
					t.Fatalf("seed %d: %d–%d gains %d, want %d", seed, a, b, fall, want)
				}
				v.mutes = false
			}
		}
	}
	if joined < 1000 {
		t.Errorf("only %d links joined pieces", joined)
	}
}
