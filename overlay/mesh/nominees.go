package mesh

import (
	"cmp"
	"slices"
)

const (
	// Of an agent's nominees most are useful, some near, some by chance, some busy.
	mostUseful, mostNear, mostRandom, mostBusy = 12, 4, 8, 8
	// MaxNominees is how many there are at most.
	MaxNominees = mostUseful + mostNear + mostRandom + mostBusy
	// chanceAge is for how many epochs those by chance stay.
	chanceAge = 360
)

// Nominees returns whom an agent should measure by the next epoch, to choose from in it:
// those whose links would lower Φ most and those that are nearest, as far as is
// predicted; some by hash, others every hour, because predictions are wrong; and
// the first of busy, with whom it has most traffic. predicted are the costs of links with
// all agents in µs, in the order of the facts, 0 where nothing is known. No two are the
// same, and none is the agent itself or has a link with it.
func (v *View) Nominees(agent int, epoch int64, predicted []int32, busy []int) []int {
	if agent < 0 || agent >= len(v.agents) {
		return nil
	}
	var useful, near, chance []ranked
	period := uint64(epoch+int64(v.keys[agent]%chanceAge)) / chanceAge // not everybody's at once
	for j := range v.agents {
		if !v.allowed(agent, j) || v.link(agent, j) != nil {
			continue
		}
		chance = append(chance, ranked{j, int64(mix(v.keys[j]^mix(v.keys[agent]+period)) >> 1)})
		if j >= len(predicted) || predicted[j] <= 0 {
			continue
		}
		cost := v.cost(agent, j, predicted[j])
		near = append(near, ranked{j, int64(cost)})
		if gain := v.gain(agent, j, cost); gain > v.price() && v.room(j, v.Degree(j)) {
			useful = append(useful, ranked{j, -gain})
		}
	}
	var out []int
	out = take(out, useful, mostUseful)
	out = take(out, near, mostNear)
	out = take(out, chance, mostRandom)
	for _, j := range busy[:min(len(busy), mostBusy)] {
		if j >= 0 && j < len(v.agents) && v.allowed(agent, j) && v.link(agent, j) == nil && !slices.Contains(out, j) {
			out = append(out, j)
		}
	}
	return out
}

// A ranked agent is the better the smaller by is.
type ranked struct {
	agent int
	by    int64
}

// take appends the best ones that aren't there.
func take(into []int, from []ranked, most int) []int {
	slices.SortFunc(from, func(a, b ranked) int { return cmp.Or(cmp.Compare(a.by, b.by), cmp.Compare(a.agent, b.agent)) })
	for _, r := range from {
		if most > 0 && !slices.Contains(into, r.agent) {
			into = append(into, r.agent)
			most--
		}
	}
	return into
}
