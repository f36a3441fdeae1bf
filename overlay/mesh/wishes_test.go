package mesh

import (
	"slices"
	"testing"

	"farlan/overlay"
)

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
		for range 30 {
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
	const every = chanceAge / 20
	for epoch := int64(0); epoch < 2*chanceAge; epoch += every {
		if !slices.Equal(v.Nominees(5, epoch, told, nil), v.Nominees(5, epoch+every, told, nil)) {
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
