package agent

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
)

// few are sizes by which twenty agents are too many for one area.
var few = decide.Sizes{Whole: 16, Most: 12, Least: 3, Join: 12}

// reachAll fails unless the broadcasts of all reach all others once.
func (w *town) reachAll() {
	w.t.Helper()
	for i, h := range w.homes {
		if h.down {
			continue
		}
		if missed, twice := w.broadcast(i); missed != nil || twice != nil {
			w.t.Errorf("broadcast of %d: %v missed it, %v heard it again", i, missed, twice)
			w.why(append(append(missed, twice...), i)...)
		}
	}
}

// chat fails unless frames of two agents' stations go to and fro.
func (w *town) chat(i, j int, within time.Duration) {
	w.t.Helper()
	began := time.Now()
	if !w.tell(i, j, within) || !w.tell(j, i, within) {
		w.t.Errorf("%d and %d don't reach each other", i, j)
		w.why(i, j)
	}
	w.t.Logf("%d and %d reach each other after %v", i, j, time.Since(began))
}

// Agents that remember three areas join them by gateways: each then hears what each floods
// once, and frames between areas go to and fro.
func TestAcrossAreas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 20, few, func(i int) uint32 { return uint32(1 + i/7) })
		w.run(70 * time.Second)
		w.reachAll()
		for _, c := range [][2]int{{0, 19}, {1, 12}, {18, 2}} {
			w.chat(c[0], c[1], 3*time.Second)
		}
		for i, h := range w.homes {
			if len(h.n.peers) > 6+8+8 {
				t.Errorf("%d knows %d others: more than its area, gateways and whom it talked with", i, len(h.n.peers))
			}
		}
		w.run(overlay.RekeyAfter + overlay.RejectAfter + usedFor + 2*farIdle)
		for i, h := range w.homes {
			for _, p := range h.n.peers {
				if _, _, gateway := h.n.store.Gateway(p.id); p.far && !gateway {
					t.Errorf("%d still knows %d, with which it talked long ago", i, w.index[p.id])
				}
			}
		}
	})
}

// Where no datagram passes between areas but among gateways, frames go by these, and go on
// when one of them dies.
func TestByGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		area := func(i int) uint32 { return uint32(1 + i/7) }
		w := newTown(t, 20, few, area)
		w.cut = func(i, j int) bool {
			return area(i) != area(j) && (w.homes[i].n.area.gate == nil || w.homes[j].n.area.gate == nil)
		}
		w.run(70 * time.Second)
		w.reachAll()
		var plain []int // of each area one that is no gateway
		gates := w.gateways()
		for i := range w.homes {
			if !slices.Contains(gates, i) && (len(plain) == 0 || area(plain[len(plain)-1]) != area(i)) {
				plain = append(plain, i)
			}
		}
		w.chat(plain[0], plain[2], 3*time.Second)
		w.chat(plain[1], plain[0], 3*time.Second)
		p := w.peer(plain[0], plain[2])
		if p == nil || p.direct() || len(p.out.Load().between) < 1 {
			t.Fatalf("the path from %d to %d: %+v", plain[0], plain[2], p)
		}
		w.gatewayDies(plain)
	})
}

// Where the gateway by which floods enter an area is reached by another of that area alone,
// both hear them.
func TestEntryBehindGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		area := func(i int) uint32 { return uint32(1 + i/7) }
		w := newTown(t, 20, few, area)
		w.run(70 * time.Second)
		entry := w.entry(3, area)
		w.cut = func(i, j int) bool { return area(i) != area(j) && (i == entry || j == entry) }
		w.run(time.Minute)
		if now := w.entry(3, area); now != entry {
			t.Fatalf("floods enter by %d, and before by %d", now, entry)
		}
		for _, p := range w.homes[entry].n.spread.now.Load().far.between {
			for _, q := range p.parents {
				if i := w.index[q.id]; area(i) != 3 {
					t.Errorf("what is flooded comes to %d from %d of another area", entry, i)
				}
			}
		}
		w.reachAll()
	})
}

// entry returns the gateway by which floods enter an area.
func (w *town) entry(number uint32, area func(int) uint32) int {
	for i, h := range w.homes {
		if area(i) == number && h.n.spread.now.Load().far.entry {
			return i
		}
	}
	w.t.Fatalf("floods enter area %d nowhere", number)
	return -1
}

// gatewayDies kills the gateway by which two talk, and that by which floods enter an area.
func (w *town) gatewayDies(plain []int) {
	dead := w.index[w.peer(plain[0], plain[2]).out.Load().between[0]]
	for i, h := range w.homes {
		if is := h.n.spread.now.Load(); dead < 0 && is.far.entry {
			dead = i
		}
	}
	w.t.Logf("%d dies", dead)
	w.homes[dead].down = true
	began := time.Now()
	for !w.tell(plain[0], plain[2], time.Second) {
		if time.Since(began) > 15*time.Second {
			w.t.Error("nothing gets through")
			w.why(plain[0], plain[2])
			return
		}
	}
	w.t.Logf("frames go on after %v", time.Since(began))
	for {
		missed, twice := w.broadcast(plain[0])
		if missed == nil && twice == nil {
			break
		}
		if twice != nil || time.Since(began) > 40*time.Second {
			w.t.Errorf("%v missed a broadcast, %v heard it again", missed, twice)
			w.why(missed...)
			return
		}
	}
	w.t.Logf("broadcasts reach all after %v", time.Since(began))
	w.reachAll()
}

// A network that grows divides into areas; one that shrinks is one again.
func TestDivideAndJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 20, decide.Usual, nil)
		w.run(2 * time.Minute)
		w.resize(few)
		for began := time.Now(); len(w.areas()[0]) > 0 || len(w.areas()) < 2; {
			if w.run(5 * time.Second); time.Since(began) > 5*time.Minute {
				t.Fatalf("not divided: %v", w.areas())
			}
		}
		t.Logf("areas: %v", w.areas())
		w.run(5 * time.Minute)
		t.Logf("areas: %v, gateways %v", w.areas(), w.gateways())
		w.reachAll()
		for i := range 10 {
			w.homes[2*i].down = true
		}
		began := time.Now()
		for len(w.areas()) > 1 {
			if w.run(10 * time.Second); time.Since(began) > 15*time.Minute {
				t.Fatalf("not joined: %v", w.areas())
			}
		}
		t.Logf("after %v one area: %v", time.Since(began), w.areas())
		w.run(5 * time.Minute)
		for _, h := range w.homes {
			if !h.down && h.n.divided() {
				t.Errorf("%s is in an area: %v", h.n.cfg.Name, w.areas())
			}
		}
		w.reachAll()
	})
}

// A member that says that it is the gateway of an area with agents of others isn't believed.
// Two that say so of the same area attract their frames for seconds only, and take nobody's
// place.
func TestLiarAmongGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		area := func(i int) uint32 { return uint32(1 + i/7) }
		w := newTown(t, 20, few, area)
		w.cut = func(i, j int) bool {
			return area(i) != area(j) && (w.homes[i].n.area.gate == nil || w.homes[j].n.area.gate == nil)
		}
		w.run(70 * time.Second)
		w.reachAll()
		gates := w.gateways()
		var plain []int
		for i := range w.homes {
			if !slices.Contains(gates, i) {
				plain = append(plain, i)
			}
		}
		victim := w.homes[plain[len(plain)-1]].n
		for liars, want := range []uint32{area(w.index[victim.self]), 99} {
			liar := w.homes[plain[1+liars]].n
			lie := discovery.Area{Number: 99, Size: 500, Member: liar.memberRecord(99)}
			for _, h := range w.homes {
				if h.n != liar {
					lie.Tree = append(lie.Tree, discovery.Leaf{Agent: discovery.BriefOf(h.n.self), Label: h.n.label, Parent: -1})
				}
			}
			liar.publishArea(lie)
			w.run(5 * time.Second)
			if got, _ := w.homes[plain[0]].n.beyond().Area(discovery.BriefOf(victim.self)); got != want {
				t.Fatalf("with %d liars the victim is in area %d, want %d", liars+1, got, want)
			}
		}
		began := time.Now()
		for !w.tell(plain[0], w.index[victim.self], time.Second) {
			if time.Since(began) > 15*time.Second {
				w.why(plain[0], w.index[victim.self])
				t.Fatal("the victim isn't reached")
			}
		}
		t.Logf("the victim is reached after %v", time.Since(began))
		for range 30 {
			if !w.tell(plain[0], w.index[victim.self], time.Second) {
				t.Error("frames are lost again")
			}
		}
		w.reachAll()
	})
}
