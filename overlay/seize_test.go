package overlay

import (
	"testing"
	"time"
)

// Who takes over a LAN has its stations, whatever it missed; who leaves it sends what is late
// after them.
func TestSeize(t *testing.T) {
	a, b, c := new(Stations), new(Stations), new(Stations) // b takes over from a, c is far
	now := Instant(time.Hour)
	m, port := mac(1), PortPlace(0)
	first := func(Place) bool { return false }
	a.Learn(now, m, port)
	for range 9 {
		claim := Claim{m, a.Claim(m)}
		c.TakeClaim(now, claim, AgentPlace(1), false, first)
	}
	seq := b.Seize(now, m, port) // it missed them all
	if c.TakeClaim(now, Claim{m, seq}, AgentPlace(2), false, first) != LearnedMove {
		t.Errorf("the claim by %d isn't believed", seq)
	}
	if at, _ := b.Lookup(now, m); at != port {
		t.Errorf("it has it at %v", at)
	}
	a.Yield(now, port, AgentPlace(2))
	if at, _ := a.Lookup(now, m); at != AgentPlace(2) || !a.Late(now, m) {
		t.Errorf("who left has it at %v, late %v", at, a.Late(now, m))
	}
	for range 6 {
		a.Yield(now, port, AgentPlace(2))
		a.Seize(now, m, port)
	}
	if len(a.Twice(now)) != 0 {
		t.Error("it is taken for two machines")
	}
	for i := range 6 {
		a.Learn(now, m, PortPlace(i%2))
	}
	if len(a.Twice(now)) != 1 {
		t.Error("it isn't taken for two machines in a loop")
	}
	if a.Calm(); len(a.Twice(now)) != 0 {
		t.Error("it is still")
	}
	var full Stations
	full.count.Store(MaxStations)
	if full.Seize(now, m, port) != 0 {
		t.Error("a full table takes it")
	}
}
