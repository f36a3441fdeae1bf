package mesh

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"farlan/overlay"
)

// traffic is made up: rates of pairs differ by much, wander, swell and ebb once in 288
// steps, jump for single steps, and now and then an agent's traffic turns to others.
type traffic struct {
	random      *rand.Rand
	n           int
	base, drift [][]float64
}

func newTraffic(seed uint64, n int) *traffic {
	m := &traffic{random: rand.New(rand.NewPCG(seed, 9)), n: n}
	for range n {
		m.base, m.drift = append(m.base, make([]float64, n)), append(m.drift, make([]float64, n))
	}
	for i := range n {
		m.turn(i)
	}
	return m
}

// turn gives an agent other rates: a few large ones, many small ones.
func (m *traffic) turn(i int) {
	for j := range m.n {
		m.base[i][j] = 20_000 * math.Exp(1.6*m.random.NormFloat64())
	}
}

// step returns the rates to and fro of all pairs in kbit/s.
func (m *traffic) step(at int) [][]float64 {
	out := make([][]float64, m.n)
	for i := range out {
		out[i] = make([]float64, m.n)
	}
	for i := range m.n {
		if m.random.IntN(2500) == 0 {
			m.turn(i)
		}
		for j := range m.n {
			m.drift[i][j] = 0.9*m.drift[i][j] + 0.06*m.random.NormFloat64()
			r := m.base[i][j] * math.Exp(m.drift[i][j]) * (1 + 0.5*math.Sin(2*math.Pi*float64(at)/288))
			if m.random.IntN(400) == 0 {
				r *= 5
			}
			if i != j {
				out[i][j] += r
				out[j][i] += r
			}
		}
	}
	return out
}

// A tally is how a policy fares.
type tally struct {
	direct         float64 // traffic of the pairs with links
	changes, flaps int
	steps          int
	now            map[[2]int]bool
	changed        map[[2]int]int
}

// take tells what links there are in a step, and its rates.
func (c *tally) take(links map[[2]int]bool, rates [][]float64) {
	if c.changed == nil {
		c.changed = map[[2]int]int{}
	}
	turn := func(p [2]int) {
		if at, ok := c.changed[p]; ok && c.steps-at < 50 {
			c.flaps++
		}
		c.changed[p] = c.steps
		c.changes++
	}
	if c.steps > 0 {
		for p := range links {
			if !c.now[p] {
				turn(p)
			}
		}
		for p := range c.now {
			if !links[p] {
				turn(p)
			}
		}
	}
	for p := range links {
		c.direct += rates[p[0]][p[1]]
	}
	c.now = links
	c.steps++
}

// add adds what another counted.
func (c *tally) add(o *tally) {
	c.direct += o.direct
	c.changes += o.changes
	c.flaps += o.flaps
	c.steps += o.steps
}

// busiest adds an agent's pairs of most traffic.
func busiest(links map[[2]int]bool, rates [][]float64, i int) {
	var all []int
	for j := range rates {
		if j != i {
			all = append(all, j)
		}
	}
	slices.SortFunc(all, func(a, b int) int { return cmp.Compare(rates[i][b], rates[i][a]) })
	for _, j := range all[:busyLinks] {
		links[pairOf(i, j)] = true
	}
}

// Links for traffic follow it, but not its noise: beside an oracle that knows each step's
// rates before, one that follows the last step's at once, and one that never changes.
func TestTrafficLinks(t *testing.T) {
	t.Parallel()
	const n, steps, warm = 16, 2000, 100
	seeds := 5
	if long() {
		seeds = 30
	}
	var sum, hasty, fixed tally // of ours, the instant and the static one
	best := 0.0                 // of the oracle
	for seed := range uint64(seeds) {
		m := newTraffic(seed, n)
		trackers := make([]Demands, n)
		var oracle, ours, instant, static tally
		var last [][]float64
		var first map[[2]int]bool
		wished := map[[2]int]bool{}
		for step := range steps {
			rates := m.step(step)
			if step >= warm {
				most, follow := map[[2]int]bool{}, map[[2]int]bool{}
				for i := range n {
					busiest(most, rates, i)
					busiest(follow, last, i)
				}
				if first == nil {
					first = follow
				}
				oracle.take(most, rates)
				instant.take(follow, rates)
				static.take(first, rates)
				ours.take(wished, rates)
			}
			last, wished = rates, map[[2]int]bool{}
			for i := range n {
				var r []Rate
				for j, x := range rates[i] {
					if j != i {
						r = append(r, Rate{id(j), int64(x)})
					}
				}
				for _, peer := range trackers[i].Observe(int64(step), r) {
					wished[pairOf(i, number(peer))] = true
				}
			}
		}
		for _, c := range []struct {
			name string
			*tally
		}{{"damped", &ours}, {"instant", &instant}, {"static", &static}} {
			t.Logf("seed %d, %s: %.3f changes a step, %.1f %% of them flaps, %.1f %% of the oracle's direct traffic", seed, c.name,
				float64(c.changes)/float64(c.steps), 100*float64(c.flaps)/float64(max(1, c.changes)), 100*c.direct/oracle.direct)
		}
		sum.add(&ours)
		hasty.add(&instant)
		fixed.add(&static)
		best += oracle.direct
	}
	name := fmt.Sprintf("traffic of %d agents, %d times, ", n, seeds)
	goal(t, name+"changes in a step", float64(sum.changes)/float64(sum.steps), 0.1)
	goal(t, name+"% of them that are flaps", 100*float64(sum.flaps)/float64(max(1, sum.changes)), 5)
	goal(t, name+"% of the oracle's direct traffic that isn't", 100-100*sum.direct/best, 3)
	if hasty.changes < 5*sum.changes || fixed.direct > 0.9*best {
		t.Errorf("this traffic is no trial: %d changes of the instant policy, %.3f of the direct traffic by the static one",
			hasty.changes, fixed.direct/best)
	}
}

func number(id overlay.AgentID) int {
	return int(id[2])<<8 | int(id[3]) - 1
}

// When a peer is named, gives way to another, and is quiet.
func TestDemandSteps(t *testing.T) {
	t.Parallel()
	var d Demands
	epoch := int64(0)
	run := func(epochs int, rates ...int64) (named []int) {
		for range epochs {
			var r []Rate
			for j, x := range rates {
				if x > 0 {
					r = append(r, Rate{id(j), x})
				}
			}
			named = named[:0]
			for _, p := range d.Observe(epoch, r) {
				named = append(named, number(p))
			}
			epoch++
		}
		return named
	}
	if n := run(dwell, 50_000, 40_000); len(n) != 0 {
		t.Errorf("%v are named before they were seen for %d epochs", n, dwell)
	}
	if n := run(3, 50_000, 40_000); !slices.Equal(n, []int{0, 1}) {
		t.Errorf("named are %v", n)
	}
	if n := run(100, 50_000, 40_000, 55_000); !slices.Equal(n, []int{0, 1}) {
		t.Errorf("named are %v: 38 %% more isn't enough", n)
	}
	if n := run(60, 50_000, 40_000, 70_000); !slices.Equal(n, []int{2, 0}) {
		t.Errorf("named are %v: 75 %% more is", n)
	}
	if n := run(200, 400, 0, 900); len(n) != 1 || n[0] != 2 {
		t.Errorf("named are %v: what falls below half of %d kbit/s goes", n, leastRate)
	}
	if n := run(200); len(n) != 0 || len(d.rows) != 0 {
		t.Errorf("named are %v of %d", n, len(d.rows))
	}
}

// Of more peers than are kept, those with the most are.
func TestDemandBound(t *testing.T) {
	t.Parallel()
	var d Demands
	var named []overlay.AgentID
	for epoch := range int64(40) {
		var r []Rate
		for j := range 3 * MaxRates {
			x := int64(2000 + j)
			if j == 2*MaxRates || j == 3*MaxRates-1 {
				x = 90_000
			}
			r = append(r, Rate{id(j), x})
		}
		named = d.Observe(epoch, r)
		if len(d.rows) > MaxRates {
			t.Fatalf("%d peers are kept", len(d.rows))
		}
	}
	if len(named) != 2 || !slices.Contains(named, id(2*MaxRates)) || !slices.Contains(named, id(3*MaxRates-1)) {
		t.Errorf("%d peers are named, or not the busiest", len(named))
	}
}

// A link for traffic stays while either end has traffic for it, though only one of them
// wished it: they know different rates. When both are quiet it goes.
func TestTrafficLinkIsBoths(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 24), 3)
	one, two := 0, 0
	quiet := [2]int64{1 << 40, 1 << 40}
	w.rates = func(epoch int64, i int) []Rate {
		if i == one && one != two && epoch < quiet[0] {
			return []Rate{{w.agents[two].ID, 50_000}}
		}
		if i == two && one != two && epoch >= 50 && epoch < quiet[1] {
			return []Rate{{w.agents[one].ID, 40_000}}
		}
		return []Rate{}
	}
	for range 40 {
		w.step()
	}
	for one == two || w.links[key(w.agents[one].ID, w.agents[two].ID)] != nil || !w.view.direct(one, two, w.measure(one, two)) {
		if two++; two == 24 {
			one, two = one+1, 0
		}
	}
	there := func() bool { return w.links[key(w.agents[one].ID, w.agents[two].ID)] != nil }
	quiet[0] = 70
	for w.epoch < 60 {
		w.step()
	}
	if !there() {
		t.Fatal("no link for traffic")
	}
	for w.epoch < 160 {
		if w.step(); !there() {
			t.Fatalf("epoch %d: the link is gone, though its other end has traffic", w.epoch)
		}
	}
	quiet[1] = 160
	for w.epoch < 260 {
		w.step()
	}
	if there() {
		t.Error("the link stays when there is no traffic")
	}
}
