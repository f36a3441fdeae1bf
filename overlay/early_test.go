package overlay

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// An agent that is begun with before it knows of the other one answers as soon as it
// does, whichever of the two is to begin.
func TestSessionsBeforeTheOtherKnows(t *testing.T) {
	for first := range 2 {
		w := newWorld(t, 7, 2)
		a, b := w.agents[first], w.agents[1-first]
		if err := a.s.Know(w.now, b.id, b.static.Public, []netip.AddrPort{b.addr}); err != nil {
			t.Fatal(err)
		}
		a.s.Renew(w.now, b.id)
		w.run(100 * time.Millisecond)
		if len(b.s.early) != 1 || len(b.current) != 0 {
			t.Fatalf("%d are kept of one that isn't known", len(b.s.early))
		}
		// Where it is need not be known: it is answered where it came from.
		if err := b.s.Know(w.now, a.id, a.static.Public, nil); err != nil {
			t.Fatal(err)
		}
		w.run(200 * time.Millisecond)
		if a.s.contact(b.id).current == nil || len(b.s.early) != 0 {
			t.Errorf("agent %d is not in session after 200 ms; %d are kept", first, len(b.s.early))
		}
	}
}

// What is kept is bounded, in number and time, and each agent has one place.
func TestSessionsEarlyBounded(t *testing.T) {
	w := newWorld(t, 8, 1)
	b := w.agents[0]
	var last StaticKey
	random := rand.NewChaCha8([32]byte{9})
	begin := func(i byte) AgentID {
		id := AgentID{200, i}
		static, _ := NewStaticKey(random)
		last = static
		_, d, err := NewHandshaker(id, static, [32]byte{1}, [32]byte{2}, true).Initiate(w.now, b.id, b.static.Public, 1, random)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.s.Receive(w.now, Direct(netip.MustParseAddrPort("10.0.0.9:1")), d); err == nil {
			t.Error("one that isn't known is answered")
		}
		return id
	}
	for i := range byte(3 * maxEarly) {
		begin(i)
		begin(i)
	}
	if len(b.s.early) != maxEarly {
		t.Errorf("%d are kept", len(b.s.early))
	}
	w.now = w.now.Add(earlyLife)
	id := begin(1)
	if len(b.s.early) != 1 {
		t.Errorf("%d are kept, of which one is fresh", len(b.s.early))
	}
	w.now = w.now.Add(earlyLife)
	if err := b.s.Know(w.now, id, last.Public, nil); err != nil || len(b.s.out) != 0 {
		t.Errorf("an old one is answered: %v", err)
	}
}
