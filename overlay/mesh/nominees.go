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
	var near, chance []ranked
	period := uint64(epoch+int64(v.keys[agent]%chanceAge)) / chanceAge // not everybody's at once
	for j := range v.agents {
		if !v.allowed(agent, j) || v.link(agent, j) != nil {
			continue
		}
		chance = append(chance, ranked{j, int64(mix(v.keys[j]^mix(v.keys[agent]+period)) >> 1)})
		if j >= len(predicted) || predicted[j] <= 0 {
			continue
		}
		near = append(near, ranked{j, int64(v.cost(agent, j, predicted[j]))})
	}
	var out []int
	out = take(out, v.useful(agent, near), mostUseful)
	out = take(out, near, mostNear)
	out = take(out, chance, mostRandom)
	for _, j := range busy[:min(len(busy), mostBusy)] {
		if j >= 0 && j < len(v.agents) && v.allowed(agent, j) && v.link(agent, j) == nil && !slices.Contains(out, j) {
			out = append(out, j)
		}
	}
	return out
}

// useful returns those of the agents, by what links with them cost, whose links would lower
// Φ most, mostUseful at least if there are as many for which a link is worth its price.
// It looks at them in the order of what they can gain at most, and stops when nobody can
// be among the best any more: that is much sooner than to look at all.
func (v *View) useful(agent int, costs []ranked) (best []ranked) {
	type option struct {
		agent      int
		cost       int32
		most, gain int64
	}
	all := make([]option, 0, len(costs))
	for _, r := range costs {
		if !v.room(r.agent, v.Degree(r.agent)) {
			continue
		}
		if most := v.gainAtMost(agent, r.agent, int32(r.by)); most > v.price() {
			all = append(all, option{r.agent, int32(r.by), most, 0})
		}
	}
	slices.SortFunc(all, func(a, b option) int { return cmp.Compare(b.most, a.most) })
	least := v.price() + 1 // to be among the best
	for _, o := range all {
		if o.most < least {
			break
		}
		if gain := v.gain(agent, o.agent, o.cost); gain >= least {
			at, _ := slices.BinarySearchFunc(best, -gain, func(r ranked, by int64) int { return cmp.Compare(r.by, by) })
			best = slices.Insert(best, at, ranked{o.agent, -gain})
		}
		if len(best) >= mostUseful {
			least = -best[mostUseful-1].by
		}
	}
	return best
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
