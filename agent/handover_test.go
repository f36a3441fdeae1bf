package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"farlan/overlay"
)

// A moving is a village where station vm is at agent 1 and may move to agent 4, and pi is at 0.
type moving struct {
	*village
	vm, pi overlay.MAC
}

func newMoving(t *testing.T) *moving {
	v := newVillage(t, 5, 5, 0)
	v.run(5 * time.Second)
	m := &moving{v, overlay.MAC{2, 0, 0, 0, 9, 1}, overlay.MAC{2, 0, 0, 0, 9, 2}}
	v.says(1, m.vm, overlay.Broadcast)
	v.says(0, m.pi, overlay.Broadcast)
	v.run(time.Second)
	return m
}

// prepare has agent i know that the station will move to or from agent j, and ask that.
func (m *moving) prepare(i, j int, lease time.Duration) (*handover, error) {
	n, p := m.homes[i].n, m.peer(i, j)
	x, err := n.prepare(n.now(), m.vm, p, lease)
	n.tellHandover(n.now(), p, overlay.Handover{Kind: overlay.HandoverPrepare, MAC: m.vm, Lease: lease})
	m.pass(50 * time.Millisecond)
	return x, err
}

// pass lets time pass in which it is looked at handovers.
func (m *moving) pass(d time.Duration) {
	for range d / villageTick {
		m.run(villageTick)
		for _, h := range m.homes {
			h.n.lookAtHandovers(h.n.now())
		}
	}
}

// count has the station's hypervisor seem to have read so many frames.
func (m *moving) count(x *handover, file string, reads int) {
	m.t.Helper()
	if err := os.WriteFile(file, []byte(strconv.Itoa(reads)+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if x.reads.Load() == nil {
		f, err := os.Open(file)
		if err != nil {
			m.t.Fatal(err)
		}
		x.reads.Store(&tapReads{"tap", f})
	}
}

// What was written for a station and not read there goes after it when it speaks elsewhere,
// and what was read doesn't.
func TestHandover(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tx_packets")
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t)
		x, err := m.prepare(1, 4, time.Minute)
		if err != nil || m.homes[4].n.moving.of(m.vm) == nil {
			t.Fatalf("%v, agent 4 knows %v", err, m.homes[4].n.moving.of(m.vm))
		}
		m.count(x, file, 3)
		m.pass(50 * time.Millisecond)
		before, there := m.homes[1].port.frames, m.homes[4].port.frames
		for range 4 { // all read
			m.says(0, m.pi, m.vm)
			m.pass(20 * time.Millisecond)
		}
		m.count(x, file, 7)
		m.pass(20 * time.Millisecond)
		for range 5 { // it has stopped
			m.says(0, m.pi, m.vm)
			m.pass(20 * time.Millisecond)
		}
		if got := m.homes[1].port.frames - before; got != 9 {
			t.Errorf("%d of 9 were written where it is", got)
		}
		if got := m.homes[4].port.frames - there; got != 0 {
			t.Errorf("%d were written where it isn't", got)
		}
		m.says(4, m.vm, m.pi)
		m.pass(100 * time.Millisecond)
		if got := m.homes[4].port.frames - there; got != 5 {
			t.Errorf("%d of the 5 that it can't have got came after it", got)
		}
		for i, h := range m.homes {
			if h.n.moving.now.Load() != nil {
				t.Errorf("agent %d doesn't forget it", i)
			}
		}
	})
}

// When it is said that a station has stopped, what comes for it waits where it is to go, and
// is written there when it speaks; without a count too. It is asked for at the agent that it
// comes to.
func TestHandoverStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t)
		if _, err := m.prepare(4, 1, time.Minute); err != nil {
			t.Fatal(err)
		}
		n := m.homes[1].n
		x := n.moving.of(m.vm)
		if x == nil || x.comes {
			t.Fatalf("agent 1 has %+v", x)
		}
		n.stop(n.now(), x)
		here, there := m.homes[1].port.frames, m.homes[4].port.frames
		for range 3 {
			m.says(0, m.pi, m.vm)
			m.pass(50 * time.Millisecond)
		}
		if m.homes[1].port.frames != here || m.homes[4].port.frames != there {
			t.Error("they were written")
		}
		if err := m.homes[4].n.arrive(m.homes[4].n.now(), m.vm); err != nil { // it needn't speak
			t.Error(err)
		}
		m.pass(50 * time.Millisecond)
		if got := m.homes[4].port.frames - there; got != 3 {
			t.Errorf("%d of 3 were written", got)
		}
		m.says(0, m.pi, m.vm)
		m.pass(50 * time.Millisecond)
		if got := m.homes[4].port.frames - there; got != 4 {
			t.Errorf("%d of 4 were written", got)
		}
	})
}

// A station that doesn't move gets its frames as ever when the lease ends, or that of its stop,
// or somebody aborts; and what was kept is counted.
func TestHandoverEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t)
		for what, end := range map[string]func(n *node, x *handover){
			"the lease": func(*node, *handover) { m.pass(10 * time.Second) },
			"the stop": func(n *node, x *handover) {
				x.until.Add(int64(time.Hour))
				n.stop(n.now(), x)
				m.pass(stoppedFor + time.Second)
			},
			"its own word": func(n *node, x *handover) {
				n.stop(n.now(), x)
				m.pass(time.Second)
				m.says(1, m.vm, m.pi)
				m.pass(villageTick)
			},
			"abort": func(n *node, x *handover) {
				n.handover(n.now(), x.peer, overlay.Handover{Kind: overlay.HandoverAbort, MAC: m.vm})
			},
		} {
			x, err := m.prepare(1, 4, 9*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			n := m.homes[1].n
			m.says(1, m.vm, m.pi) // it is alive
			end(n, x)
			if n.moving.now.Load() != nil {
				t.Errorf("%s: it is still prepared", what)
			}
			before := m.homes[1].port.frames
			m.says(0, m.pi, m.vm)
			m.pass(50 * time.Millisecond)
			if got := m.homes[1].port.frames - before; got != 1 {
				t.Errorf("%s: %d of 1 were written", what, got)
			}
			m.pass(2 * time.Minute)
		}
	})
}

// Peers can have nothing prepared that isn't theirs, or without end, nor too much of it.
func TestHostileHandovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t)
		n := m.homes[2].n
		say := func(from int, h overlay.Handover) { n.handover(n.now(), m.peer(2, from), h) }
		say(3, overlay.Handover{Kind: overlay.HandoverPrepare, MAC: m.vm, Lease: time.Minute})
		say(3, overlay.Handover{Kind: overlay.HandoverReady, MAC: m.vm})
		say(3, overlay.Handover{Kind: overlay.HandoverPrepare, MAC: overlay.MAC{2, 7}, Lease: time.Minute})
		if n.moving.now.Load() != nil {
			t.Error("a station that isn't there comes from an agent")
		}
		say(1, overlay.Handover{Kind: overlay.HandoverPrepare, MAC: m.vm, Lease: time.Minute})
		say(3, overlay.Handover{Kind: overlay.HandoverAbort, MAC: m.vm})
		if n.moving.of(m.vm) == nil {
			t.Error("another agent's word ends it")
		}
		for i := range 3 * maxHandovers {
			mac := overlay.MAC{2, 0, 0, 0, 10, byte(i)}
			m.says(1, mac, overlay.Broadcast)
			m.run(villageTick)
		}
		m.run(time.Second)
		for i := range 3 * maxHandovers {
			say(1, overlay.Handover{Kind: overlay.HandoverPrepare, MAC: overlay.MAC{2, 0, 0, 0, 10, byte(i)}, Lease: time.Minute})
		}
		if got := len(*n.moving.now.Load()); got != maxHandovers {
			t.Errorf("%d are prepared", got)
		}
		allowed := 0
		for range 10 * handoverBurst {
			if n.moving.allow(n.now()) {
				allowed++
			}
		}
		if allowed > handoverBurst {
			t.Errorf("%d at once are taken", allowed)
		}
		m.pass(2 * time.Minute)
		if n.moving.now.Load() != nil {
			t.Error("they stay for ever")
		}
	})
}
