package agent

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"farlan/overlay"
)

// When the direct path between two areas comes to take 200 ms there and back, and that by gateways
// much less, urgent frames go by gateways and stay there; when a gateway dies they go on.
func TestBypassesTheDirectPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		area := func(i int) uint32 { return uint32(1 + i/7) }
		w := newTown(t, 20, few, area)
		w.run(90 * time.Second)
		w.reachAll()
		gates := w.gateways()
		var plain []int // of each area one that is no gateway
		for i := range w.homes {
			if !slices.Contains(gates, i) && (len(plain) == 0 || area(plain[len(plain)-1]) != area(i)) {
				plain = append(plain, i)
			}
		}
		from, to := plain[0], plain[2]
		w.chat(from, to, 3*time.Second)
		n := w.homes[from].n // the handshake went by gateways: what the record says is no address here
		n.sessions.Divert(w.homes[to].n.self, overlay.Direct(w.homes[from].to[to].addr))
		w.homes[to].n.sessions.Divert(n.self, overlay.Direct(w.homes[to].to[from].addr))
		if w.run(5 * time.Second); !w.peer(from, to).direct() {
			t.Fatal("it isn't reached directly at first")
		}
		w.slow = func(i, j int) bool {
			return area(i) != area(j) && (w.homes[i].n.area.gate == nil || w.homes[j].n.area.gate == nil)
		}
		bypassed := func() []overlay.AgentID {
			if r := w.peer(from, to).detour(overlay.ClassDelay); r != nil {
				return r.ids
			}
			return nil
		}
		began := time.Now()
		for bypassed() == nil {
			if w.tell(from, to, time.Second); time.Since(began) > 30*time.Second {
				p := w.peer(from, to)
				t.Fatalf("the direct path is kept: %v, %+v", p.pair(n.now()).RTT, p.bypass)
			}
		}
		t.Logf("by %d agents after %v", len(bypassed()), time.Since(began))
		if !w.peer(from, to).direct() {
			t.Error("it isn't reached directly")
		}
		first, changes := bypassed(), 0
		for range 60 {
			if w.run(time.Second); !w.tell(from, to, time.Second) {
				t.Error("a frame is lost")
			}
			if now := bypassed(); !slices.Equal(now, first) {
				first = now
				changes++
			}
		}
		if changes > 1 {
			t.Errorf("the path changes %d times", changes)
		}
		if first == nil {
			t.Fatal("the direct path is taken again")
		}
		w.homes[w.index[first[1]]].down = true
		began = time.Now()
		for !w.tell(from, to, time.Second) {
			if time.Since(began) > 10*time.Second {
				w.why(from, to)
				t.Fatal("nothing gets through after a gateway died")
			}
		}
		t.Logf("frames go on %v after one on the path died", time.Since(began))
	})
}
