package overlay

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func TestSessionsMeet(t *testing.T) {
	w := newWorld(t, 1, 5)
	w.introduce()
	w.run(700 * time.Millisecond)
	w.mustReach()
}

func TestSessionsMeetOnBadPaths(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newWorld(t, seed, 4)
			w.loss, w.double, w.delay = 0.3, 0.1, 150*time.Millisecond
			w.introduce()
			w.run(30 * time.Second)
			w.loss = 0
			w.run(2 * time.Second)
			w.mustReach()
		})
	}
}

// Both begin at the same instant, and the handshakes cross.
func TestSessionsCross(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, 2)
		w.introduce()
		for _, a := range w.agents {
			for _, c := range a.s.contacts {
				c.begin = w.now
			}
		}
		w.run(time.Second)
		w.mustReach()
		first := w.agents[0].current[w.agents[1].id]
		if other := w.agents[1].current[w.agents[0].id]; first.LocalIndex() != other.RemoteIndex() {
			t.Errorf("seed %d: the agents chose different sessions", seed)
		}
		w.run(10 * time.Minute) // through several renewals
		w.mustReach()
	}
}

// Answers that take longer than the patience of whoever asked: several
// handshakes are under way at once, and both sides end with a session that the
// other one has, too.
func TestSessionsOnSlowMachines(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newWorld(t, seed, 3)
			w.loss, w.delay = 0.1, 2*time.Second
			w.introduce()
			w.run(40 * time.Second)
			w.loss = 0
			w.mustReach()
		})
	}
}

func TestSessionsRenewWithoutGap(t *testing.T) {
	w := newWorld(t, 2, 3)
	w.introduce()
	w.run(2 * time.Second)
	first := w.agents[0].current[w.agents[1].id]
	for range 400 {
		w.run(time.Second)
		w.mustReach()
	}
	if w.agents[0].current[w.agents[1].id] == first {
		t.Error("the keys were never renewed")
	}
	if first.Seal(KindData, 0, make([]byte, HeaderLen+1, 100)) != nil {
		t.Error("keys of long ago still work")
	}
	for _, a := range w.agents {
		if n := len(a.s.index); n > (1+maxOlder+2*maxPending)*len(a.s.contacts) {
			t.Errorf("%d sessions and initiations of %d contacts", n, len(a.s.contacts))
		}
	}
}

func TestSessionsAfterRestart(t *testing.T) {
	w := newWorld(t, 3, 3)
	w.introduce()
	w.run(5 * time.Second)
	w.start(w.agents[1], 99) // all its keys are lost
	w.introduce()
	w.run(2 * time.Second)
	w.mustReach()
}

func TestSessionsAfterSilence(t *testing.T) {
	w := newWorld(t, 4, 2)
	w.introduce()
	w.run(time.Second)
	a, b := w.agents[0], w.agents[1]
	w.loss = 1
	a.s.Lost(w.now, b.id)
	b.s.Lost(w.now, a.id)
	w.run(5 * time.Minute)
	w.loss = 0
	w.run(retryMax + time.Second)
	w.mustReach()
}

func TestSessionsFollowAnAddress(t *testing.T) {
	w := newWorld(t, 5, 2)
	w.introduce()
	w.run(time.Second)
	w.agents[1].addr = netip.MustParseAddrPort("10.9.9.9:1234")
	w.run(3 * time.Second)
	w.mustReach()
}

// Two members between whom nothing passes meet by way of a third one; as soon as
// a datagram comes directly, that is the way, and what is still relayed doesn't
// turn it back.
func TestSessionsByWayOfAnother(t *testing.T) {
	w := newWorld(t, 9, 3)
	a, b, c := w.agents[0], w.agents[1], w.agents[2]
	w.cut = func(from, to netip.AddrPort) bool { return from != c.addr && to != c.addr }
	w.introduce()
	a.s.Relays(b.id, []AgentID{c.id})
	b.s.Relays(a.id, []AgentID{c.id})
	w.run(3 * time.Second)
	w.mustReach()
	way := func(of, to *resident) (way Way) {
		of.s.Live(func(l Live) {
			if l.Current && l.Session.Peer() == to.id {
				way = l.Way
			}
		})
		return way
	}
	if way(a, b) != Relayed(c.id) || way(b, a) != Relayed(c.id) {
		t.Fatalf("not by way of c: %v, %v", way(a, b), way(b, a))
	}
	w.run(2 * RekeyAfter) // new keys go the same way
	w.mustReach()

	w.cut = nil
	b.s.Live(func(l Live) {
		if l.Current && l.Session.Peer() == a.id {
			b.s.Heard(w.now, l.Session, Direct(a.addr))
			b.s.Heard(w.now, l.Session, Relayed(c.id))
		}
	})
	if way(b, a) != Direct(a.addr) {
		t.Errorf("not direct: %v", way(b, a))
	}
	b.s.Divert(a.id, Relayed(c.id))
	if way(b, a) != Relayed(c.id) {
		t.Errorf("not diverted: %v", way(b, a))
	}
	w.mustReach()
}

func TestSessionsForget(t *testing.T) {
	w := newWorld(t, 6, 2)
	w.introduce()
	w.run(time.Second)
	a, b := w.agents[0], w.agents[1]
	a.s.Forget(b.id)
	if len(a.s.index) != 0 || len(a.s.contacts) != 0 {
		t.Errorf("something is left: %d, %d", len(a.s.index), len(a.s.contacts))
	}
	if err := w.reaches(b, a); err == nil {
		t.Error("a forgotten member's datagrams still open")
	}
}

// A captured initiation is answered once; an answer that nobody waits for, and
// what strangers send, changes nothing.
func TestSessionsRefuse(t *testing.T) {
	w := newWorld(t, 7, 2)
	w.introduce()
	a, b := w.agents[0], w.agents[1]
	a.s.Tick(w.now)
	var initiation []byte
	a.s.Flush(func(_ AgentID, _ Way, d []byte) { initiation = bytes.Clone(d) })
	if err := b.s.Receive(w.now, Direct(a.addr), bytes.Clone(initiation)); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	b.s.Flush(func(_ AgentID, _ Way, d []byte) { answer = bytes.Clone(d) })
	for range 3 {
		if err := b.s.Receive(w.now, Direct(a.addr), bytes.Clone(initiation)); err == nil {
			t.Error("a replayed initiation was taken")
		}
	}
	if err := b.s.Receive(w.now, Direct(a.addr), bytes.Clone(answer)); err == nil {
		t.Error("an answer came to its sender, and was taken")
	}
	forged := bytes.Clone(initiation)
	forged[len(forged)-1] ^= 1
	if err := b.s.Receive(w.now, Direct(a.addr), forged); err == nil {
		t.Error("a forged initiation was taken")
	}
	b.s.Flush(func(AgentID, Way, []byte) { t.Error("something was answered") })
	if err := a.s.Receive(w.now, Direct(b.addr), bytes.Clone(answer)); err != nil {
		t.Error(err)
	}
	if err := a.s.Receive(w.now, Direct(b.addr), answer); err == nil {
		t.Error("an answer was taken twice")
	}
}

// More members than handshakes a second, most of them dead: everybody gets a
// turn.
func TestSessionsAllGetATurn(t *testing.T) {
	w := newWorld(t, 9, 2)
	a, b := w.agents[0], w.agents[1]
	for i := range 1000 {
		id := AgentID{0, byte(i >> 8), byte(i)} // before b
		if err := a.s.Know(w.now, id, b.static.Public, []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 1)}); err != nil {
			t.Fatal(err)
		}
	}
	w.introduce()
	b.s.Forget(a.id) // b won't begin
	asked := make(map[netip.AddrPort]bool)
	for range 3 * 1000 / initiateRate * 10 {
		w.now = w.now.Add(100 * time.Millisecond)
		a.s.Tick(w.now)
		a.s.Flush(func(_ AgentID, way Way, _ []byte) { asked[way.Addr] = true })
	}
	if len(asked) != 1001 {
		t.Errorf("%d of 1001 members were asked", len(asked))
	}
}

// Members that send handshakes without end are answered at a bounded rate.
func TestSessionsAnswerBounded(t *testing.T) {
	w := newWorld(t, 8, 2)
	w.introduce()
	a, b := w.agents[0], w.agents[1]
	answers := 0
	for range respondBurst + 200 {
		_, d, err := a.s.hs.Initiate(w.now, b.id, b.static.Public, w.rand.Uint32()|1, rand.NewChaCha8([32]byte{byte(w.rand.Uint32()), byte(w.rand.Uint32()), byte(w.rand.Uint32())}))
		if err != nil {
			t.Fatal(err)
		}
		if b.s.Receive(w.now, Direct(a.addr), d) == nil {
			answers++
		}
	}
	if answers > respondBurst {
		t.Errorf("%d handshakes were answered at once", answers)
	}
	if n := len(b.s.index); n > maxPending {
		t.Errorf("%d sessions with one member", n)
	}
}

func FuzzSessionsReceive(f *testing.F) {
	f.Add([]byte{0x12, 0, 0, 0})
	f.Fuzz(func(t *testing.T, d []byte) {
		hs := NewHandshaker(AgentID{1}, StaticKey{}, [32]byte{1}, [32]byte{2}, true)
		s := NewSessions(AgentID{1}, hs, rand.NewChaCha8([32]byte{}))
		from := Direct(netip.MustParseAddrPort("10.0.0.1:1"))
		if s.Receive(1, from, d) == nil {
			t.Error("a stranger's datagram was taken")
		}
		s.Flush(func(AgentID, Way, []byte) { t.Error("a stranger was answered") })
	})
}

// A member that isn't where it was is reached at another address of its at once, when
// this agent is told to try.
func TestSessionsRenewElsewhere(t *testing.T) {
	w := newWorld(t, 3, 2)
	w.introduce()
	w.run(2 * time.Second)
	a, b := w.agents[0], w.agents[1]
	old := b.addr
	b.addr = netip.MustParseAddrPort("10.0.1.2:4747")
	if err := a.s.Know(w.now, b.id, b.static.Public, []netip.AddrPort{old, b.addr}); err != nil {
		t.Fatal(err)
	}
	if w.reaches(a, b) == nil {
		t.Fatal("reached before it tried")
	}
	a.s.Renew(w.now, b.id)
	a.s.Renew(w.now, AgentID{99}) // nobody
	w.run(100 * time.Millisecond)
	w.mustReach()
	w.run(10 * time.Minute)
	w.mustReach()
}

// Who moves right after it was met begins a handshake that crosses the one before, and
// both go on with that one's session: by the way that the new one was answered.
func TestSessionsCrossElsewhere(t *testing.T) {
	w := newWorld(t, 4, 2)
	w.introduce()
	w.run(500 * time.Millisecond)
	a, b := w.agents[0], w.agents[1]
	first := b.current[a.id]
	if first == nil || first.Initiator() {
		t.Fatal("the one with the smaller id begins")
	}
	elsewhere := Direct(netip.MustParseAddrPort("[fd00::1]:4747"))
	b.s.Renew(w.now, a.id)
	b.s.Tick(w.now)
	b.s.Flush(func(_ AgentID, _ Way, d []byte) {
		_ = a.s.Receive(w.now, elsewhere, d) // copies are refused
	})
	a.s.Flush(func(_ AgentID, way Way, d []byte) {
		if err := b.s.Receive(w.now, way, d); err != nil {
			t.Error(err)
		}
	})
	b.s.Live(func(l Live) {
		if l.Current && (l.Session != first || l.Way != elsewhere) {
			t.Errorf("goes on by %v", l.Way)
		}
	})
}

// A member that is started anew right after it was met has lost the session that
// both would choose: its next datagrams show that, and turn the choice.
func TestSessionsWithOneStartedAnew(t *testing.T) {
	for seed := range uint64(4) {
		w := newWorld(t, 20+seed, 2)
		w.introduce()
		w.run(300 * time.Millisecond)
		again := w.agents[seed%2]
		w.start(again, 7)
		w.introduce()
		w.run(3 * crossTime)
		w.mustReach()
	}
}

// After a move the first handshakes may be lost on the way: one of the next is answered
// soon, and those with members that don't answer at all stay few.
func TestRenewIsRepeatedSoon(t *testing.T) {
	w := newWorld(t, 11, 2)
	w.introduce()
	w.run(2 * time.Second)
	a, b := w.agents[0], w.agents[1]
	before := a.current[b.id]
	w.loss = 1
	a.s.Renew(w.now, b.id)
	w.run(700 * time.Millisecond) // two are lost
	w.loss = 0
	w.run(200 * time.Millisecond)
	if a.current[b.id] == before {
		t.Error("the third handshake wasn't begun after 750 ms")
	}
	w.mustReach()

	w.loss = 1
	a.s.Renew(w.now, b.id)
	sent := 0
	for end := w.now.Add(time.Minute); w.now.Before(end); w.now = w.now.Add(10 * time.Millisecond) {
		a.s.Tick(w.now)
		a.s.Flush(func(AgentID, Way, []byte) { sent++ })
	}
	if sent < 6 || sent > 10 {
		t.Errorf("%d handshakes within a minute of silence", sent)
	}
}
