package mesh

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// What an agent pays in an epoch of 10 s: for the view, for a turn with all of its nominees
// measured, for nominating; and for all of that, with three turns in ten epochs.
func BenchmarkEpoch(b *testing.B) {
	for _, n := range []int{100, 490, 1000} {
		f, told := sized(b, n)
		b.Run(fmt.Sprintf("agents=%d/view", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				mustView(b, f)
			}
		})
		v := mustView(b, f)
		b.Run(fmt.Sprintf("agents=%d/turn", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				turn(v, i, told)
				i = (i + 1) % n
			}
		})
		b.Run(fmt.Sprintf("agents=%d/nominees", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				v.Nominees(i, 1, told[i], nil)
				i = (i + 1) % n
			}
		})
		b.Run(fmt.Sprintf("agents=%d/all", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				v := mustView(b, f)
				if i%10 < 3 {
					turn(v, i%n, told)
				}
				i++
			}
			b.ReportMetric(100*b.Elapsed().Seconds()/float64(b.N)/10, "%core")
		})
	}
}

// turn lets an agent that holds its links for long nominate, and look for an exchange.
func turn(v *View, i int, told [][]int32) {
	c := New(v.agents[i].ID)
	c.Step(0, v, Local{})
	for j := range c.held {
		c.held[j].Since = -dwell
	}
	var l Local
	for _, j := range v.Nominees(i, 1, told[i], nil) {
		l.Candidates = append(l.Candidates, Candidate{j, told[i][j]})
	}
	c.habits.turns = turnsOf
	c.Step(1, v, l)
}

// sized returns a network of n agents, those beyond 490 in the places of others, each with
// a link of the ring and two with the nearest of eight; and what costs are predicted.
func sized(b *testing.B, n int) (f Facts, told [][]int32) {
	rtt := planetLab(b, min(n, 490))
	r := rand.New(rand.NewPCG(uint64(n), 1))
	f = Facts{Agents: agents(n)}
	cost := func(i, j int) int32 { return hopCost + int32(rtt[i%len(rtt)][j%len(rtt)]) }
	ring := mustView(b, f).ring
	add := func(i, j int) { f.Links = append(f.Links, Link{A: i, B: j, Cost: cost(i, j), By: [2]Hold{Holds}}) }
	for p, i := range ring {
		add(i, ring[(p+1)%n])
		for range 2 {
			best := (i + 1) % n
			for range 8 {
				if j := r.IntN(n); j != i && cost(i, j) < cost(i, best) {
					best = j
				}
			}
			add(i, best)
		}
		told = append(told, make([]int32, n))
	}
	for i := range told {
		for j := range told[i] {
			told[i][j] = cost(i, j)
		}
	}
	return f, told
}
