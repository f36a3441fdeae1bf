package predict

import (
	"math"
	"math/rand/v2"
	"slices"

	"farlan/overlay"
)

const (
	rank      = 3
	rateTerms = rank + 1
	maxRate   = 1e14 // bit/s
	// doubtful is the residual, as a factor's logarithm, at which a claim counts half.
	doubtful = 0.3
	// firstRows is how many rows tell the mean.
	firstRows = 32
	// ridgeFactor and ridgeBias hold factors and biases near zero, in claims.
	ridgeFactor, ridgeBias = 0.3, 0.1
)

// terms are a slot's factors and, last, its bias.
type terms [maxParams]float64

// A product is one fit of log rate = μ + a_i + b_j + u_i·v_j.
type product struct {
	send, receive []terms
}

// Rates completes the rates of all directed pairs from the measured ones, by the
// model log rate = μ + a_i + b_j + u_i·v_j of rank 3, fitted by alternating least
// squares with Cauchy's loss and a ridge. A lower bound counts only while the model
// is below it. What a slot sends is fitted to its own claims, what it receives to all
// claims of it, which is why one who lies of it counts little.
type Rates struct {
	claims   claims
	senders  [][]int // who claims rates to a slot, rising
	agenda   agenda
	products [models]*product
	spread   []float64 // typical residual of a slot's own claims
	received []float64 // and of others' claims of what it receives
	mean     float64   // μ, of the first rows
	rows     int       // that mean is of
	stretch  stretch
	seed     uint64
}

// NewRates returns an empty model of so many slots, 0 to slots−1.
func NewRates(slots int, seed uint64) *Rates {
	r := &Rates{
		claims: make(claims, slots), senders: make([][]int, slots), agenda: newAgenda(slots),
		spread: make([]float64, slots), received: make([]float64, slots), stretch: 1.5, seed: seed,
	}
	for m := range r.products {
		r.products[m] = &product{make([]terms, slots), make([]terms, slots)}
	}
	for slot := range slots {
		r.place(slot)
	}
	return r
}

// place gives a slot small random factors.
func (r *Rates) place(slot int) {
	random := rand.New(rand.NewPCG(r.seed, uint64(slot)))
	for _, p := range r.products {
		for d := range rank {
			p.send[slot][d], p.receive[slot][d] = 0.3*random.NormFloat64(), 0.3*random.NormFloat64()
		}
		p.send[slot][rank], p.receive[slot][rank] = 0, 0
	}
}

// Feed tells at which rate in bit/s the agent in a slot claims to reach another, or
// that it is at least so much. It replaces the claim before. A slot has 64 claims at
// most: a further one replaces its oldest; those not repeated for half an hour are
// dropped. Feed refuses, by false, slots that don't exist, a slot's pair with itself,
// and rates not above 0 or above 10¹⁴.
func (r *Rates) Feed(from, to int, rate int64, bound bool, now overlay.Instant) bool {
	if !valid(from, to, len(r.claims)) || rate <= 0 || rate > maxRate {
		return false
	}
	x := claim{to: to, log: math.Log(float64(rate)), at: now, bound: bound}
	change := r.claims.put(from, x)
	r.agenda.changed(from, change)
	r.agenda.changed(to, change)
	if k, ok := slices.BinarySearch(r.senders[to], from); !ok {
		r.senders[to] = slices.Insert(r.senders[to], k, from)
	}
	return true
}

// Forget drops a slot's claim of a pair.
func (r *Rates) Forget(from, to int) {
	if valid(from, to, len(r.claims)) && r.claims.drop(from, to) {
		r.unlist(from, to)
		r.agenda.changed(from, 0.1)
		r.agenda.changed(to, 0.1)
	}
}

// unlist forgets that a slot claims rates to another.
func (r *Rates) unlist(from, to int) {
	if k, ok := slices.BinarySearch(r.senders[to], from); ok {
		r.senders[to] = slices.Delete(r.senders[to], k, k+1)
	}
}

// Reset empties a slot for another agent: its claims, others' claims of it and its
// terms are gone, and nothing is predicted of it until it has claims again.
func (r *Rates) Reset(slot int) {
	r.claims.reset(slot)
	r.agenda.reset(slot)
	for to := range r.senders {
		r.unlist(slot, to)
	}
	r.senders[slot], r.spread[slot], r.received[slot] = nil, 0, 0
	r.place(slot)
}

// Improve fits at most so many slots, in turn those whose surroundings changed,
// and returns how many: 0 when all is settled.
func (r *Rates) Improve(now overlay.Instant, slots int) int {
	return r.agenda.improve(now, slots, r.claims, r.fit)
}

// Predict returns the rate from a slot to another in bit/s, and the share of it
// within which the truth should be in two cases of three: from rate/(1+within) to
// rate·(1+within). It is false when too little is known of one of the two.
func (r *Rates) Predict(from, to int) (rate int64, within float64, ok bool) {
	if !valid(from, to, len(r.claims)) || len(r.claims[from]) < minClaims || len(r.senders[to]) < minClaims || r.agenda.age[from] == 0 {
		return 0, 0, false
	}
	log, differ := r.model(from, to)
	return int64(min(math.Exp(log), maxRate)), r.stretch.within(r.doubt(from, to, differ)), true
}

// Clone returns a copy that goes on its own.
func (r *Rates) Clone() *Rates {
	c := *r
	c.claims, c.agenda, c.senders = r.claims.clone(), r.agenda.clone(), cloneRows(r.senders)
	for m, p := range r.products {
		c.products[m] = &product{slices.Clone(p.send), slices.Clone(p.receive)}
	}
	c.spread, c.received = slices.Clone(r.spread), slices.Clone(r.received)
	return &c
}

// model returns the logarithm of a pair's rate, and how far the products differ.
func (r *Rates) model(i, j int) (log, differ float64) {
	var sum, squares float64
	for _, p := range r.products {
		x := p.log(i, j)
		sum += x
		squares += x * x
	}
	log = sum / models
	return r.mean + log, math.Sqrt(max(squares/models-log*log, 0))
}

// log returns the logarithm of a pair's rate less the mean of all.
func (p *product) log(i, j int) float64 {
	u, v := &p.send[i], &p.receive[j]
	sum := u[rank] + v[rank]
	for d := range rank {
		sum += u[d] * v[d]
	}
	return sum
}

// doubt is a pair's error but for a factor that is the same for all pairs.
func (r *Rates) doubt(i, j int, differ float64) float64 {
	const least = 0.02
	return math.Sqrt(least*least + r.spread[i]*r.spread[i] + r.received[j]*r.received[j] + differ*differ)
}
