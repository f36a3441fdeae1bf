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
		claim := Claim{MAC: m, Sequence: a.Claim(m)}
		c.TakeClaim(now, claim, AgentPlace(1), false, first)
	}
	claim, ok := b.Seize(now, m, port, TrustAll) // it missed them all
	if !ok || claim.Keep&KeepLAN == 0 || c.TakeClaim(now, claim, AgentPlace(2), false, first) != LearnedMove {
		t.Errorf("the claim %+v isn't believed", claim)
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
		a.Seize(now, m, port, TrustAll)
	}
	if len(a.Twice(now)) != 0 {
		t.Error("it is taken for two machines")
	}
	for i := range 6 {
		a.learn(now, m, PortPlace(i%2), TrustAll, false)
	}
	if len(a.Twice(now)) != 1 {
		t.Error("it isn't taken for two machines in a loop")
	}
	if a.Calm(); len(a.Twice(now)) != 0 {
		t.Error("it is still")
	}
	var full Stations
	full.count.Store(MaxStations)
	if _, ok := full.Seize(now, m, port, TrustAll); ok {
		t.Error("a full table takes it")
	}
}
