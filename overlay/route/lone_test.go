package route

import (
	"fmt"
	"slices"
	"testing"
)

// A lone pair is the only one that sends, for five minutes by TCP, from 0 to 1: there are
// a direct path and relays of so many Mbit/s. What others tell is up to ten seconds old
// and off by 5 % of what their links can carry.
type lone struct {
	name   string
	agents int
	direct uint32
	relays []uint32
	want   []int32 // the relays that it may be on in the end; 1: the direct path
}

var loners = []lone{
	{"among three", 3, 10, []uint32{80}, []int32{2}},
	{"among eight", 8, 10, []uint32{80}, []int32{2}},
	{"among a hundred", 100, 10, []uint32{80}, []int32{2}},
	{"two relays alike", 30, 10, []uint32{80, 80}, []int32{2, 3}},
	{"a relay a little better", 30, 10, []uint32{80, 86, 74}, []int32{2, 3, 4}},
	{"a relay as good as the direct path", 30, 80, []uint32{80, 84}, []int32{1}},
	{"a relay that is worse", 30, 80, []uint32{40}, []int32{1}},
}

func (l lone) fluid(seed uint64, choose chooser) *fluid {
	x := &fluid{world: newWorld(l.agents), wants: 1_000_000, tcp: true, every: 10, noise: 0.05, choose: choose}
	for i := range x.world.nodes {
		x.world.nodes[i].UpKbit, x.world.nodes[i].DownKbit = 1_000_000, 1_000_000
		x.world.nodes[i].ID[30], x.world.nodes[i].ID[31] = byte(seed>>8), byte(seed)
	}
	x.world.link(0, 1, 60_000, l.direct*1000)
	for i, mbit := range l.relays {
		x.world.link(0, 2+i, 30_000, mbit*1000).link(2+i, 1, 30_000, mbit*1000)
	}
	for i := range x.world.links {
		k := &x.world.links[i]
		k.From, k.To = x.world.nodes[index(k.From)].ID, x.world.nodes[index(k.To)].ID
	}
	x.pairs = []Pair{{From: 0, To: 1, Current: Path{0, 1}}}
	return x.start(seed)
}

// check lets a pair send, and says what is wrong with where, or nothing.
func (l lone) check(seed uint64, choose chooser) error {
	x := l.fluid(seed, choose)
	var moves []int // epochs
	for e := range 60 {
		if moved, _ := x.epoch(); len(moved) > 0 {
			moves = append(moves, e)
		}
	}
	relay := x.pairs[0].Current[1]
	switch {
	case !slices.Contains(l.want, relay):
		return fmt.Errorf("it ends on %v, after moves in epochs %v", x.pairs[0].Current, moves)
	case relay == 1 && len(moves) > 0 || relay > 1 && (len(moves) > 1 || moves[0] > 2):
		return fmt.Errorf("it moves in epochs %v", moves)
	}
	return nil
}

// A lone pair is on a much better path within 15 seconds, of which TCP takes five to fill
// the one that it has, and stays there; else it stays where it is.
func TestLonePairMovesOnce(t *testing.T) {
	for _, l := range loners {
		t.Run(l.name, func(t *testing.T) {
			for seed := range 10 * seeds() {
				if err := l.check(seed, choose); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

// When the facts tell that its path is full it moves at once, whatever lot it draws.
func TestLonePairMovesAtOnce(t *testing.T) {
	for _, l := range loners[:5] {
		x := l.fluid(0, func(f *Finder, g *Graph, q Pair) Path { q.Lot = 1<<32 - 1; return choose(f, g, q) })
		x.tcp, x.every = false, 0
		if moved, _ := x.epoch(); len(moved) == 0 || len(x.pairs[0].Current) != 3 {
			t.Errorf("%s: on %v", l.name, x.pairs[0].Current)
		}
	}
}

// Without hysteresis, or if it doesn't give back its own load, a lone pair goes to and
// fro, with nine of ten seeds at least.
func TestLonePairNeedsTheRule(t *testing.T) {
	for mutant, where := range map[string]int{"no hysteresis": 3, "own load not given back": 0} {
		caught, why := uint64(0), error(nil)
		for seed := range 10 * seeds() {
			if err := loners[where].check(seed, mutants[mutant]); err != nil {
				caught, why = caught+1, err
			}
		}
		t.Logf("%s, %s: caught with %d of %d seeds: %v", mutant, loners[where].name, caught, 10*seeds(), why)
		if caught < 9*seeds() {
			t.Errorf("%s is caught with %d seeds only", mutant, caught)
		}
	}
}
