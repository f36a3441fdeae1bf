package predict

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// maxTime is the longest round trip that a claim may tell.
	maxTime = time.Minute
	// young is how many fits long a slot tries other places now and then.
	young = 60
)

// Latency completes the round trips of all pairs from the measured ones: three
// spaces tell a first answer, and by how much that is wrong for measured pairs
// between the surroundings of the two ends corrects it.
type Latency struct {
	claims  claims
	agenda  agenda
	spaces  [models]*space
	placed  []bool
	spread  []float64 // typical residual of a slot's own claims, as a factor's logarithm
	near    [][]neighbour
	level   float64 // mean logarithm of the fitted claims, in ms
	stretch stretch
	random  *rand.PCG
	rand    *rand.Rand // of random
	springs []spring   // scratch
}

// NewLatency returns an empty model of so many slots, 0 to slots−1. The seed decides
// where slots are placed at first.
func NewLatency(slots int, seed uint64) *Latency {
	random := rand.NewPCG(seed, 0)
	l := &Latency{
		claims: make(claims, slots), agenda: newAgenda(slots), placed: make([]bool, slots),
		spread: make([]float64, slots), near: make([][]neighbour, slots),
		level: math.Log(100), stretch: 1.5, random: random, rand: rand.New(random),
	}
	for m := range l.spaces {
		l.spaces[m] = newSpace(slots)
	}
	return l
}

// Feed tells what the agent in a slot claims to have measured to another: the
// windowed minimum of its round trips, rather than one sample. It replaces the claim
// before. A slot has 64 claims at most: a further one replaces its oldest; those not
// repeated for half an hour are dropped. Feed refuses, by false, slots that don't
// exist, a slot's pair with itself, and times not above 0 or above a minute.
func (l *Latency) Feed(from, to int, rtt time.Duration, now overlay.Instant) bool {
	if !valid(from, to, len(l.claims)) || rtt <= 0 || rtt > maxTime {
		return false
	}
	log := math.Log(float64(rtt) / float64(time.Millisecond))
	l.agenda.changed(from, l.claims.put(from, claim{to: to, log: log, at: now}))
	return true
}

// Forget drops a slot's claim of a pair that it doesn't measure any more.
func (l *Latency) Forget(from, to int) {
	if valid(from, to, len(l.claims)) && l.claims.drop(from, to) {
		l.agenda.changed(from, 0.1)
	}
}

// Reset empties a slot for another agent: its claims, others' claims of it, and
// its place are gone, and nothing is predicted of it until it has claims again.
func (l *Latency) Reset(slot int) {
	l.claims.reset(slot)
	l.agenda.reset(slot)
	l.placed[slot], l.spread[slot], l.near[slot] = false, 0, nil
	for i := range l.near {
		l.near[i] = without(l.near[i], slot)
	}
}

// Improve fits at most so many slots, in turn those whose surroundings changed,
// and returns how many: 0 when all is settled.
func (l *Latency) Improve(now overlay.Instant, slots int) int {
	return l.agenda.improve(now, slots, l.claims, l.fit)
}

// Predict returns the round trip of a pair, and the share of it within which the
// truth should be in two cases of three: from rtt/(1+within) to rtt·(1+within). It is
// false when too little is known of one of the two. Of a measured pair it tells about
// what was measured.
func (l *Latency) Predict(i, j int) (rtt time.Duration, within float64, ok bool) {
	if !valid(i, j, len(l.claims)) || !l.known(i) || !l.known(j) {
		return 0, 0, false
	}
	log, differ := l.model(i, j)
	log += l.correction(i, j)
	const longest = float64(maxTime / time.Millisecond)
	rtt = time.Duration(min(math.Exp(log), longest) * float64(time.Millisecond))
	return rtt, l.stretch.within(l.doubt(i, j, differ)), true
}

// Clone returns a copy that goes on its own.
func (l *Latency) Clone() *Latency {
	c := *l
	c.claims, c.agenda = l.claims.clone(), l.agenda.clone()
	for m, s := range l.spaces {
		c.spaces[m] = &space{slices.Clone(s.points), slices.Clone(s.damp)}
	}
	c.placed, c.spread, c.near = slices.Clone(l.placed), slices.Clone(l.spread), cloneRows(l.near)
	random := *l.random
	c.random, c.springs = &random, nil
	c.rand = rand.New(c.random)
	return &c
}

// known says whether a slot has a place that its own claims gave it.
func (l *Latency) known(slot int) bool {
	return len(l.claims[slot]) >= minClaims && len(l.near[slot]) > 0
}

// model returns the logarithm of a pair's time in ms by the spaces alone, and how
// far they differ.
func (l *Latency) model(i, j int) (log, differ float64) {
	var sum, squares float64
	for _, s := range l.spaces {
		x := s.log(i, j)
		sum += x
		squares += x * x
	}
	log = sum / models
	return log, math.Sqrt(max(squares/models-log*log, 0))
}

// doubt is a pair's error but for a factor that is the same for all pairs.
func (l *Latency) doubt(i, j int, differ float64) float64 {
	const least = 0.02
	return math.Sqrt(least*least + l.spread[i]*l.spread[i] + l.spread[j]*l.spread[j] + differ*differ)
}

// fit moves a slot's points towards what it claims.
func (l *Latency) fit(slot int) {
	row := l.claims[slot]
	if len(row) == 0 {
		return
	}
	scale := l.put(slot)
	rate := l.agenda.rate(slot)
	var moved, residual float64
	for m, s := range l.spaces {
		l.springs = l.springs[:0]
		for _, x := range row {
			if unseen(slot, x.to, m) {
				_, differ := l.model(slot, x.to)
				l.stretch.learn(math.Abs(s.log(slot, x.to)-x.log), l.doubt(slot, x.to, differ))
				continue
			}
			if len(l.claims[x.to]) == 0 {
				continue // nothing of its own says where it is
			}
			l.springs = append(l.springs, spring{x.to, x.log, l.claims.accord(slot, x) * l.trust(x.to)})
		}
		if age := l.agenda.age[slot]; age > 0 && age < young && age%4 == 0 {
			s.again(slot, l.springs, l.rand)
		}
		moved += s.fit(slot, l.springs, rate) / scale / models
		for _, x := range row {
			residual += min(math.Abs(s.log(slot, x.to)-x.log), 2)
		}
	}
	l.spread[slot] += (residual/models/float64(len(row)) - l.spread[slot]) / 4
	l.near[slot] = l.look(slot)
	l.agenda.fitted(slot, moved, l.claims)
}

// put gives places to a slot and those that it claims pairs with if they have none,
// and returns the slot's longest time in ms.
func (l *Latency) put(slot int) float64 {
	var scale, mean float64
	for _, x := range l.claims[slot] {
		scale = max(scale, math.Exp(x.log))
		mean += x.log / float64(len(l.claims[slot]))
	}
	l.level += (mean - l.level) / 32
	if !l.placed[slot] {
		l.place(slot, scale/2)
	}
	for _, x := range l.claims[slot] {
		if !l.placed[x.to] {
			l.place(x.to, math.Exp(x.log))
		}
	}
	return scale
}

func (l *Latency) place(slot int, scale float64) {
	for _, s := range l.spaces {
		s.place(slot, scale, l.rand)
	}
	l.placed[slot] = true
}

// trust is how much a slot's place and claims count for others.
func (l *Latency) trust(slot int) float64 {
	t := l.spread[slot] / trusted
	return 1 / (1 + t*t)
}
