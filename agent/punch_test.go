package agent

import (
	"net/netip"
	"testing"
)

// The ports that are tried are those behind the ones that others see, and then any;
// each is one that a NAT gives, and tried once.
func TestGuesses(t *testing.T) {
	for _, port := range []uint16{80, 1024, 40000, 65535} {
		seen := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)
		all := guesses([]netip.AddrPort{seen})
		had := make(map[netip.AddrPort]bool)
		for _, g := range all {
			if had[g] || g.Port() < 1024 || g.Addr() != seen.Addr() {
				t.Fatalf("seen at %v: %v is tried, again: %v", seen, g, had[g])
			}
			had[g] = true
		}
		if len(all) != punchTries {
			t.Errorf("seen at %v: %d tries", seen, len(all))
		}
		// In sequence: this agent's next port, and sockets in a row behind some others.
		next := max(max(port, 1023)+1, 1024) // it wraps after the last
		if want := netip.AddrPortFrom(seen.Addr(), next); port >= 1024 && !had[want] {
			t.Errorf("seen at %v: %v isn't tried", seen, want)
		}
		for skip := range 500 {
			found := false
			for i := range punchSockets {
				p := 1024 + (max(int(port), 1024)+1+skip+i-1024)%(1<<16-1024)
				found = found || had[netip.AddrPortFrom(seen.Addr(), uint16(p))]
			}
			if !found {
				t.Errorf("seen at %v: of sockets %d further on none is tried", seen, skip)
			}
		}
	}
}

// Half of the tries that the odds speak of find one of as many sockets at random.
func TestGuessesMeet(t *testing.T) {
	seen := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:5000")}
	met := 0
	const rounds = 200
	for range rounds {
		sockets := make(map[uint16]bool)
		for _, g := range guesses(seen)[punchTries-punchSockets:] { // as random as a NAT's
			sockets[g.Port()] = true
		}
		for _, g := range guesses(seen) {
			if sockets[g.Port()] {
				met++
				break
			}
		}
	}
	t.Logf("met in %d of %d rounds", met, rounds)
	if met < rounds*9/10 {
		t.Errorf("met in %d of %d rounds only", met, rounds)
	}
}

// An address in the prefix of byways that a member tells is none to send to, and so
// nobody can make an agent send into another one's pipe.
func TestBywaysAreNotTold(t *testing.T) {
	n, b := new(node), new(byway)
	n.byways.add(b, streamByway)
	if n.usable(b.addr.Addr()) || !isByway(b.addr.Addr()) || !isStream(b.addr) {
		t.Errorf("%v can be told", b.addr)
	}
	if n.byways.at(b.addr) != b {
		t.Error("it isn't found")
	}
	n.byways.remove(b)
	if err := n.byways.send(b.addr, []byte("x"), 0); err == nil {
		t.Error("something is sent into a byway that has ended")
	}
}
