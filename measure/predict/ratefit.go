package predict

import (
	"math"
	"slices"
)

// fit sets what a slot sends by its own claims, and what it receives by others'.
func (r *Rates) fit(slot int) {
	row := r.claims[slot]
	r.first(row)
	r.senders[slot] = slices.DeleteFunc(r.senders[slot], func(from int) bool {
		_, ok := r.claims.find(from, slot)
		return !ok
	})
	rate := r.agenda.rate(slot)
	var moved, residual, received float64
	n, k := 0, 0
	for m, p := range r.products {
		var eq system
		for _, x := range row {
			d := p.log(slot, x.to) + r.mean - x.log
			if unseen(slot, x.to, m) {
				if !x.bound {
					_, differ := r.model(slot, x.to)
					r.stretch.learn(math.Abs(d), r.doubt(slot, x.to, differ))
				}
				continue
			}
			eq.claim(&p.receive[x.to], x.log-r.mean, d, x.bound, 1)
			residual += min(math.Abs(d), 2)
			n++
		}
		moved += eq.finish(&p.send[slot], rate)
		eq = system{}
		for _, from := range r.senders[slot] {
			c, ok := r.claims.find(from, slot)
			if !ok || unseen(from, slot, m) {
				continue
			}
			x := r.claims[from][c]
			d := p.log(from, slot) + r.mean - x.log
			t := r.spread[from] / trusted
			eq.claim(&p.send[from], x.log-r.mean, d, x.bound, 1/(1+t*t))
			received += min(math.Abs(d), 2)
			k++
		}
		moved += eq.finish(&p.receive[slot], rate)
	}
	r.spread[slot] += (residual/float64(max(n, 1)) - r.spread[slot]) / 4
	r.received[slot] += (received/float64(max(k, 1)) - r.received[slot]) / 4
	r.agenda.fitted(slot, moved/models, r.claims)
}

// first makes rows that come first count for the mean of all. What is wrong with it
// later, biases make up for.
func (r *Rates) first(row []claim) {
	if len(row) == 0 || r.rows == firstRows {
		return
	}
	var mean float64
	for _, x := range row {
		mean += x.log / float64(len(row))
	}
	r.rows++
	r.mean += (mean - r.mean) / float64(r.rows)
}

// claim adds a claim of a log rate to the equations of one end's terms, given the
// other end's; above is by how much the model is above it.
func (s *system) claim(other *terms, log, above float64, bound bool, weight float64) {
	if bound && above >= 0 {
		return
	}
	g := [maxParams]float64(*other)
	g[rank] = 1
	c := above / doubtful
	s.add(&g, log-other[rank], weight/(1+c*c), rateTerms)
}

// finish solves the equations for terms, moves them by a share of the way, and
// returns how far they moved.
func (s *system) finish(t *terms, rate float64) (moved float64) {
	for d := range rank {
		s.a[d][d] += ridgeFactor
	}
	s.a[rank][rank] += ridgeBias
	for d, x := range s.solve(rateTerms) {
		step := rate * (x - t[d])
		t[d] += step
		moved += math.Abs(step)
	}
	return moved
}
