package overlay

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A world is some agents on a network that delays, loses and doubles
// datagrams, in virtual time.
type world struct {
	t      *testing.T
	now    Instant
	rand   *rand.Rand
	delay  time.Duration
	loss   float64
	double float64
	agents []*resident
	air    []flight
	cut    func(from, to netip.AddrPort) bool // no datagram passes
	shaken *tally                             // nil: nobody counts
}

type resident struct {
	id      AgentID
	static  StaticKey
	addr    netip.AddrPort
	s       *Sessions
	current map[AgentID]*Session

	// A busy one works in rounds: what arrives in one is taken in the next.
	round       func() time.Duration // how long the next one takes; nil: it isn't busy
	until       Instant
	mail, taken []flight
}

type flight struct {
	at  Instant
	way Way // as the receiver sees it
	to  netip.AddrPort
	d   []byte
}

func newWorld(t *testing.T, seed uint64, agents int) *world {
	w := &world{t: t, now: Instant(time.Hour), rand: rand.New(rand.NewPCG(seed, 0)), delay: 20 * time.Millisecond}
	random := rand.NewChaCha8([32]byte{byte(seed)})
	for i := range agents {
		k, _ := NewStaticKey(random)
		r := &resident{
			id: AgentID{byte(i + 1)}, static: k,
			addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 4747),
		}
		w.agents = append(w.agents, r)
		w.start(r, byte(i))
	}
	return w
}

// start begins a resident's life, or another one.
func (w *world) start(r *resident, seed byte) {
	hs := NewHandshaker(r.id, r.static, [32]byte{1}, [32]byte{2}, true)
	r.s = NewSessions(r.id, hs, rand.NewChaCha8([32]byte{seed, byte(w.rand.Uint32()), 1}))
	r.current = make(map[AgentID]*Session)
}

// introduce tells every agent of every other.
func (w *world) introduce() {
	for _, a := range w.agents {
		for _, b := range w.agents {
			if err := a.s.Know(w.now, b.id, b.static.Public, []netip.AddrPort{b.addr}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// send sends d from a to an agent, some way. What is relayed takes twice as long.
func (w *world) send(a *resident, id AgentID, way Way, d []byte) {
	if way.IsDirect() {
		w.fly(a.addr, way.Addr, Direct(a.addr), w.delay, d)
		return
	}
	var relay, to *resident
	for _, r := range w.agents {
		switch r.id {
		case way.Via:
			relay = r
		case id:
			to = r
		}
	}
	if w.cut == nil || !w.cut(a.addr, relay.addr) {
		w.fly(relay.addr, to.addr, Relayed(relay.id), 2*w.delay, d)
	}
}

func (w *world) fly(from, to netip.AddrPort, way Way, delay time.Duration, d []byte) {
	if w.cut != nil && w.cut(from, to) {
		return
	}
	copies := 1
	if w.rand.Float64() < w.double {
		copies = 2
	}
	for range copies {
		if w.rand.Float64() >= w.loss {
			at := w.now.Add(delay + time.Duration(w.rand.Int64N(int64(w.delay)/2)))
			w.air = append(w.air, flight{at, way, to, bytes.Clone(d)})
		}
	}
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(10 * time.Millisecond)
		var due []flight
		w.air = slices.DeleteFunc(w.air, func(f flight) bool {
			if f.at > w.now {
				return false
			}
			due = append(due, f)
			return true
		})
		for _, f := range due {
			w.arrive(f)
		}
		for _, a := range w.agents {
			if w.now < a.until {
				continue
			}
			if a.round != nil {
				for _, f := range a.taken {
					w.take(a, f)
				}
				a.taken, a.mail = a.mail, nil
				a.until = w.now.Add(a.round())
			}
			a.s.Tick(w.now)
			w.after(a)
		}
	}
}

func (w *world) arrive(f flight) {
	for _, a := range w.agents {
		if a.addr == f.to && a.round != nil {
			a.mail = append(a.mail, f)
		} else if a.addr == f.to {
			w.take(a, f)
			w.after(a)
		}
	}
}

// take has a take what has arrived.
func (w *world) take(a *resident, f flight) {
	kind, ok := ParseKind(f.d)
	if !ok {
		w.t.Fatal("a datagram of no kind")
	}
	if kind != KindData && kind != KindProbe {
		_ = a.s.Receive(w.now, f.way, f.d) // refused ones are part of the world
		return
	}
	var opened *Session
	a.s.Live(func(l Live) {
		if l.Session.LocalIndex() == ReceiverIndex(f.d) {
			if _, ok := l.Session.Open(f.d); ok {
				opened = l.Session
			}
		}
	})
	if opened != nil {
		a.s.Heard(w.now, opened, f.way)
	}
}

// after sends what a has to send, a first datagram on each new current session, as probes
// do, and another one each second or round.
func (w *world) after(a *resident) {
	a.s.Flush(func(to AgentID, way Way, d []byte) {
		w.shaken.sent(d)
		w.send(a, to, way, d)
	})
	a.s.Changed()
	a.s.Live(func(l Live) {
		w.shaken.live(l.Session)
		if l.Current && (a.current[l.Session.Peer()] != l.Session || a.round != nil || w.rand.IntN(100) == 0) {
			a.current[l.Session.Peer()] = l.Session
			if d := l.Session.Seal(KindProbe, 0, AppendProbe(make([]byte, HeaderLen, 100), Probe{}, false)); d != nil {
				w.send(a, l.Session.Peer(), l.Way, d)
			}
		}
	})
}

// reaches says whether what a seals now, b can open.
func (w *world) reaches(a, b *resident) error {
	var d []byte
	a.s.Live(func(l Live) {
		if l.Current && l.Session.Peer() == b.id {
			d = l.Session.Seal(KindData, 0, make([]byte, HeaderLen+20, 100))
			if l.Way.IsDirect() && l.Way.Addr != b.addr {
				d = nil
			}
		}
	})
	if d == nil {
		return fmt.Errorf("agent %d has no session with %d at its address", a.id[0], b.id[0])
	}
	opened := false
	b.s.Live(func(l Live) {
		if l.Session.LocalIndex() == ReceiverIndex(d) {
			_, opened = l.Session.Open(d)
		}
	})
	if !opened {
		return fmt.Errorf("what agent %d seals, %d can't open", a.id[0], b.id[0])
	}
	return nil
}

func (w *world) mustReach() {
	w.t.Helper()
	for _, a := range w.agents {
		for _, b := range w.agents {
			if a == b {
				continue
			}
			if err := w.reaches(a, b); err != nil {
				w.t.Fatalf("at %v: %v", w.now.Sub(Instant(time.Hour)), err)
			}
		}
	}
}
