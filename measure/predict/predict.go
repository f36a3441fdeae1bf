// Package predict tells the round trips and rates of pairs of agents that nobody
// measured, from the pairs that somebody did. It is pure: times are arguments, and
// what is random comes from a seed, so that equal calls give equal answers.
//
// An agent holds all members' measured rows, each some 16 to 32 entries long. It
// gives every member a slot, a small number, feeds the rows by Feed, lets Improve
// do a bounded bit of work every second, and asks Predict:
//
//	times := predict.NewLatency(256, seed)
//	times.Feed(a, b, rtt, now)                 // for all entries of all rows; again when they change
//	times.Improve(now, 64)                     // once a second: fits at most 64 slots, none if nothing stirs
//	rtt, within, ok := times.Predict(a, c)     // two of three truths: from rtt/(1+within) to rtt·(1+within)
//	times.Reset(a)                             // the member left: the slot is free for another
//
// Who lies about others: a slot's place is fitted to what the slot claims itself,
// so that a claim of one end moves nothing of the other. Where both ends claim a
// pair and disagree, both claims count little. Slots whose own claims fit no place
// count little for those who measure them, and losses are Cauchy's throughout.
//
// No type of this package is safe for concurrent use. Clone makes a copy, for one who
// asks for many pairs meanwhile.
package predict

import (
	"math"
	"slices"

	"farlan/overlay"
)

const (
	// models are the independent fits whose answers are averaged.
	models = 3
	// minClaims is how many pairs of its own a slot needs to be predicted.
	minClaims = 4
	// trusted is the typical residual of a slot's own claims, as a factor's
	// logarithm, at which the slot counts half for others.
	trusted = 0.5
	// settled is the stir below which a slot isn't fitted again.
	settled = 0.002
)

// valid says whether two different slots are meant.
func valid(from, to, slots int) bool {
	return from >= 0 && to >= 0 && from < slots && to < slots && from != to
}

// An agenda says which slots are worth fitting. Slots are taken in turn, so that
// none is starved.
type agenda struct {
	stir []float64 // how much has changed for a slot since it was fitted
	age  []int     // fits since its claims changed
	turn int       // the slot fitted last
	old  int       // the slot looked at last for claims that are too old
}

func newAgenda(slots int) agenda {
	return agenda{stir: make([]float64, slots), age: make([]int, slots)}
}

// clone returns a copy.
func (a *agenda) clone() agenda {
	c := *a
	c.stir, c.age = slices.Clone(a.stir), slices.Clone(a.age)
	return c
}

// cloneRows copies rows, into one piece of memory.
func cloneRows[T any](rows [][]T) [][]T {
	n := 0
	for _, row := range rows {
		n += len(row)
	}
	all, out := make([]T, 0, n), make([][]T, len(rows))
	for i, row := range rows {
		all = append(all, row...)
		out[i] = all[len(all)-len(row) : len(all) : len(all)]
	}
	return out
}

// changed says that a claim of a slot is another than before.
func (a *agenda) changed(slot int, change float64) {
	change = min(change, 1)
	a.stir[slot] += change
	a.age[slot] -= int(change * float64(a.age[slot]))
}

// next returns the next slot that is worth fitting; it looks at each once.
func (a *agenda) next() (slot int, ok bool) {
	for range a.stir {
		a.turn = (a.turn + 1) % len(a.stir)
		if a.stir[a.turn] > settled {
			return a.turn, true
		}
	}
	return 0, false
}

// fitted says how far a slot moved, as a share of its times or rates, and stirs
// those that it claims pairs with.
func (a *agenda) fitted(slot int, moved float64, c claims) {
	a.age[slot]++
	a.stir[slot] = moved / 2
	for _, x := range c[slot] {
		if n := len(c[x.to]); n > 0 {
			a.stir[x.to] += moved / float64(n)
		}
	}
}

// rate is how much of a step a slot takes: the fits of all slots have no common
// potential, so that whole steps may go round in circles.
func (a *agenda) rate(slot int) float64 { return 1 / (1 + float64(a.age[slot])/40) }

func (a *agenda) reset(slot int) { a.stir[slot], a.age[slot] = 0, 0 }

// improve fits at most so many slots that are worth it and returns how many. Each
// call also looks for claims that are too old in one slot's row.
func (a *agenda) improve(now overlay.Instant, slots int, c claims, fit func(slot int)) int {
	if len(c) == 0 {
		return 0
	}
	a.old = (a.old + 1) % len(c)
	if c.expire(a.old, now) {
		a.changed(a.old, 0.1)
	}
	for done := range slots {
		slot, ok := a.next()
		if !ok {
			return done
		}
		a.stir[slot] = 0
		fit(slot)
	}
	return max(slots, 0)
}

// unseen says whether a model must not learn from a pair: each model leaves out one
// pair in 24, and its error there is an honest one.
func unseen(i, j, model int) bool {
	if i > j {
		i, j = j, i
	}
	return mix(uint64(i)<<32|uint64(j))%24 == uint64(model)
}

// mix spreads the bits of a number: the finaliser of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// A stretch is the factor from a pair's doubt to the error that two of three pairs
// stay within, learnt from the pairs that models haven't seen.
type stretch float64

func (s *stretch) learn(residual, doubt float64) {
	const step = 0.003 // twice as far up as down: in balance when one in three is outside
	if residual > float64(*s)*doubt {
		*s *= 1 + 2*step
	} else {
		*s *= 1 - step
	}
	*s = min(max(*s, 0.1), 10)
}

// within returns the error as a share of the value.
func (s stretch) within(doubt float64) float64 { return math.Expm1(float64(s) * doubt) }

// maxParams is the size of the largest system of equations.
const maxParams = 6

// A system is a set of weighted normal equations, of which the upper half is kept.
type system struct {
	a [maxParams][maxParams]float64
	b [maxParams]float64
}

// add adds the equation g·x = r for the first n unknowns.
func (s *system) add(g *[maxParams]float64, r, weight float64, n int) {
	for i := range n {
		w := weight * g[i]
		for j := i; j < n; j++ {
			s.a[i][j] += w * g[j]
		}
		s.b[i] += w * r
	}
}

// solve returns x, by elimination without a pivot: the matrix must be positive.
func (s system) solve(n int) [maxParams]float64 {
	a, b := &s.a, &s.b
	for i := range n {
		for r := i + 1; r < n; r++ {
			f := a[i][r] / a[i][i]
			for c := r; c < n; c++ {
				a[r][c] -= f * a[i][c]
			}
			b[r] -= f * b[i]
		}
	}
	for i := n - 1; i >= 0; i-- {
		for c := i + 1; c < n; c++ {
			b[i] -= a[i][c] * b[c]
		}
		b[i] /= a[i][i]
	}
	return *b
}
