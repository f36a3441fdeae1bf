package decide

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
)

// A region is agents in areas: each is linked with those of its area that follow it on a ring
// or in a cloud, by links whose cost changes in each epoch, and some hear late of what changed.
type region struct {
	sizes Sizes
	draw  *rand.Rand
	noise float64 // how much more or less a link costs in an epoch, at most
	at    [][2]float64
	area  []uint32
	came  []int // the epoch in which an agent came to its area, -1: it was there
	abode []Abode
	moves []int
	epoch int
	past  map[uint32]*Picture // what those see that are late
}

// movingEpochs is for how long who moved stays where it came to.
const movingEpochs = 18

func newRegion(seed uint64, count int, noise float64, ring bool) *region {
	r := &region{
		sizes: Sizes{Whole: 40, Most: 20, Least: 5, Join: 25}, draw: rand.New(rand.NewPCG(seed, 1)), noise: noise,
		area: make([]uint32, count), came: make([]int, count), abode: make([]Abode, count), moves: make([]int, count),
	}
	for i := range count {
		x, y := 50*r.draw.Float64(), 50*r.draw.Float64()
		if ring { // on the border of a square, at equal distances: nobody is a better pole
			side, off := 4*i/count, 50*float64(4*i%count)/float64(count)
			corner := [4][2]float64{{off, 0}, {50, off}, {50 - off, 50}, {0, 50 - off}}[side]
			x, y = corner[0], corner[1]
		}
		r.at, r.came[i] = append(r.at, [2]float64{x, y}), -1
	}
	return r
}

// cost is what a link costs in this epoch.
func (r *region) cost(i, j int) time.Duration {
	dx, dy := r.at[i][0]-r.at[j][0], r.at[i][1]-r.at[j][1]
	d := max(dx, -dx) + max(dy, -dy) + 1
	return time.Duration(d * (1 + r.noise*(2*r.draw.Float64()-1)) * float64(time.Millisecond))
}

// picture draws what the members of an area see of it: each has links with the next two.
func (r *region) picture(t *testing.T, who []int) *Picture {
	told := make([]Told, len(who))
	for k, i := range who {
		told[k] = Told{ID: agentID(i), At: start}
	}
	seen := make(map[[2]int]bool)
	for k := range who {
		for _, off := range [2]int{1, 2} {
			l := (k + off) % len(who)
			a, b := min(k, l), max(k, l)
			if a == b || seen[[2]int{a, b}] {
				continue
			}
			seen[[2]int{a, b}] = true
			c := r.cost(who[a], who[b])
			told[a].Rows = append(told[a].Rows, row(who[b], c, holding))
			told[b].Rows = append(told[b].Rows, row(who[a], c, accepting))
		}
	}
	for k := range told {
		sortRows(told[k].Rows)
	}
	return draw(t, told)
}

func sortRows(rows []discovery.Row) {
	slices.SortFunc(rows, func(a, b discovery.Row) int { return cmp.Compare(a.Peer, b.Peer) })
}

// members returns who is in which area.
func (r *region) members() map[uint32][]int {
	all := make(map[uint32][]int)
	for i, area := range r.area {
		all[area] = append(all[area], i)
	}
	return all
}

// gates returns what the gateways of areas tell: the first two of each, linked with the first
// ones of the others.
func (r *region) gates(members map[uint32][]int) (all []Gate) {
	for i, area := range r.area {
		who := members[area]
		if area == 0 || !slices.Contains(who[:min(2, len(who))], i) {
			continue
		}
		g := gate(i, area, nil, slices.DeleteFunc(slices.Clone(who), func(j int) bool { return j == i })...)
		for _, other := range members {
			if j := other[0]; j != i && r.area[j] != area && r.area[j] != 0 {
				g.Rows = append(g.Rows, row(j, r.cost(i, j), holding))
			}
		}
		sortRows(g.Rows)
		all = append(all, g)
	}
	return all
}

// step lets an epoch pass.
func (r *region) step(t *testing.T) {
	members := r.members()
	beyond, now := NewBeyond(r.gates(members)), make(map[uint32]*Picture)
	next := make([]uint32, len(r.area))
	for i, area := range r.area {
		if now[area] == nil {
			now[area] = r.picture(t, members[area])
		}
		p := now[area]
		if old := r.past[area]; old != nil && old.View.Index(agentID(i)) >= 0 && r.draw.IntN(5) == 0 {
			p = old
		}
		next[i] = r.abode[i].Step(r.sizes, Situation{
			Self: agentID(i), Area: area, Moving: r.came[i] >= 0 && r.epoch-r.came[i] < movingEpochs, Picture: p, Beyond: beyond,
			Predict: func(id overlay.AgentID) int32 { return int32(r.cost(i, index(id)) / time.Microsecond) },
			Gone: func(to uint32) bool { // what those tell that were here
				for j := range r.area {
					if r.area[j] == to && r.came[j] >= 0 && r.epoch-r.came[j] < movingEpochs {
						return true
					}
				}
				return false
			},
		})
	}
	r.past = now
	for i, area := range next {
		if area != r.area[i] {
			r.area[i], r.came[i] = area, r.epoch
			r.moves[i]++
		}
	}
	r.epoch++
}

// Whatever links cost from one epoch to the next, a network that grew is divided soon, by few
// moves, and then rests, with areas of sizes that they may have.
func TestDivisionEnds(t *testing.T) {
	const epochs, soon, mostMoves = 120, 10, 4
	seeds := uint64(10)
	if os.Getenv("FARLAN_LONG") != "" {
		seeds = 40
	}
	for seed := range seeds {
		for _, noise := range []float64{0, 0.1, 0.5} {
			for _, ring := range []bool{true, false} {
				name := fmt.Sprintf("seed %d, noise %.1f, ring %v", seed, noise, ring)
				r := newRegion(seed, 41+int(seed*39/seeds), noise, ring)
				left, last := -1, 0
				for range epochs {
					before := fmt.Sprint(r.area)
					if r.step(t); fmt.Sprint(r.area) != before {
						last = r.epoch
					}
					if left < 0 && len(r.members()[0]) == 0 {
						left = r.epoch
					}
				}
				all, sum := r.members(), 0
				for i, n := range r.moves {
					if sum += n; n > mostMoves {
						t.Errorf("%s: agent %d moves %d times", name, i, n)
					}
				}
				if left < 0 || left > soon || last > epochs/2 {
					t.Errorf("%s: divided after %d epochs, the last move after %d, %d moves, %d areas", name, left, last, sum, len(all))
				}
				for area, who := range all {
					if area == 0 || len(who) > r.sizes.Most || len(who) < r.sizes.Least {
						t.Errorf("%s: area %x has %d members", name, area, len(who))
					}
				}
			}
		}
	}
}
