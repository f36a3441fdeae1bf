package overlay

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// asks has a machine ask, and checks whom that reaches. It returns who has the address.
func (p *post) asks(from Place, frame []byte, want Turn) Owner {
	p.t.Helper()
	p.takes(from, frame, Flood)
	h := p.sources[from].Heard
	o, turn := p.s.Ask(p.now, from, MAC(frame[6:12]), &h, func(at Place) (Instant, bool) { return p.since, at != AgentPlace(9) })
	if turn != want {
		p.t.Errorf("%x: %v, want %v (%+v)", frame, turn, want, o)
	}
	return o
}

func TestAsk(t *testing.T) {
	p := newPost(t)
	a, b := mac(1), mac(2)
	p.takes(postTap, eth(Broadcast, a), Flood)
	p.takes(postFar, eth(Broadcast, b), Flood)
	ask := arp(Broadcast, 1, a, ip4(1), ip4(2))
	probe := arp(Broadcast, 1, a, netip.IPv4Unspecified(), ip4(2))
	p.asks(postTap, ask, AskAll) // nobody knows
	p.takes(postFar, arp(a, 2, b, ip4(2), ip4(1)), ToPlace)
	if o := p.asks(postTap, ask, Answered); o.MAC != b || o.Place != postFar {
		t.Errorf("%+v", o)
	}
	p.asks(postTap, probe, AskOwner)
	p.now = p.now.Add(answerFor)
	p.takes(postFar, arp(a, 2, b, ip4(2), ip4(1)), ToPlace)
	p.now = p.now.Add(answerFor)
	if o := p.asks(postTap, ask, AskOwner); o.MAC != b {
		t.Errorf("%+v", o)
	}
	p.asks(postTap, ask, AskAll) // it didn't answer
	p.asks(postTap, ask, AskAll)
	p.takes(postFar, arp(a, 2, b, ip4(2), ip4(1)), ToPlace)
	p.asks(postTap, ask, Answered)

	// It moves to another agent, and is followed.
	p.takes(postFarLAN, arp(Broadcast, 1, b, ip4(2), ip4(2)), Flood)
	if o := p.asks(postTap, ask, Answered); o.Place != postFarLAN {
		t.Errorf("%+v", o)
	}
	// Another one says that it has the address: all are asked for a while.
	p.takes(postFar, arp(Broadcast, 1, mac(3), ip4(2), ip4(2)), Flood)
	p.asks(postTap, ask, AskAll)
	p.now = p.now.Add(contestTime)
	if o := p.asks(postTap, ask, Answered); o.MAC != mac(3) {
		t.Errorf("%+v", o)
	}
	// Its agent is gone.
	p.s.Forget(postFar)
	p.asks(postTap, ask, AskAll)
	// It is on the same LAN as who asks.
	p.takes(postLAN, arp(Broadcast, 1, mac(4), ip4(4), ip4(4)), Flood)
	p.asks(postLAN, arp(Broadcast, 1, mac(5), ip4(5), ip4(4)), AskNone)
	// In another VLAN it is another address.
	p.asks(postTap, inVLAN(arp(Broadcast, 1, a, ip4(1), ip4(4)), 0x81, 0, 0, 5), AskAll)
	// Who asks for its own address looks for another one that has it.
	p.asks(postTap, arp(Broadcast, 1, mac(6), ip4(6), ip4(7)), AskAll)
	p.asks(postTap, arp(Broadcast, 1, mac(6), netip.IPv4Unspecified(), ip4(6)), AskAll)
	// A machine whose agent doesn't answer.
	p.sources[AgentPlace(9)] = p.sources[postFar]
	p.takes(AgentPlace(9), arp(Broadcast, 1, mac(8), ip4(8), ip4(8)), Flood)
	p.asks(postTap, arp(Broadcast, 1, a, ip4(1), ip4(8)), AskAll)
}

// What a machine that was advertised is, its answer says.
// An agent that was started anew may have other machines than those that were heard before.
func TestAskOfAgentThatBegins(t *testing.T) {
	p := newPost(t)
	a, b := mac(1), mac(2)
	ask, says := arp(Broadcast, 1, a, ip4(1), ip4(2)), arp(a, 2, b, ip4(2), ip4(1))
	p.takes(postTap, eth(Broadcast, a), Flood)
	p.takes(postFar, eth(Broadcast, b), Flood)
	p.takes(postFar, says, ToPlace)
	p.now = p.now.Add(time.Second)
	p.since = p.now
	p.asks(postTap, ask, AskOwner)
	p.now = p.now.Add(ownerTime)
	p.asks(postTap, ask, AskAll)
	p.takes(postFar, says, ToPlace)
	p.asks(postTap, ask, Answered)
}

// Who asks the owner alone whether it still is there, as kernels do before they forget it, and
// who asks again though it was helped, isn't told any more what isn't so.
func TestAskForWhoIsGone(t *testing.T) {
	a, b := mac(1), mac(2)
	ask, to := arp(Broadcast, 1, a, ip4(1), ip4(2)), arp(b, 1, a, ip4(1), ip4(2))
	says := arp(a, 2, b, ip4(2), ip4(1))
	for _, probes := range []bool{true, false} {
		p := newPost(t)
		p.takes(postTap, eth(Broadcast, a), Flood)
		p.takes(postFar, eth(Broadcast, b), Flood)
		p.takes(postFar, says, ToPlace)
		p.asks(postTap, ask, Answered)
		if probes {
			p.takes(postTap, to, ToPlace)
		} else {
			p.asks(postTap, ask, AskOwner)
		}
		p.now = p.now.Add(ownerTime)
		p.asks(postTap, ask, AskAll)
		p.takes(postFar, says, ToPlace) // it is there after all
		p.asks(postTap, ask, Answered)
	}
}

func TestAskNeighbour(t *testing.T) {
	p := newPost(t)
	a, b := mac(1), mac(2)
	p.takes(postTap, solicit(a, ip6(1), ip6(9)), Flood)
	p.takes(postFar, solicit(b, ip6(2), ip6(9)), Flood)
	ask := solicit(a, ip6(1), ip6(2))
	p.asks(postTap, ask, AskOwner) // it didn't say whether it is a router
	p.takes(postFar, advertise(a, b, ip6(2), 0xe0), ToPlace)
	o := p.asks(postTap, ask, Answered)
	if !o.Router {
		t.Error("it said that it is a router")
	}
	p.asks(postTap, solicit(a, netip.IPv6Unspecified(), ip6(2)), AskOwner)
	h := Listen(ask)
	answer := AppendAnswer(nil, ask, &h, o)
	if want := advertise(a, b, ip6(2), 0xe0); len(answer) != len(want) || Listen(answer) != Listen(want) {
		t.Errorf("%x, want %x", answer, want)
	}
	icmp := answer[14+40:]
	if fold(add(pseudoSum(answer[14:], len(icmp), protocolICMPv6), icmp)) != 0xffff {
		t.Errorf("%x: the checksum is wrong", answer)
	}
	if dst := netip.AddrFrom16([16]byte(answer[14+24:])); dst != ip6(1) || MAC(answer) != a {
		t.Errorf("it is for %v", dst)
	}
}

func TestAnswerARP(t *testing.T) {
	ask := inVLAN(arp(Broadcast, 1, mac(1), ip4(1), ip4(2)), 0x81, 0, 0, 5)
	h := Listen(ask)
	got := AppendAnswer(nil, ask, &h, Owner{IP: ip4(2), MAC: mac(2)})
	one := mac(1)
	want := inVLAN(arp(mac(1), 2, mac(2), ip4(2), ip4(1)), 0x81, 0, 0, 5)
	copy(want[18+18:], one[:]) // who is told
	if !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// All aren't asked for one that doesn't answer more often than somebody may wait for.
func TestAsksAreDamped(t *testing.T) {
	p := newPost(t)
	p.takes(postTap, eth(Broadcast, mac(1)), Flood)
	count := map[Turn]int{}
	for i := range 1000 { // a hundred machines ask once a second
		p.now = p.now.Add(10 * time.Millisecond)
		h := Heard{Said: SaidARP, IP: ip4(byte(i)), MAC: mac(byte(i)), Target: ip4(200)}
		_, turn := p.s.Ask(p.now, postTap, h.MAC, &h, func(Place) (Instant, bool) { return 0, true })
		count[turn]++
	}
	if want := askTimes + 3; count[AskAll] != want {
		t.Errorf("%v", count)
	}
}

// Whatever is said, the tables are bounded and their counts right.
func TestBindingsAreBounded(t *testing.T) {
	var b Bindings
	rng := rand.New(rand.NewPCG(1, 2))
	now := Instant(time.Hour)
	for i := range 100000 {
		now = now.Add(time.Millisecond)
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], rng.Uint32N(30000))
		m := MAC{2, 0, 0, 0, byte(rng.UintN(16)), byte(rng.UintN(256))}
		h := Heard{Said: SaidARP, IP: netip.AddrFrom4(ip), MAC: m}
		switch rng.UintN(10) {
		case 0:
			h.Lease = Lease{IP: h.IP, Client: m, Router: h.IP, Seconds: rng.Uint32()}
			b.lease(now, &h, TrustAll)
		case 1:
			b.mayAskAll(now, address{h.IP, 0})
		default:
			b.hear(now, AgentPlace(int(rng.UintN(6))), &h)
		}
		if i%10000 == 0 {
			b.Forget(AgentPlace(int(rng.UintN(6))))
			b.Expire(now)
		}
	}
	of, from := map[MAC]int{}, map[Place]int{}
	for _, x := range b.at {
		of[x.mac]++
		from[x.place]++
	}
	for m, n := range b.of {
		if of[m] != n || n > stationBindings {
			t.Errorf("%v has %d addresses, counted %d", m, of[m], n)
		}
	}
	for p, n := range b.from {
		if from[p] != n || n > placeBindings {
			t.Errorf("%x has %d addresses, counted %d", p, from[p], n)
		}
	}
	if len(of) != len(b.of) || b.Len() > MaxBindings || len(b.routers) > maxRouters || len(b.asked) > maxAsked {
		t.Errorf("%d machines, %d counted, %d addresses, %d routers, %d asked for", len(of), len(b.of), b.Len(), len(b.routers), len(b.asked))
	}
	b.Expire(now.Add(2 * maxLease))
	if b.Len()+len(b.of)+len(b.from)+len(b.routers)+len(b.asked) != 0 {
		t.Errorf("left: %d addresses", b.Len())
	}
}
