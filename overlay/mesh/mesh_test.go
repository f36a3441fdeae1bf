package mesh

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"farlan/overlay"
)

// A course is how a network fares from a cold start.
type course struct {
	quality       []float64 // after each epoch
	made          []int     // links made in each
	settled, last int       // epochs until within 2 % of the end for good, of the last change
	links         int
	most          float64 // share of the links made in one epoch at most, but for the first
	rises         int     // epochs of exchanges only by which Φ rose
	replaced      float64 // share of the links made anew in an epoch, of the second half
}

// follow lets a world run for so many epochs.
func follow(w *world, epochs int) course {
	var c course
	best := optimum(w.rtt)
	phi := int64(0)
	quiet := false
	for range epochs {
		w.step()
		c.quality = append(c.quality, w.quality(best))
		c.made = append(c.made, w.made)
		if quiet && w.view.Phi() > phi {
			c.rises++
		}
		quiet, phi = w.epoch > 12, w.view.Phi()
		if p := w.pieces(); p != 1 {
			w.t.Errorf("epoch %d: %d pieces", w.epoch-1, p)
		}
	}
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

func (c course) String() string {
	return fmt.Sprintf("%.4f of the optimum with %d links; within 2 %% of that after %d epochs, last change after %d, at most %.1f %% made in one, Φ rose in %d; %.2f %% of the links made anew in an epoch of the second half",
		c.quality[len(c.quality)-1], c.links, c.settled, c.last, 100*c.most, c.rises, 100*c.replaced)
}

// faults names what a course doesn't keep of what is promised.
func (c course) faults(most float64) (all []string) {
	n := len(c.quality)
	if q := c.quality[n-1]; !(q <= most) {
		all = append(all, fmt.Sprintf("quality %.4f, want %.2f", q, most))
	}
	if c.settled > 18 {
		all = append(all, fmt.Sprintf("settled after %d epochs", c.settled))
	}
	if c.most > 0.18 {
		all = append(all, fmt.Sprintf("%.0f %% of the links made at once", 100*c.most))
	}
	if c.last > n-10 {
		all = append(all, fmt.Sprintf("changes until epoch %d of %d", c.last, n))
	}
	return all
}

// Real round trips, a cold start, three links an agent: nearly as good as all links, soon,
// and then quiet. FARLAN_MESH=1 takes all 490 nodes.
func TestColdStart(t *testing.T) {
	t.Parallel()
	n, epochs, seeds := 100, 50, 2
	if long() {
		n, epochs, seeds = 490, 60, 1
	}
	rtt := planetLab(t, n)
	for seed := range uint64(seeds) {
		for _, all := range []bool{false, true} {
			w := newWorld(t, rtt, seed)
			w.all = all
			most, name := 1.08, "measured candidates"
			if all {
				most, name = 1.06, "all candidates"
				if long() {
					most = 1.05
				}
			}
			c := follow(w, epochs)
			t.Logf("%d nodes, seed %d, %s: %v", n, seed, name, c)
			for _, f := range c.faults(most) {
				t.Errorf("%d nodes, seed %d, %s: %s", n, seed, name, f)
			}
			if c.links > 3*n {
				t.Errorf("%d links, more than %d for each agent", c.links, ownLinks)
			}
		}
	}
}

// Measurements are wrong by 3 %, another way in each epoch: links stay, but for one in
// two hundred.
func TestNoise(t *testing.T) {
	t.Parallel()
	n, epochs := 100, 60
	if long() {
		n = 490
	}
	w := newWorld(t, planetLab(t, n), 4)
	w.noise = 0.03
	c := follow(w, epochs)
	t.Logf("%d nodes: %v", n, c)
	if c.replaced > 0.005 {
		t.Errorf("%.2f %% of the links are replaced in an epoch", 100*c.replaced)
	}
	if q := c.quality[epochs-1]; q > 1.08 {
		t.Errorf("quality %.4f", q)
	}
}

// Without its rules the protocol doesn't work, and the checks show it.
func TestMutants(t *testing.T) {
	t.Parallel()
	rtt := planetLab(t, 60)
	run := func(noise float64, change func(*habits)) course {
		w := newWorld(t, rtt, 2)
		w.noise = noise
		for _, m := range w.minds {
			change(&m.habits)
		}
		return follow(w, 50)
	}
	sound := run(0, func(*habits) {})
	if f := sound.faults(1.08); len(f) > 0 {
		t.Errorf("sound: %v", f)
	}
	all := run(0, func(h *habits) { h.share = 1<<64 - 1 })
	t.Logf("sound: %v; no turns: %v", sound, all)
	if f := all.faults(1.08); len(f) == 0 {
		t.Error("that all move at once isn't noticed")
	}
	calm := run(0.03, func(*habits) {})
	eager := run(0.03, func(h *habits) { h.least, h.raise = 0, 0 })
	t.Logf("3 %% noise: %v; no hysteresis: %v", calm, eager)
	if calm.replaced > 0.005 || eager.replaced <= 0.005 {
		t.Errorf("%.4f of the links replaced in an epoch, without hysteresis %.4f", calm.replaced, eager.replaced)
	}
}

// Each exchange that is accepted lowers Φ, as told by the views with and without it.
func TestAcceptedMovesLowerPhi(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 60), 6)
	moves := 0
	for range 40 {
		facts := w.facts()
		w.step()
		for i := range w.agents {
			for _, x := range w.wishes[w.agents[i].ID] {
				if x.Why != Replaced {
					continue
				}
				moves++
				// facts show both links, the old one as leaving; before, they had
				// the old one only.
				before, after := facts, facts
				before.Links, after.Links = nil, nil
				for _, l := range facts.Links {
					switch k := key(facts.Agents[l.A].ID, facts.Agents[l.B].ID); k {
					case key(w.agents[i].ID, x.Peer):
						l.By = [2]Hold{Holds, Holds}
						before.Links = append(before.Links, l)
					case key(w.agents[i].ID, x.Other):
						after.Links = append(after.Links, l)
					default:
						before.Links, after.Links = append(before.Links, l), append(after.Links, l)
					}
				}
				b, a := mustView(t, before).Phi(), mustView(t, after).Phi()
				if a >= b || b-a != x.Gain {
					t.Errorf("epoch %d: an exchange changes Φ from %d to %d, said to gain %d", w.epoch-1, b, a, x.Gain)
				}
			}
		}
	}
	if moves < 20 {
		t.Errorf("only %d moves", moves)
	}
	t.Logf("%d exchanges", moves)
}

// Few agents have all links; more choose; in between those that exist stay.
func TestSizes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 40), 3)
	among := func(n int) {
		for i := range w.present {
			w.present[i] = i < n
		}
	}
	for _, n := range []int{1, 2, 3, 9, 16} {
		among(n)
		for range 3 {
			w.step()
		}
		if want := n * (n - 1) / 2; len(w.links) != want {
			t.Errorf("%d agents have %d links, want %d", n, len(w.links), want)
		}
	}
	among(18)
	for range 60 {
		w.step()
	}
	if len(w.links) < 120+4 || w.pieces() != 1 {
		t.Errorf("18 agents, 16 of which had all links, have %d in %d pieces", len(w.links), w.pieces())
	}
	among(40)
	for e := range 150 {
		w.grows = e < 120
		w.step()
		if w.pieces() > 1 {
			t.Errorf("epoch %d: %d pieces", w.epoch, w.pieces())
		}
	}
	if len(w.links) > 40*ownLinks {
		t.Errorf("40 agents have %d links", len(w.links))
	}
	among(12)
	for range 10 {
		w.step()
	}
	if len(w.links) != 12*11/2 {
		t.Errorf("12 agents have %d links", len(w.links))
	}
}

// Agents come and go; the rest stays in one piece from the next epoch on, and holds
// neither too many links nor any with those that are gone.
func TestChurn(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		w := newWorld(t, planetLab(t, 70), seed)
		r := rand.New(rand.NewPCG(seed, 4))
		for range 15 {
			w.step()
		}
		torn := 0
		for range 60 {
			for range 2 {
				w.toggle(r.IntN(len(w.agents)))
			}
			w.step()
			if w.pieces() > 1 {
				torn++
			}
			for _, i := range w.seen {
				for _, h := range w.minds[i].Held(nil) {
					if w.view.Index(h.Peer) < 0 {
						t.Fatalf("epoch %d: a link with one who is gone", w.epoch)
					}
				}
			}
		}
		if torn > 0 {
			t.Errorf("seed %d: in pieces after %d of 60 epochs", seed, torn)
		}
	}
}

// An agent that was started anew takes up the links that its facts say it holds.
func TestRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 40), 8)
	for range 30 {
		w.step()
	}
	f, links := w.facts(), len(w.links)
	for i := range w.minds {
		if i%3 == 0 {
			old := w.minds[i].Held(nil)
			w.minds[i] = New(w.agents[i].ID)
			w.minds[i].Step(w.epoch, mustView(t, f), Local{})
			for _, h := range old {
				if w.minds[i].find(h.Peer) == nil {
					t.Errorf("agent %d doesn't hold its link with %d any more", i, w.index[h.Peer])
				}
			}
		}
	}
	w.epoch++
	for range 20 {
		w.step()
		if w.pieces() != 1 {
			t.Errorf("epoch %d: in pieces", w.epoch)
		}
	}
	if len(w.links) > links+2 || len(w.links) < links-2 {
		t.Errorf("%d links, before %d", len(w.links), links)
	}
}

// Pairs that can't connect, those of the ring among them, don't keep the rest in pieces.
func TestUnreachablePairs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 50), 2)
	ring := mustView(t, w.facts()).ring
	for p, i := range ring {
		for d := 1; d <= 2; d++ { // the next two of each
			j := ring[(p+d)%len(ring)]
			w.rtt[i][j], w.rtt[j][i] = 0, 0
		}
	}
	for range 30 {
		w.step()
	}
	for range 20 {
		w.step()
		if w.pieces() != 1 {
			t.Errorf("epoch %d: %d pieces", w.epoch, w.pieces())
		}
	}
}

// Two halves that know of each other but have no link find one within few epochs, whoever
// may not link with whom.
func TestBridge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 40), 5)
	open := map[int]bool{3: true, 8: true, 21: true, 34: true}
	for i := range 40 {
		for j := range 40 {
			if i%2 != j%2 && !(open[i] && open[j]) {
				w.agents[i].Rules = append(w.agents[i].Rules, Rule{Peer: j, Forbid: true})
			}
		}
	}
	for range 8 {
		w.step()
	}
	if w.pieces() != 1 {
		t.Errorf("in %d pieces", w.pieces())
	}
	why := map[Reason]int{}
	for _, m := range w.minds {
		for _, h := range m.Held(nil) {
			why[h.Why]++
		}
	}
	t.Logf("links by reason: %v", why)
}

// The operator's wishes are kept, and change when they do.
func TestOperator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 40), 1)
	for range 25 {
		w.step()
	}
	has := func(i, j int) bool { return w.links[key(w.agents[i].ID, w.agents[j].ID)] != nil }
	var forbidden, preferred [2]int
	for _, l := range w.sorted() {
		forbidden = [2]int{l.a, l.b}
	}
	for preferred = [2]int{7, 30}; has(preferred[0], preferred[1]); preferred[1]-- {
	}
	w.agents[forbidden[1]].Rules = []Rule{{Peer: forbidden[0], Forbid: true, Prefer: true}}
	w.agents[7].Rules = append(w.agents[7].Rules, Rule{Peer: preferred[1], Prefer: true})
	w.agents[11].NoTransit = true
	w.agents[12].Cost = 400_000
	for range 2 {
		w.step()
	}
	if has(forbidden[0], forbidden[1]) {
		t.Error("a forbidden link is there")
	}
	for range 40 {
		w.step()
		if !has(7, preferred[1]) || has(forbidden[0], forbidden[1]) {
			t.Fatalf("epoch %d: preferred %v, forbidden %v", w.epoch, has(7, preferred[1]), has(forbidden[0], forbidden[1]))
		}
		if w.pieces() != 1 {
			t.Errorf("epoch %d: in pieces", w.epoch)
		}
	}
	if h := w.minds[7].find(w.agents[preferred[1]].ID); h == nil || h.Why != Preferred {
		t.Errorf("7 holds %+v", h)
	}
	for _, i := range []int{11, 12} {
		if d := w.degrees()[i]; d > ownLinks+2 {
			t.Errorf("%d has %d links: nobody should choose who carries nothing, or at a high cost", i, d)
		}
	}
	w.agents[7].Rules = nil
	for range 40 {
		w.step()
	}
	if h := w.minds[7].find(w.agents[preferred[1]].ID); h != nil && h.Why == Preferred {
		t.Error("still preferred")
	}
}

// Who sends much to an agent far away over others gets a link with it, and gives it up
// when the traffic is over.
func TestTrafficGetsLinks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 60), 7)
	for range 25 {
		w.step()
	}
	from, to, least := -1, -1, int32(0)
	degree := w.degrees()
	for i := range w.seen {
		for j := range w.seen {
			d, _ := w.view.Distance(i, j)
			if w.rtt[i][j] > 0 && int32(w.rtt[i][j]) < d*9/10 && d-int32(w.rtt[i][j]) > least && degree[i] < 9 && degree[j] < 9 {
				from, to, least = i, j, d-int32(w.rtt[i][j])
			}
		}
	}
	k := key(w.agents[from].ID, w.agents[to].ID)
	busy := true
	w.rates = func(_ int64, i int) []Rate {
		if busy && (i == from || i == to) {
			return []Rate{{w.agents[from+to-i].ID, 80_000}}
		}
		return nil
	}
	for range 10 {
		w.step()
	}
	if w.links[k] == nil {
		t.Fatal("no link for the traffic")
	}
	for range 20 {
		if w.step(); w.links[k] == nil {
			t.Fatal("the link is gone, the traffic isn't")
		}
	}
	busy = false
	for range 80 {
		w.step()
	}
	if w.links[k] != nil {
		t.Error("the link is still there")
	}
}

// Demands make the ways of those pairs shorter than others'.
func TestDemandsCount(t *testing.T) {
	t.Parallel()
	rtt := planetLab(t, 60)
	stretch := func(weight int32) float64 {
		w := newWorld(t, rtt, 9)
		for i := range w.agents {
			w.agents[i].Demands = []Demand{{(i + 17) % 60, weight}, {(i + 31) % 60, weight}}
		}
		for range 60 {
			w.step()
		}
		sum := 0.0
		for x, i := range w.seen {
			for _, y := range []int{(i + 17) % 60, (i + 31) % 60} {
				d, _ := w.view.Distance(x, y)
				sum += float64(d) / w.rtt[i][y]
			}
		}
		return sum / 120
	}
	none, much := stretch(0), stretch(60)
	t.Logf("ways of the pairs with traffic are %.3f times the direct round trip, with their demands known %.3f", none, much)
	if much > 0.97*none {
		t.Error("demands don't matter")
	}
}

// A peer takes what it must, and what it has room for.
func TestAccept(t *testing.T) {
	t.Parallel()
	f := Facts{Agents: agents(30)}
	f.Agents[2].Rules = []Rule{{Peer: 0, Forbid: true}}
	v, c := mustView(t, f), New(id(0))
	for _, x := range []struct {
		peer  overlay.AgentID
		why   Reason
		links int
		want  Reason
	}{
		{id(1), Gain, 0, Gain},
		{id(1), Gain, 7, Gain},
		{id(1), Gain, 8, CapReached}, // three of its own are to come, and one of the ring
		{id(1), Ring, 11, Ring},
		{id(1), Ring, 12, Ring}, // from when there were few agents
		{id(1), Ring, 20, CapReached},
		{id(2), Ring, 0, Forbidden},
		{id(40), Ring, 0, Gone},
	} {
		if why, ok := c.Accept(v, x.peer, x.why, x.links); why != x.want || ok != (x.why == x.want) {
			t.Errorf("with %d links, for %v: %v %v, want %v", x.links, x.why, why, ok, x.want)
		}
	}
}

// Nominees are the useful, the near, some by hash that stay for an hour, and the busy;
// bounded, each once, and with nobody who has a link.
func TestNominees(t *testing.T) {
	t.Parallel()
	f := Facts{Agents: agents(100)}
	f.Agents[5].Rules = []Rule{{Peer: 9, Forbid: true}}
	for i := range 99 {
		f.Links = append(f.Links, Link{A: i, B: i + 1, Cost: 1000, By: [2]Hold{Holds, Accepts}})
	}
	v := mustView(t, f)
	told := make([]int32, 100)
	for j := range told {
		told[j] = int32(5000 - 10*j)
	}
	told[60] = 0
	a := v.Nominees(5, 100, told, []int{20, 21, 20, -1, 100, 24, 25, 26, 27, 28, 29})
	if len(a) < mostUseful+mostNear+mostRandom || len(a) > MaxNominees {
		t.Errorf("%d nominees", len(a))
	}
	for _, j := range []int{4, 5, 6, 9} {
		if slices.Contains(a, j) {
			t.Errorf("%d is nominated", j)
		}
	}
	for _, j := range []int{99, 98, 97, 96, 20, 21, 24} {
		if !slices.Contains(a, j) {
			t.Errorf("%d isn't nominated: %v", j, a)
		}
	}
	sorted := slices.Clone(a)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(a) {
		t.Error("one is nominated twice")
	}
	changes := 0
	for epoch := range int64(2 * chanceAge) {
		if !slices.Equal(v.Nominees(5, epoch, told, nil), v.Nominees(5, epoch+1, told, nil)) {
			changes++
		}
	}
	if changes != 2 {
		t.Errorf("%d changes in two hours, want 2", changes)
	}
	if v.Nominees(-1, 0, nil, nil) != nil || len(v.Nominees(5, 0, nil, nil)) != mostRandom {
		t.Error("with nothing known others are nominated than those by chance")
	}
}
