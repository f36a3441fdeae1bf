package route

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// gridFluid is the grid's regions, of which some pairs send all that they can. What others
// tell is up to ten seconds old and off by 5 %. A region's access link carries as much as the
// most that it was seen to send, or to receive.
func gridFluid(rates [][]uint32, pairs []Pair, seed uint64) *fluid {
	x := &fluid{world: newWorld(len(rates)), wants: 100_000_000, every: 10, noise: 0.05, choose: choose, pairs: pairs}
	for a := range rates {
		v := &x.world.nodes[a]
		for b := range rates {
			v.UpKbit, v.DownKbit = max(v.UpKbit, rates[a][b]), max(v.DownKbit, rates[b][a])
			if onGrid(rates, a, b) {
				x.world.links = append(x.world.links, Link{From: id(a), To: id(b), RTTMicros: 100_000, RateKbit: rates[a][b], Up: true})
			}
		}
	}
	return x.start(seed)
}

// onGrid says whether there is a link between two regions.
func onGrid(rates [][]uint32, a, b int) bool { return a != b && rates[a][b] > 0 && rates[b][a] > 0 }

func straight(a, b int) Pair {
	return Pair{From: int32(a), To: int32(b), Current: Path{int32(a), int32(b)}}
}

// total returns what all pairs get now.
func (x *fluid) total() (kbit int64) {
	x.flow()
	for _, r := range x.rates {
		kbit += r
	}
	return kbit
}

// after returns what all pairs get on average, once so many epochs have passed.
func (x *fluid) after(epochs int) (kbit int64) {
	for range epochs {
		x.epoch()
	}
	const over = 10
	for range over {
		_, k := x.epoch()
		kbit += k / over
	}
	return kbit
}

// inTurns lets one pair after the other, who all know all, take the relay by which it gets
// most, or none, until nobody gains.
func (x *fluid) inTurns(rates [][]uint32) (kbit int64) {
	x.tcp = false
	for range 20 {
		moved := false
		for i, q := range x.pairs {
			x.flow()
			best, most := q.Current, x.rates[i]
			for r := range rates {
				p := Path{q.From, int32(r), q.To}
				if a, b := int(q.From), int(q.To); r == a {
					p = Path{q.From, q.To}
				} else if r == b || !onGrid(rates, a, r) || !onGrid(rates, r, b) {
					continue
				}
				x.take(i, p)
				if x.flow(); x.rates[i] > most+most/100 {
					best, most, moved = p, x.rates[i], true
				}
			}
			x.take(i, best)
		}
		if !moved {
			break
		}
	}
	return x.total()
}

// A pair of the grid that sends alone comes by 95 % at least of what its best relay gives, or
// its direct path if that is better, all such pairs together.
func TestGridLone(t *testing.T) {
	rates := throughputGrid(t)
	every := 397
	if os.Getenv("FARLAN_ROUTE") != "" {
		every = 11
	}
	var soon, ours, relay, direct int64
	var ratios, gains []float64
	n := 0
	for a := range rates {
		for b := range rates {
			if !onGrid(rates, a, b) {
				continue
			}
			if n++; n%every != 0 {
				continue
			}
			best := rates[a][b]
			for r := range rates {
				if onGrid(rates, a, r) && onGrid(rates, r, b) {
					best = max(best, min(rates[a][r], rates[r][b]))
				}
			}
			x := gridFluid(rates, []Pair{straight(a, b)}, uint64(n))
			soon += x.after(3)
			got := x.after(11)
			ours, relay, direct = ours+got, relay+int64(best), direct+int64(rates[a][b])
			ratios = append(ratios, float64(got)/float64(best))
			gains = append(gains, float64(got)/float64(rates[a][b]))
		}
	}
	slices.Sort(ratios)
	slices.Sort(gains)
	t.Logf("%d pairs one at a time: ours ÷ best of direct and one relay %.3f in all in the first minute, then %.3f, median %.3f, least %.3f; ÷ direct %.3f in all, median %.3f",
		len(ratios), float64(soon)/float64(relay), float64(ours)/float64(relay), ratios[len(ratios)/2], ratios[0], float64(ours)/float64(direct), gains[len(gains)/2])
	if 100*ours < 95*relay {
		t.Error("below 95 % of the best relay")
	}
}

// When all regions send at once, each to another one, they get together what they do if
// they take relays in turns and each knows all; by the relay that is best for each alone all
// would get less.
func TestGridTogether(t *testing.T) {
	rates := throughputGrid(t)
	runs, most := uint64(1), 24
	if os.Getenv("FARLAN_ROUTE") != "" {
		runs, most = 10, len(rates)
	}
	for seed := range runs {
		r := rand.New(rand.NewPCG(seed, 9))
		var pairs []Pair
		for a, b := range r.Perm(len(rates)) {
			if onGrid(rates, a, b) && len(pairs) < most {
				pairs = append(pairs, straight(a, b))
			}
		}
		fresh := func() *fluid { return gridFluid(rates, slices.Clone(pairs), seed) }
		direct, turns, ours := fresh().total(), fresh().inTurns(rates), fresh().after(15)
		alone := fresh()
		for i, q := range pairs {
			one := gridFluid(rates, []Pair{q}, seed)
			one.inTurns(rates)
			alone.take(i, one.pairs[0].Current)
		}
		herd := alone.total()
		t.Logf("seed %d, %d pairs at once: ours ÷ relays taken in turns %.3f, ÷ each its best relay alone %.3f, ÷ direct %.3f",
			seed, len(pairs), float64(ours)/float64(turns), float64(ours)/float64(herd), float64(ours)/float64(direct))
		if 100*ours < 95*turns || ours < herd {
			t.Error("below 95 % of relays taken in turns, or of what a herd gets")
		}
	}
}
