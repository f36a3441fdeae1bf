package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"farlan/overlay"
)

// at returns where agent i has station m: the number of an agent, or -1.
func (v *village) at(i int, m overlay.MAC) int {
	n := v.homes[i].n
	to, ok := n.sw.Stations.Lookup(n.now(), m)
	if _, here := to.Port(); ok && here {
		return i
	}
	if p := n.view.Load().peer(to); ok && p != nil {
		return v.index[p.id]
	}
	return -1
}

// says has station m speak at agent i, to all or to another one.
func (v *village) says(i int, m, to overlay.MAC) {
	n := v.homes[i].n
	v.homes[i].out.carry(n.now(), n.view.Load(), 0, []overlay.Frame{{Head: ethernet(to, m, 100)}})
}

// A station that speaks at another agent is there for all after one way through the network,
// what was sent to where it was is sent after it, and what it said there before and comes late
// doesn't bring it back.
func TestStationMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 5, 5, 0)
		v.run(5 * time.Second)
		vm, pi := overlay.MAC{2, 0, 0, 0, 9, 1}, overlay.MAC{2, 0, 0, 0, 9, 2}
		v.says(1, vm, overlay.Broadcast)
		v.says(0, pi, overlay.Broadcast)
		v.run(5 * time.Second)
		everywhere := func(where int) {
			t.Helper()
			for i := range v.homes {
				if got := v.at(i, vm); got != where {
					t.Errorf("agent %d has the station at %d", i, got)
				}
			}
		}
		everywhere(1)
		home := v.homes[0]
		v.says(4, vm, overlay.MAC{2, 9}) // to nobody: a station that is silent otherwise
		v.run(v.delay(0, 4) + villageTick)
		everywhere(4)
		v.run(100 * time.Millisecond)
		before := v.homes[4].port.frames
		v.says(0, pi, vm)
		v.run(v.delay(0, 4) + 2*villageTick)
		if got := v.homes[4].port.frames - before; got != 1 {
			t.Errorf("%d of 1 frames arrived", got)
		}
		p := v.peer(0, 1)
		home.n.sw.Stations.Learn(home.n.now(), vm, p.place()) // a late one
		everywhere(4)
		v.sendAfter(vm, pi)
	})
}

// sendAfter has a frame for a station arrive where it was: it reaches it.
func (v *village) sendAfter(vm, pi overlay.MAC) {
	v.t.Helper()
	before, wrong := v.homes[2].port.frames, v.homes[4].port.frames
	v.cut = func(from, to int) bool { return from == 2 && to == 0 }
	defer func() { v.cut = nil }()
	v.says(2, vm, overlay.Broadcast)
	v.run(2 * villageTick)
	if v.at(4, vm) != 2 || v.at(0, vm) != 4 {
		v.t.Fatalf("agent 4 has it at %d, agent 0 at %d: nothing is late", v.at(4, vm), v.at(0, vm))
	}
	v.says(0, pi, vm)
	v.run(200 * time.Millisecond)
	if got := v.homes[2].port.frames - before; got != 1 {
		v.t.Errorf("%d of 1 frames came after it", got)
	}
	if got := v.homes[4].port.frames - wrong; got != 1 { // the broadcast
		v.t.Errorf("%d frames at the port that it left", got)
	}
}

// Stations can't make claims, and those of members that make no sense are counted.
func TestHostileClaims(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 3, 3, 0)
		v.run(5 * time.Second)
		m := overlay.MAC{2, 0, 0, 0, 9, 1}
		v.says(1, m, overlay.Broadcast)
		v.run(time.Second)
		a := v.homes[2]
		a.out.carry(a.n.now(), a.n.view.Load(), 0, []overlay.Frame{{Head: overlay.AppendClaims(nil, []overlay.Claim{{MAC: m, Sequence: 1 << 30}}, false)}})
		v.run(time.Second)
		if got := v.at(0, m); got != 1 {
			t.Errorf("a machine's claim is believed: the station is at %d", got)
		}
		if a.n.drops.count(overlay.DropClaims) == 0 {
			t.Error("it isn't counted")
		}
		frame := overlay.AppendClaims(nil, []overlay.Claim{{MAC: m, Sequence: 1}}, false)
		frame[overlay.MinFrame] = 9
		o := a.n.loopOut(a.n.now())
		o.flood(a.n.view.Load(), &overlay.Frame{Head: frame})
		o.flush()
		v.run(100 * time.Millisecond)
		if n := v.homes[0].n; n.drops[dropMalformed].Load() != 1 || v.homes[0].port.frames != 1 {
			t.Errorf("claims of another version: %v, %d frames written", n.drops.views(), v.homes[0].port.frames)
		}
	})
}
