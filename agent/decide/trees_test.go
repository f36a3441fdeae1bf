package decide

import (
	"fmt"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay/route"
)

// Trees are made of links that both ends keep; what changes all the time doesn't change
// them, and what both ends tell differently is the same in both directions.
func TestTreesAreOfKeptLinks(t *testing.T) {
	const ms = time.Millisecond
	told := func(change func(a, b *discovery.Row)) []Told {
		a, b := row(1, 10*ms, holding), row(0, 11*ms, accepting)
		change(&a, &b)
		return []Told{{ID: agentID(0), At: start, Links: discovery.Links{Rows: []discovery.Row{a}}}, {ID: agentID(1), At: start, Links: discovery.Links{Rows: []discovery.Row{b}}}}
	}
	first := told(func(_, _ *discovery.Row) {})
	is, hash := Trees(first).Hash(), TreesHash(first)
	for _, c := range []struct {
		name   string
		change func(a, b *discovery.Row)
		same   bool
	}{
		{"nothing", func(_, _ *discovery.Row) {}, true},
		{"a little more delay", func(a, _ *discovery.Row) { a.RTT = 15 * ms }, true},
		{"queues, losses and rates", func(a, b *discovery.Row) {
			a.Queue, b.LossKnown, b.LossLow, a.Left, b.Capacity = 90*ms, true, 0.2, 1e6, 1e9
			b.CapacitySource = measure.Train
		}, true},
		{"told the other way round", func(a, b *discovery.Row) { a.RTT, b.RTT = b.RTT, a.RTT }, true},
		{"twice the delay", func(_, b *discovery.Row) { b.RTT = 22 * ms }, false},
		{"an operator's wish", func(a, _ *discovery.Row) { a.Cost = 5 * ms }, false},
		{"given up by one", func(a, _ *discovery.Row) { a.Intent = discovery.Intent{} }, false},
		{"by others", func(a, _ *discovery.Row) { a.Relayed = true }, false},
		{"forbidden", func(_, b *discovery.Row) { b.Forbid = true }, false},
	} {
		next := told(c.change)
		if got, short := Trees(next).Hash(), TreesHash(next); (got == is) != c.same || (short == hash) != c.same {
			t.Errorf("%s: the same trees: %v, the same short hash: %v", c.name, got == is, short == hash)
		}
	}
	for rtt, want := range map[time.Duration]uint32{0: 4000, 4 * ms: 4000, 4*ms + 1: 8000, 100 * ms: 128_000, 1 << 62: 65_536_000} {
		if got := coarse(rtt); got != want {
			t.Errorf("%v becomes %d µs, want %d", rtt, got, want)
		}
	}
}

// What an agent spends when it finds its place in all trees anew.
func BenchmarkTrees(b *testing.B) {
	for _, n := range []int{20, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			told, _ := ringWorld(n, 6)
			for i := range told {
				for k := range told[i].Rows {
					told[i].Rows[k].Holds = true
				}
			}
			var f route.Finder
			var all route.Branches
			links := 0
			for b.Loop() {
				g := Trees(told)
				g.Hash()
				f.Branches(g, 0, &all)
				links = len(all.Children(nil, 0))
			}
			if links == 0 {
				b.Fatal("no links")
			}
		})
	}
}
