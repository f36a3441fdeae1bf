package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/segment"
)

// A lease is over when its time is, by the clock as it was after the batch was read; a port
// that takes no part has none.
func TestLeased(t *testing.T) {
	var g leased
	if !g.open(0) || !g.open(1<<60) {
		t.Error("a port that takes no part doesn't forward")
	}
	for until, want := range map[overlay.Instant]bool{0: false, closed: false, 100: false, 101: true} {
		if g.allow(until); g.open(100) != want {
			t.Errorf("until %d it is open at 100: %v", until, !want)
		}
	}
	if g.allow(101); g.open(0) {
		t.Error("who doesn't know the time forwards")
	}
	before := bootClock()
	time.Sleep(time.Millisecond)
	if d := bootClock().Sub(before); d < time.Millisecond || d > time.Minute {
		t.Errorf("a millisecond took %v", d)
	}
}

// share has port 0 of an agent take part in a segment.
func (n *node) share() *guarded {
	g := n.guarded(0, n.ports[0])
	n.segments.ports = []*guarded{g}
	n.segments.guards.Store(true)
	g.port.gate.allow(closed)
	return g
}

// An agent is ready when each of its ports knows whether it forwards.
func TestReadyOncePortsForward(t *testing.T) {
	m := newMirror(t)
	if !m.n.mindSegments() {
		t.Error("a port that takes no part keeps it from being ready")
	}
	g := m.n.share()
	if m.n.mindSegments() || m.n.stateOf(nil) != "starting" {
		t.Error("it is ready while its port listens")
	}
	for began := bootClock(); !m.n.mindSegments() && bootClock().Sub(began) < 10*time.Second; {
		time.Sleep(segmentTick)
	}
	if r := g.Role(bootClock()); r != segment.Forwarding {
		t.Errorf("it is settled, and the port is %v", r)
	}
	if m.n.announce(); m.n.stateOf(nil) != "ready" {
		t.Error("it isn't ready after it said so")
	}
}

// Beacons of members are taken from ports and go nowhere, whatever else happens to the frame
// path; those of other networks are frames like others; those that are forged change nothing.
func TestBeaconsStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 3, 3, 0)
		v.run(5 * time.Second)
		a, far := v.homes[0], v.homes[1]
		g := a.n.share()
		for end := bootClock().Add(5 * time.Second); a.port.frames < 3 && bootClock() < end; {
			a.n.mindSegments() // by the real clock, which doesn't stand still in a bubble
		}
		if a.port.frames == 0 {
			t.Fatal("it sends no beacons")
		}
		keys := *a.n.segments.keys.Load()
		stranger := segment.Key(discovery.NetworkKey{9}.SegmentKey())
		b := segment.Beacon{Name: segment.Name{Agent: overlay.AgentID{1}}, Epoch: 1, Number: 1, Wall: a.n.wall(), Able: true, Forwarding: true}
		b.Leader = b.Tag()
		says := func(k segment.Key) int {
			b.Number++
			before := far.port.frames
			a.out.carry(a.n.now(), a.n.view.Load(), 0, []overlay.Frame{{Head: b.Append(nil, overlay.MAC{2, 7}, &k)}})
			v.run(200 * time.Millisecond)
			return far.port.frames - before
		}
		g.port.gate.until.Store(0) // as if it led
		if got := says(stranger); got != 1 {
			t.Errorf("%d of another network's beacons came to a far port", got)
		}
		if len(g.Others()) != 0 {
			t.Errorf("a stranger's is believed: %+v", g.Others())
		}
		if got := says(keys[0]); got != 0 {
			t.Errorf("%d of a member's beacons came to a far port", got)
		}
		if len(g.Others()) != 1 || a.n.forwards(0) {
			t.Errorf("it hears %+v, and forwards %v", g.Others(), a.n.forwards(0))
		}
		a.out.carry(a.n.now(), a.n.view.Load(), 0, []overlay.Frame{{Head: ethernet(overlay.Broadcast, overlay.MAC{2, 8}, 100)}})
		before := far.port.frames
		if v.run(200 * time.Millisecond); far.port.frames != before || g.heard[overlay.MAC{2, 8}] == 0 || a.n.drops[dropStandby].Load() == 0 {
			t.Errorf("a frame at a port that stands by: %d came, heard %v", far.port.frames-before, g.heard)
		}
	})
}

// What another agent forwards for a LAN with many machines is remembered within bounds.
func TestOverhearIsBounded(t *testing.T) {
	g := &guarded{heard: make(map[overlay.MAC]overlay.Instant)}
	for i := range 3 * maxHeard {
		g.hear(1, overlay.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	if len(g.heard) != maxHeard {
		t.Errorf("%d stations", len(g.heard))
	}
}

// A few frames that come back block no port, nor do many in a short while; others do, for ever
// longer as long as it doesn't end.
func TestCircle(t *testing.T) {
	self := overlay.AgentID{31: 1}
	var c circle
	now := overlay.Instant(time.Hour)
	for range 1000 {
		if c.back(now, self) {
			t.Fatal("blocked at once")
		}
	}
	for range 100 { // now and then
		if now = now.Add(circlePause); c.back(now, self) {
			t.Fatal("blocked for a frame now and then")
		}
	}
	if !c.over(now.Add(circlePause)) || c.over(now.Add(circlePause)) {
		t.Error("that it is over isn't told once")
	}
	blocked := func() time.Duration {
		began := now
		for !c.back(now, self) {
			now = now.Add(10 * time.Millisecond)
		}
		if took := now.Sub(began); took > circleLeast+circleSpread+10*time.Millisecond {
			t.Errorf("blocked after %v", took)
		}
		return c.until.Sub(now)
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 32} {
		now = now.Add(circlePause)
		if got := blocked(); got != want*circleHold {
			t.Errorf("blocked for %v, want %v", got, want*circleHold)
		}
		now = c.until
	}
	now = now.Add(time.Hour)
	if got := blocked(); got != circleHold {
		t.Errorf("after an hour blocked for %v", got)
	}
}
