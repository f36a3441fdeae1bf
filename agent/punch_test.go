package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
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

// relayedPeers gives the node members that are reached by way of another and say that
// they are at an address.
func relayedPeers(m *mirror, at netip.AddrPort, count int) (all []*peer) {
	session := m.peer.out.Load().session
	for i := range count {
		p := m.n.meet(m.n.now(), overlay.AgentID{2, byte(i), at.Addr().As4()[3]})
		p.member = discovery.Member{Name: "hostile", Addrs: []netip.AddrPort{at}}
		p.out.Store(&outbound{session: session, way: overlay.Relayed(m.peer.id), relay: m.peer})
		all = append(all, p)
	}
	return all
}

// Members that name somebody's address, and ask again and again to be met there, under as
// many names as they like, don't make this agent flood it.
func TestPunchesAreBounded(t *testing.T) {
	m := newMirror(t)
	sprays, opened := 0, 0
	m.n.spawn = func(name string, _ func(context.Context) error) {
		switch name {
		case "spray":
			sprays++
		case "punch":
			opened++
		}
	}
	victim := netip.MustParseAddrPort("192.0.2.9:53")
	hostile := relayedPeers(m, victim, 50)
	begin, now := m.n.now(), m.n.now()
	for ; now.Sub(begin) < 10*punchWindow; now = now.Add(tick) {
		for _, p := range hostile {
			m.n.spray(now, p)
			m.n.punch(now, p, p.out.Load())
			m.n.punches.spraying, m.n.punches.opened = false, false // they end at once
		}
	}
	t.Logf("in %v: %d times ports were tried and %d times sockets opened", now.Sub(begin), sprays, opened)
	if tries := sprays + opened; tries == 0 || tries > 10*punchesTo {
		t.Errorf("%d tries", tries)
	}
	if n := len(m.n.sealTry(m.peer, m.peer.out.Load())); n > 128 {
		t.Errorf("each of %d bytes", n)
	}

	// Nor can one name several at once, or what only its neighbours can send to.
	liar := relayedPeers(m, netip.MustParseAddrPort("10.0.0.1:53"), 1)[0]
	for _, a := range []string{"100.64.0.1:53", "192.0.2.7:53", "192.0.2.6:53", "192.0.2.7:54"} {
		liar.member.Addrs = append(liar.member.Addrs, netip.MustParseAddrPort(a))
	}
	if to := m.n.outside(liar); len(to) != 2 || to[0].Addr() != to[1].Addr() {
		t.Errorf("tried would be %v", to)
	}

	// One member alone isn't met oftener than it would be for its own sake.
	now = now.Add(punchWindow)
	sprays = 0
	one := relayedPeers(m, netip.MustParseAddrPort("192.0.2.8:53"), 1)[0]
	for begin = now; now.Sub(begin) < time.Hour; now = now.Add(tick) {
		m.n.spray(now, one)
		m.n.punches.spraying = false
	}
	t.Logf("one member in an hour: %d", sprays)
	if sprays < 2 || sprays > 11 {
		t.Errorf("one member was tried %d times in an hour", sprays)
	}
}

// The total is bounded, and so is what is remembered of it.
func TestPunchLimit(t *testing.T) {
	var l punchLimit
	now, allowed := overlay.Instant(1), 0
	for i := range 1000 {
		if l.allow(now.Add(time.Duration(i)*time.Millisecond), netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})) {
			allowed++
		}
	}
	if allowed != maxPunches || len(l.last) != maxPunches {
		t.Errorf("%d at once, %d remembered", allowed, len(l.last))
	}
	now, to := now.Add(2*punchWindow), netip.MustParseAddr("192.0.2.1")
	for i := range 2 * punchesTo {
		if l.allow(now, to) != (i < punchesTo) {
			t.Errorf("try %d at one address", i)
		}
	}
	if !l.allow(now, netip.MustParseAddr("192.0.2.2")) || !l.allow(now.Add(punchWindow), to) {
		t.Error("others, or later ones, aren't allowed")
	}
}

// Of many sockets that hear something the one in use is kept, and one more; a member
// can't take all that there may be.
func TestSidesAreBounded(t *testing.T) {
	m := newMirror(t)
	m.n.spawn = func(string, func(context.Context) error) {}
	p := relayedPeers(m, netip.MustParseAddrPort("192.0.2.9:53"), 1)[0]
	m.n.cfg.Listen = netip.MustParseAddrPort("127.0.0.1:0")
	all := m.n.openSides(t.Context(), p.id, netip.MustParseAddrPort("127.9.9.9:53"), []byte("x"))
	if len(all) != punchSockets {
		t.Fatalf("%d sockets", len(all))
	}
	for i, s := range all {
		s.heard.Store(int64(i + 1))
	}
	used, unheard := all[7], all[9]
	unheard.heard.Store(0)
	kept := keepSides(append([]*side(nil), all...), &outbound{way: overlay.Direct(used.addr)}, true)
	if len(kept) != sidesPerPeer || kept[0] != used || kept[1] != all[len(all)-1] {
		t.Errorf("%d are kept", len(kept))
	}
	open := 0
	for _, s := range all {
		if _, err := s.conn.WriteToUDPAddrPort([]byte("x"), s.remote); !errors.Is(err, net.ErrClosed) {
			open++
		}
	}
	if open != sidesPerPeer {
		t.Errorf("%d sockets are open", open)
	}
	keepSides(kept, nil, false)

	m.n.punches.sides = make([]*side, maxSides)
	m.n.punch(m.n.now(), p, p.out.Load())
	if m.n.punches.opened {
		t.Error("more sockets are opened than may be")
	}
	m.n.punches.sides = nil
	p.member.Mapping, m.n.mapping = discovery.MappingByDestination, discovery.MappingByDestination
	if m.n.punch(m.n.now(), p, p.out.Load()); m.n.punches.opened {
		t.Error("two whose ports nobody can tell try to meet")
	}
	p.member.Mapping = discovery.MappingSame
	if m.n.punch(m.n.now(), p, p.out.Load()); !m.n.punches.opened {
		t.Error("one whose port can be told isn't met")
	}
}
