package predict

import (
	"math"
	"math/rand/v2"
)

const (
	dims      = 5        // of the space, beside the height
	params    = dims + 1 // of a point
	minHeight = 0.01     // ms
	// cauchy is the residual, as a factor's logarithm, at which a claim counts half.
	cauchy = 0.4
)

// A point is where a slot is: coordinates, and its height above them, which is the
// way from the agent to the core of the Internet. Milliseconds.
type point [params]float64

// A spring is a claim as a space sees it: how far, by its logarithm, the point
// should be from another, and how much that counts.
type spring struct {
	to          int
	log, weight float64
}

// A space is one of Vivaldi's (Dabek et al., SIGCOMM 2004: coordinates and a
// height), but fitted by Gauss-Newton steps of one point at a time on all that its
// slot claims, in the logarithm of times, with Cauchy's loss.
type space struct {
	points []point
	damp   []float64 // Levenberg's, of each point
}

func newSpace(slots int) *space {
	return &space{points: make([]point, slots), damp: make([]float64, slots)}
}

// place puts a point at random, as far from the middle as its times are long.
func (s *space) place(slot int, scale float64, r *rand.Rand) {
	for d := range dims {
		s.points[slot][d] = scale / 3 * r.NormFloat64()
	}
	s.points[slot][dims] = max(scale/30, minHeight)
	s.damp[slot] = 0.3
}

// distance returns the distance of two points without and with their heights.
func distance(a, b *point) (flat, full float64) {
	var sum float64
	for d := range dims {
		t := a[d] - b[d]
		sum += t * t
	}
	flat = math.Sqrt(sum)
	return flat, flat + a[dims] + b[dims]
}

// log returns the logarithm of the time between two slots.
func (s *space) log(i, j int) float64 {
	_, full := distance(&s.points[i], &s.points[j])
	return math.Log(full)
}

// fit moves a point by a share of a step and returns how far, in milliseconds.
func (s *space) fit(slot int, springs []spring, rate float64) float64 {
	old := s.points[slot]
	eq, was := s.equations(&old, springs)
	var trace float64
	for d := range params {
		trace += eq.a[d][d]
	}
	for range 3 {
		m := eq
		for d := range params {
			m.a[d][d] += s.damp[slot]*trace/params + 1e-12
		}
		p := old
		for d, step := range m.solve(params) {
			p[d] += rate * step
		}
		p[dims] = max(p[dims], minHeight)
		if s.cost(&p, springs) <= was { // false if it is not a number
			s.points[slot] = p
			s.damp[slot] = max(s.damp[slot]/3, 0.01)
			moved, _ := distance(&p, &old)
			return moved + math.Abs(p[dims]-old[dims])
		}
		s.damp[slot] *= 5
	}
	s.damp[slot] = min(s.damp[slot], 10)
	return 0
}

// again tries whether a point would be better off elsewhere, about as far from one
// of the others as it should be, and leaves it there if so: single steps end in the
// next hollow.
func (s *space) again(slot int, springs []spring, r *rand.Rand) {
	if len(springs) == 0 {
		return
	}
	old, damp := s.points[slot], s.damp[slot]
	beside := springs[r.IntN(len(springs))]
	s.points[slot] = s.points[beside.to]
	for d := range dims {
		s.points[slot][d] += math.Exp(beside.log) / 2 * r.NormFloat64()
	}
	s.damp[slot] = 0.3
	for range 6 {
		s.fit(slot, springs, 1)
	}
	if !(s.cost(&s.points[slot], springs) < s.cost(&old, springs)) {
		s.points[slot], s.damp[slot] = old, damp
	}
}

// cost returns how badly a point at p would meet the springs.
func (s *space) cost(p *point, springs []spring) float64 {
	var sum float64
	for k := range springs {
		_, full := distance(p, &s.points[springs[k].to])
		r := (math.Log(full) - springs[k].log) / cauchy
		sum += springs[k].weight * math.Log(1+r*r)
	}
	return sum
}

// equations returns the normal equations of a point's step, and its cost.
func (s *space) equations(p *point, springs []spring) (eq system, cost float64) {
	for k := range springs {
		q := &s.points[springs[k].to]
		flat, full := distance(p, q)
		r := springs[k].log - math.Log(full)
		c := r * r / (cauchy * cauchy)
		cost += springs[k].weight * math.Log(1+c)
		var g [maxParams]float64
		f := 1 / (max(flat, 1e-3) * full)
		for d := range dims {
			g[d] = (p[d] - q[d]) * f
		}
		g[dims] = 1 / full
		eq.add(&g, r, springs[k].weight/(1+c), params)
	}
	return eq, cost
}
