package predict

import (
	"cmp"
	"math"
	"slices"
)

const (
	// maxNear is how many slots are a slot's surroundings, itself included.
	maxNear = 12
	// reach is the distance at which a neighbour counts 1/e, as a share of the
	// typical round trip.
	reach = 0.15
	// reluctance is what no correction at all counts beside neighbours' pairs.
	reluctance = 0.1
	// maxCorrection bounds what one pair may say, as a factor's logarithm.
	maxCorrection = 0.7
)

// A neighbour is a slot near another, or the slot itself, and how much it counts.
type neighbour struct {
	slot   int
	weight float64
}

// look returns a slot's surroundings, its old ones' memory reused.
func (l *Latency) look(slot int) []neighbour {
	scale := reach * math.Exp(l.level)
	near := append(l.near[slot][:0], neighbour{slot, 1})
	for j := range l.claims {
		if j == slot || !l.placed[j] || len(l.claims[j]) < minClaims {
			continue
		}
		if d := l.apart(slot, j) / scale; d < 4 {
			near = append(near, neighbour{j, math.Exp(-d) * l.trust(j)})
		}
	}
	slices.SortFunc(near[1:], func(a, b neighbour) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.slot, b.slot))
	})
	return near[:min(len(near), maxNear)]
}

// apart returns the mean distance of two slots in the spaces, in ms.
func (l *Latency) apart(i, j int) float64 {
	var sum float64
	for _, s := range l.spaces {
		_, full := distance(&s.points[i], &s.points[j])
		sum += full
	}
	return sum / models
}

// without returns surroundings less a slot.
func without(near []neighbour, slot int) []neighbour {
	return slices.DeleteFunc(near, func(n neighbour) bool { return n.slot == slot })
}

// correction returns what must be added to the logarithm of a pair's time: by how
// much the spaces are wrong for the claimed pairs between the surroundings of the
// two ends, weighted by how near they are (kriging, with an exponential variogram).
func (l *Latency) correction(i, j int) float64 {
	sum, weight := 0.0, reluctance
	for _, a := range l.near[i] {
		for _, b := range l.near[j] {
			if a.slot == b.slot {
				continue
			}
			if log, ok := l.claims.pair(a.slot, b.slot); ok {
				m, _ := l.model(a.slot, b.slot)
				w := a.weight * b.weight
				sum += w * max(-maxCorrection, min(maxCorrection, log-m))
				weight += w
			}
		}
	}
	return sum / weight
}

// Nominate returns the n slots that seem nearest to a slot, nearest first, among
// those that eligible allows; none while too little is known of the slot. Nearness is
// what coordinates tell worst: measure some 8 nominated slots and take the best.
func (l *Latency) Nominate(slot, n int, eligible func(slot int) bool) []int {
	if slot < 0 || slot >= len(l.claims) || !l.known(slot) {
		return nil
	}
	var all []ranked
	for j := range l.claims {
		if j != slot && l.known(j) && eligible(j) {
			log, _ := l.model(slot, j)
			all = append(all, ranked{j, log})
		}
	}
	all = first(all, 4*n) // a correction costs more than all else
	for k := range all {
		all[k].by += l.correction(slot, all[k].slot)
	}
	return slots(first(all, n))
}

// Neighbours returns whom an agent should measure, n slots at most: the nearer half
// nominated, the rest at random, which tells more of short pairs, of the worst
// predicted ones and of who is nearest than n at random do, and no less of the rest. The random ones depend on the seed, and
// when a slot comes or goes only one of them changes.
func (l *Latency) Neighbours(slot, n int, seed uint64, eligible func(slot int) bool) []int {
	chosen := l.Nominate(slot, n/2, eligible)
	var rest []ranked
	for j := range l.claims {
		if j != slot && eligible(j) && !slices.Contains(chosen, j) {
			rest = append(rest, ranked{j, float64(mix(seed + uint64(j)))})
		}
	}
	return append(chosen, slots(first(rest, n-len(chosen)))...)
}

// A ranked slot is the better the smaller by is.
type ranked struct {
	slot int
	by   float64
}

// first returns the n best of the ranked slots, in order.
func first(all []ranked, n int) []ranked {
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.by, b.by), cmp.Compare(a.slot, b.slot))
	})
	return all[:max(0, min(n, len(all)))]
}

func slots(all []ranked) []int {
	var s []int
	for _, r := range all {
		s = append(s, r.slot)
	}
	return s
}
