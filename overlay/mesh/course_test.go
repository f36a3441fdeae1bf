package mesh

import (
	"fmt"
	"testing"
)

// goal reports a figure beside what it shall be at most.
func goal(t *testing.T, what string, got, most float64) {
	t.Helper()
	t.Logf("goal: %-72s %7.4f, want ≤ %g", what, got, most)
	if !(got <= most) {
		t.Errorf("%s: %.4f, want %g at most", what, got, most)
	}
}

// A course is how a network fares from a cold start.
type course struct {
	quality       []float64 // after each epoch
	made          []int     // links made in each
	settled, last int       // epochs until within 2 % of the end for good, of the last change
	links         int
	most          float64 // share of the links made in one epoch at most, but for the first
	vain          float64 // share of the exchanges that were reverted
	replaced      float64 // share of the links made anew in an epoch, of the second half
}

// follow lets a world run for so many epochs.
func follow(w *world, epochs int) course {
	var c course
	best := optimum(w.rtt)
	kept, reverted := w.kept, w.reverted
	for range epochs {
		w.step()
		c.quality = append(c.quality, w.quality(best))
		c.made = append(c.made, w.made)
		if p := w.pieces(); p != 1 {
			w.t.Errorf("epoch %d: %d pieces", w.epoch-1, p)
		}
	}
	kept, reverted = w.kept-kept, w.reverted-reverted
	c.vain = float64(reverted) / float64(max(1, kept+reverted))
	c.links = len(w.links)
	end := c.quality[epochs-1]
	for e, q := range c.quality {
		if q > 1.02*end || q < end/1.02 {
			c.settled = e + 1
		}
		if c.made[e] > 0 {
			c.last = e + 1
		}
		if e > 0 {
			c.most = max(c.most, float64(c.made[e])/float64(c.links))
		}
		if e >= epochs/2 {
			c.replaced += float64(c.made[e]) / float64(c.links) / float64(epochs-epochs/2)
		}
	}
	return c
}

func (c course) end() float64 { return c.quality[len(c.quality)-1] }

func (c course) String() string {
	return fmt.Sprintf("%.4f of the optimum with %d links; within 2 %% of that after %d epochs, last change after %d of %d; at most %.1f %% made in one, %.0f %% of the exchanges reverted; %.3f %% of the links made anew in an epoch of the second half",
		c.end(), c.links, c.settled, c.last, len(c.quality), 100*c.most, 100*c.vain, 100*c.replaced)
}

// What everybody's moving at once spoils: exchanges are in vain, and many links are made
// together.
const mostVain, mostMade = 0.4, 0.18

// faults names what a course doesn't keep of what is promised.
func (c course) faults(most float64) (all []string) {
	fault := func(bad bool, what string, args ...any) {
		if bad {
			all = append(all, fmt.Sprintf(what, args...))
		}
	}
	n := len(c.quality)
	fault(!(c.end() <= most), "quality %.4f, want %.2f", c.end(), most)
	fault(c.settled > 18, "settled after %d epochs", c.settled)
	fault(c.last > n-10, "changes until epoch %d of %d", c.last, n)
	fault(c.most > mostMade, "%.0f %% of the links made at once", 100*c.most)
	fault(c.vain > mostVain, "%.0f %% of the exchanges reverted", 100*c.vain)
	return all
}

// Real round trips, a cold start, three links an agent: nearly as good as all links, soon,
// and then quiet. FARLAN_MESH=1 takes all 490 nodes, and 100 of them twenty times.
func TestColdStart(t *testing.T) {
	t.Parallel()
	if long() {
		coldStart(t, 490, 1)
		coldStart(t, 100, 20)
		return
	}
	coldStart(t, 100, 1)
}

// coldStart reports the worst of some seeds.
func coldStart(t *testing.T, n, seeds int) {
	rtt := planetLab(t, n)
	for _, all := range []bool{false, true} {
		name, most := "measured candidates", 1.08
		if all {
			name, most = "full knowledge", 1.05
		}
		name = fmt.Sprintf("%d nodes, %s", n, name)
		var worst struct{ end, links, settled, last float64 }
		for seed := range uint64(seeds) {
			w := newWorld(t, rtt, seed)
			w.all = all
			c := follow(w, 50)
			t.Logf("%s, seed %d: %v", name, seed, c)
			for _, f := range c.faults(most) {
				t.Errorf("%s, seed %d: %s", name, seed, f)
			}
			worst.end = max(worst.end, c.end())
			worst.links = max(worst.links, float64(c.links)/float64(n))
			worst.settled = max(worst.settled, float64(c.settled))
			worst.last = max(worst.last, float64(c.last))
		}
		goal(t, name+", mean round trip by the optimum's", worst.end, most)
		goal(t, name+", links by agents", worst.links, ownLinks)
		goal(t, name+", epochs until within 2 % of that", worst.settled, 18)
		goal(t, name+", epochs until the last change", worst.last, 40)
	}
}

// Measurements are wrong by 3 %, another way in each epoch: links stay, but for one in
// two hundred.
func TestNoise(t *testing.T) {
	t.Parallel()
	n := 60
	if long() {
		n = 490
	}
	w := newWorld(t, planetLab(t, n), 4)
	w.noise = 0.03
	c := follow(w, 60)
	t.Logf("%d nodes: %v", n, c)
	goal(t, fmt.Sprintf("%d nodes, 3 %% of noise, %% of the links made anew in an epoch", n), 100*c.replaced, 0.5)
	goal(t, fmt.Sprintf("%d nodes, 3 %% of noise, mean round trip by the optimum's", n), c.end(), 1.08)
}

// All agents know of links an epoch too late: they still find good ones, and come to rest.
func TestLateFacts(t *testing.T) {
	t.Parallel()
	n := 60
	if long() {
		n = 100
	}
	rtt := planetLab(t, n)
	for _, noise := range []float64{0, 0.03} {
		w := newWorld(t, rtt, 1)
		w.noise, w.late = noise, true
		c := follow(w, 50)
		name := fmt.Sprintf("%d nodes, facts an epoch late, %.0f %% of noise", n, 100*noise)
		t.Logf("%s: %v", name, c)
		goal(t, name+", mean round trip by the optimum's", c.end(), 1.08)
		goal(t, name+", epochs until within 2 % of that", float64(c.settled), 18)
		goal(t, name+", % of the links made anew in an epoch", 100*c.replaced, 0.5)
		if noise == 0 {
			goal(t, name+", epochs until the last change", float64(c.last), 40)
		}
	}
}

// What has come to rest and then changes much is followed: a third of the agents come
// later, then a fifth of all is elsewhere.
func TestFollowsChange(t *testing.T) {
	t.Parallel()
	rtt := planetLab(t, 60)
	w := newWorld(t, rtt, 3)
	for i := 42; i < 60; i++ {
		w.present[i] = false
	}
	for range 40 {
		w.step()
	}
	for i := 42; i < 60; i++ {
		w.present[i] = true
	}
	w.grows = true
	c := follow(w, 40)
	w.grows = false // from now on nobody has more than the cap
	w.check()
	t.Logf("18 agents joined 42: %v", c)
	goal(t, "18 agents join 42, mean round trip by the optimum's", c.end(), 1.08)
	goal(t, "18 agents join 42, epochs until the last change", float64(c.last), 30)
	place := func(i int) int {
		if i < 12 {
			return (i + 6) % 12
		}
		return i
	}
	w.rtt = make([][]float64, len(rtt))
	for i := range rtt {
		w.rtt[i] = make([]float64, len(rtt))
		for j := range rtt {
			w.rtt[i][j] = rtt[place(i)][place(j)]
		}
	}
	for i := range rtt {
		w.told[i] = w.predict(i)
	}
	worst := w.quality(optimum(w.rtt))
	c = follow(w, 40)
	t.Logf("12 agents changed places, %.4f at first: %v", worst, c)
	goal(t, "12 of 60 agents change places, mean round trip by the optimum's", c.end(), 1.08)
	goal(t, "12 of 60 agents change places, epochs until the last change", float64(c.last), 30)
}

// Without its rules the protocol doesn't work, and the checks show it.
func TestMutants(t *testing.T) {
	t.Parallel()
	rtt := planetLab(t, 60)
	run := func(noise float64, change func(*habits)) course {
		w := newWorld(t, rtt, 2)
		w.noise, w.all = noise, noise == 0
		for _, m := range w.minds {
			change(&m.habits)
		}
		return follow(w, 50)
	}
	sound := run(0, func(*habits) {})
	if f := sound.faults(1.05); len(f) > 0 {
		t.Errorf("sound: %v", f)
	}
	all := run(0, func(h *habits) { h.turns = turnsOf })
	t.Logf("sound: %v; no turns: %v: %v", sound, all, all.faults(1.05))
	if all.vain <= mostVain || all.most <= mostMade {
		t.Errorf("that all move at once isn't noticed: %v", all)
	}
	wild := run(0, func(h *habits) { *h = habits{turns: turnsOf, stiff: 1} })
	t.Logf("no turns and no hysteresis: %v", wild)
	if wild.replaced <= 0.005 {
		t.Errorf("that all move at once, for any gain, isn't noticed: %v", wild)
	}
	calm := run(0.03, func(*habits) {})
	eager := run(0.03, func(h *habits) { h.least, h.raise = 0, 0 })
	young := run(0.03, func(h *habits) { h.stiff = 1 })
	t.Logf("3 %% noise: %v; no hysteresis: %v; places don't get stiff: %v", calm, eager, young)
	if calm.replaced > 0.005 || eager.replaced <= 0.005 || young.replaced <= 0.005 {
		t.Errorf("%.4f of the links replaced in an epoch, without hysteresis %.4f, with places that don't get stiff %.4f",
			calm.replaced, eager.replaced, young.replaced)
	}
}
