package overlay

import (
	"testing"
	"time"
)

// A post is a switch whose ports are a TAP and a LAN, with two agents of which the second has a
// LAN, too.
type post struct {
	t       *testing.T
	s       Switch
	now     Instant
	sources map[Place]*Source
	since   Instant // when other agents began
}

var (
	postTap, postLAN    = PortPlace(0), PortPlace(1)
	postFar, postFarLAN = AgentPlace(0), AgentPlace(1)
)

func newPost(t *testing.T) *post {
	tap, lan, far, farLAN := NewSource(false), NewSource(true), NewSource(false), NewSource(false)
	far.Trust, farLAN.Trust = TrustLeases|TrustRouters, TrustAll
	tap.LimitStations(FlowKey{1, 2})
	return &post{t: t, s: Switch{LAN: []bool{false, true}}, now: Instant(time.Hour), sources: map[Place]*Source{postTap: &tap, postLAN: &lan, postFar: &far, postFarLAN: &farLAN}}
}

// takes has a frame come from a place, and checks what becomes of it.
func (p *post) takes(from Place, frame []byte, want Verdict) {
	p.t.Helper()
	p.now = p.now.Add(2 * echoTime)
	if _, v := p.s.Forward(p.now, from, frame, p.sources[from]); v != want {
		p.t.Errorf("%v: %x: %v, want %v", from, frame, v, want)
	}
}

// Ordinary ports have no DHCP servers and routers but those that are allowed.
func TestGuard(t *testing.T) {
	ra := advertisement(protocolICMPv6)
	hidden := advertisement(protocolFragment, protocolDestOptions, 0, 0, 1, 0, 0, 0, 1, protocolICMPv6, 9, 0, 0, 0, 0, 0, 0)
	lease := ack(mac(1), ip4(9), mac(9))
	for _, c := range []struct {
		trust     Trust
		lease, ra Verdict
	}{{0, DropLease, DropRouter}, {TrustLeases, Flood, DropRouter}, {TrustRouters, DropLease, Flood}, {TrustAll, Flood, Flood}} {
		p := newPost(t)
		p.sources[postTap].Trust = c.trust
		p.takes(postTap, lease, c.lease)
		p.takes(postTap, ra, c.ra)
		p.takes(postTap, hidden, c.ra)
		p.takes(postTap, inVLAN(lease, 0x81, 0, 0, 0), c.lease)
		p.takes(postTap, inVLAN(lease, 0x88, 0xa8, 0, 1, 0x81, 0, 0, 2), c.lease)
		p.takes(postTap, inSNAP(ra), c.ra)
		p.takes(postLAN, ack(mac(2), ip4(9), mac(9)), Flood)
		p.takes(postTap, udp4(Broadcast, mac(1), ip4(1), 68, 67, 1, 1), Flood) // a client
		p.takes(postTap, solicit(mac(1), ip6(1), ip6(2)), Flood)
	}
}

// A station of a LAN isn't lost to who sends by its address, but to who moves; one that gives
// addresses to nobody, until it was silent for long.
func TestSpoof(t *testing.T) {
	for _, spoofer := range []Place{postTap, postFar} {
		p := newPost(t)
		server, pc := mac(1), mac(2)
		p.takes(postLAN, ack(server, ip4(9), mac(9)), Flood)
		p.takes(postLAN, eth(Broadcast, pc), Flood)
		p.takes(spoofer, eth(Broadcast, pc), DropSpoof)
		p.takes(spoofer, eth(Broadcast, server), DropSpoof)
		p.takes(spoofer, arp(Broadcast, 1, server, ip4(2), ip4(2)), DropSpoof)
		p.takes(postTap, eth(server, mac(5)), ToPlace)
		p.takes(spoofer, arp(Broadcast, 1, pc, ip4(3), ip4(3)), Flood) // it has moved
		p.takes(postLAN, eth(Broadcast, pc), Flood)                    // and back
		p.now = p.now.Add(keptFor)
		p.takes(spoofer, eth(Broadcast, pc), Flood) // silent for long
		p.takes(spoofer, eth(Broadcast, server), DropSpoof)
		p.takes(postFarLAN, eth(Broadcast, server), Flood) // its LAN has another agent
		if k := p.s.Stations.Keep(pc); k != 0 {
			t.Errorf("it left the LAN, but is kept: %b", k)
		}
	}
}

// What is claimed of a LAN's stations is believed where there is one.
func TestSpoofedClaims(t *testing.T) {
	p := newPost(t)
	first := func(Place) bool { return true }
	server := mac(1)
	take := func(c Claim, from Place, answer bool, want Learned) {
		t.Helper()
		if got := p.s.Stations.TakeClaim(p.now, c, from, answer, first); got != want {
			t.Errorf("%+v: %v, want %v", c, got, want)
		}
	}
	p.takes(postLAN, ack(server, ip4(9), mac(9)), Flood)
	seq := p.s.Stations.Claim(server)
	take(Claim{MAC: server, Sequence: seq + 7}, postFar, false, LearnedSpoof)
	take(Claim{MAC: server, Sequence: seq + 8, Keep: KeepAnnounced}, postFar, false, LearnedSpoof)
	if seq = p.s.Stations.Claim(server); seq != 10 {
		t.Errorf("it is claimed again by %d", seq)
	}
	if at, _ := p.s.Stations.Lookup(p.now, server); at != postLAN {
		t.Errorf("the server is at %x", at)
	}
	take(Claim{MAC: server, Sequence: seq + 1, Keep: KeepLAN}, postFarLAN, false, LearnedMove)
	take(Claim{MAC: server, Sequence: seq + 9}, postFar, false, LearnedNothing)
	if at, _ := p.s.Stations.Lookup(p.now, server); at != postFarLAN {
		t.Errorf("the server is at %x", at)
	}

	// Here another one has its address, of which this agent didn't know.
	other := newPost(t)
	other.takes(postTap, eth(Broadcast, server), Flood)
	other.s.Stations.Claim(server)
	if got := other.s.Stations.TakeClaim(other.now, Claim{MAC: server, Sequence: 1, Keep: KeepLAN | KeepVital}, postFarLAN, true, first); got != LearnedMove {
		t.Errorf("the answer of who has it: %v", got)
	}
	other.takes(postTap, eth(Broadcast, server), DropSpoof)
}

// Addresses that a DHCP server gave, and those of routers, are nobody else's; others may move.
func TestPoison(t *testing.T) {
	p := newPost(t)
	server, router, client, rogue := mac(1), mac(3), mac(9), mac(6)
	p.takes(postLAN, ack(server, ip4(9), client, optionRouter, 4, 10, 0, 0, 1), Flood)
	p.takes(postTap, arp(Broadcast, 1, rogue, ip4(1), ip4(1)), DropPoison) // before the router has spoken
	p.takes(postLAN, arp(Broadcast, 1, router, ip4(1), ip4(7)), Flood)
	p.takes(postTap, eth(Broadcast, client), Flood)
	p.takes(postTap, arp(Broadcast, 1, client, ip4(9), ip4(1)), Flood)
	p.takes(postTap, eth(Broadcast, rogue), Flood)
	for _, of := range []byte{1, 9} {
		p.takes(postTap, arp(Broadcast, 1, rogue, ip4(of), ip4(of)), DropPoison)
		p.takes(postTap, arp(router, 2, rogue, ip4(of), ip4(1)), DropPoison)
		p.takes(postFar, arp(router, 2, mac(7), ip4(of), ip4(1)), DropPoison)
	}
	p.takes(postTap, eth(Broadcast, router), DropSpoof)

	// A virtual address moves from one machine to another.
	p.takes(postTap, arp(Broadcast, 1, rogue, ip4(50), ip4(50)), Flood)
	p.takes(postFar, arp(Broadcast, 1, mac(7), ip4(50), ip4(50)), Flood)
	p.takes(postTap, advertise(MAC{0x33, 0x33, 5: 1}, rogue, ip6(50), 0x20), Flood)
	p.takes(postFar, advertise(MAC{0x33, 0x33, 5: 1}, mac(7), ip6(50), 0x20), Flood)
	// The server gives an address to another one.
	p.takes(postLAN, ack(server, ip4(9), rogue), ToPlace)
	p.takes(postTap, arp(Broadcast, 1, rogue, ip4(9), ip4(9)), Flood)
	p.takes(postTap, arp(Broadcast, 1, client, ip4(9), ip4(9)), DropPoison)
	// The lease ends.
	p.now = p.now.Add(time.Hour)
	p.takes(postTap, arp(Broadcast, 1, client, ip4(9), ip4(9)), Flood)

	// A far DHCP server that may answer doesn't make routers of others.
	q := newPost(t)
	q.takes(postFar, ack(mac(1), ip4(9), client, optionRouter, 4, 10, 0, 0, 1), Flood)
	q.takes(postTap, arp(Broadcast, 1, rogue, ip4(1), ip4(1)), Flood)
}

// One station doesn't take what its port may flood from the others there.
func TestNoisyStation(t *testing.T) {
	p := newPost(t)
	source, count := p.sources[postTap], map[Verdict]int{}
	for i := range 20 * FloodRate { // in a second
		now := p.now.Add(time.Duration(i) * time.Second / (20 * FloodRate))
		_, v := p.s.Forward(now, postTap, eth(Broadcast, mac(1)), source)
		count[v]++
		if i%1000 == 0 {
			if _, v := p.s.Forward(now, postTap, eth(Broadcast, mac(2)), source); v != Flood {
				t.Errorf("another station's broadcast: %v", v)
			}
		}
	}
	if n := count[Flood]; n < StationFloods || n > 2*StationFloods+1 || count[DropNoisy] != 20*FloodRate-n {
		t.Errorf("%v", count)
	}
}

// Who invents stations has a port's share of them, and harms nobody else.
func TestInventedStations(t *testing.T) {
	p := newPost(t)
	p.takes(postTap, eth(Broadcast, mac(1)), Flood)
	dropped := 0
	for i := range 50000 {
		m := MAC{6, 0x66, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
		if _, v := p.s.Forward(p.now, postTap, eth(mac(1), m), p.sources[postTap]); v == DropStations {
			dropped++
		}
	}
	if want := 50000 - PortStations + 1; dropped != want {
		t.Errorf("%d dropped, want %d", dropped, want)
	}
	for _, from := range []Place{postLAN, postFar, postFarLAN} {
		m := MAC{2, 1, 0, 0, 0, byte(from)}
		p.takes(from, eth(Broadcast, m), Flood)
		if at, ok := p.s.Stations.Lookup(p.now, m); !ok || at != from {
			t.Errorf("a station at %x isn't known", from)
		}
	}
	p.takes(postTap, eth(Broadcast, mac(1)), Flood)
	if n := p.s.Stations.places.at(postTap).Load(); n != PortStations {
		t.Errorf("%d stations at the port", n)
	}
	p.s.Stations.Expire(p.now.Add(StationAge))
	if n := p.s.Stations.places.at(postTap).Load() + p.s.Stations.places.far.Load(); n != 0 {
		t.Errorf("%d stations are left", n)
	}
}
