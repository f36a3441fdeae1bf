package overlay

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

func mac(i byte) MAC { return MAC{0x02, 0, 0, 0, 0, i} }

// eth makes the shortest frame.
func eth(dst, src MAC) []byte {
	return append(append(append(make([]byte, 0, 14), dst[:]...), src[:]...), 0x08, 0x00)
}

func TestSwitch(t *testing.T) {
	tap, lan, agent1, agent2 := PortPlace(0), PortPlace(1), AgentPlace(0), AgentPlace(1)
	group := MAC{0x01, 0, 0x5e, 0, 0, 1}
	type step struct {
		after    time.Duration
		from     Place
		dst, src MAC
		to       Place
		want     Verdict
	}
	for name, steps := range map[string][]step{
		"unknown is flooded, known is not": {
			{0, tap, mac(2), mac(1), 0, Flood},
			{0, agent1, mac(1), mac(2), tap, ToPlace},
			{0, tap, mac(2), mac(1), agent1, ToPlace},
		},
		"groups are flooded": {
			{0, tap, Broadcast, mac(1), 0, Flood},
			{0, agent1, group, mac(2), 0, Flood},
		},
		"never back where it came from": {
			{0, tap, Broadcast, mac(1), 0, Flood},
			{0, tap, mac(1), mac(2), 0, DropSame},
			{0, agent1, Broadcast, mac(3), 0, Flood},
			{0, agent1, mac(3), mac(4), 0, DropSame},
		},
		"never from agent to agent": {
			{0, agent1, Broadcast, mac(1), 0, Flood},
			{0, agent2, mac(1), mac(2), 0, DropTransit},
		},
		"a station that moves is followed at once": {
			{0, agent1, Broadcast, mac(1), 0, Flood},
			{time.Millisecond, agent2, Broadcast, mac(1), 0, Flood},
			{0, tap, mac(1), mac(2), agent2, ToPlace},
			{time.Millisecond, tap, Broadcast, mac(1), 0, Flood},
			{0, agent1, mac(1), mac(3), tap, ToPlace},
		},
		"a silent station is forgotten": {
			{0, agent1, Broadcast, mac(1), 0, Flood},
			{StationAge - time.Second, tap, mac(1), mac(2), agent1, ToPlace},
			{time.Second, tap, mac(1), mac(2), 0, Flood},
		},
		"what comes back by a LAN is an echo": {
			{0, agent1, Broadcast, mac(1), 0, Flood},
			{time.Millisecond, lan, Broadcast, mac(1), 0, DropEcho},
			{0, lan, Broadcast, mac(2), 0, Flood},
			{time.Millisecond, agent1, Broadcast, mac(2), 0, DropEcho},
		},
		"an echo of a busy station, too": {
			{0, agent1, Broadcast, mac(1), 0, Flood},
			{950 * time.Millisecond, agent1, Broadcast, mac(1), 0, Flood},
			{150 * time.Millisecond, lan, Broadcast, mac(1), 0, DropEcho},
		},
		"a station can move to the LAN": {
			{0, agent1, Broadcast, mac(1), 0, Flood},
			{echoTime, lan, Broadcast, mac(1), 0, Flood},
		},
		"bad sources and link-local": {
			{0, tap, mac(1), Broadcast, 0, DropSource},
			{0, tap, mac(1), MAC{}, 0, DropSource},
			{0, tap, mac(1), group, 0, DropSource},
			{0, tap, MAC{0x01, 0x80, 0xc2, 0, 0, 0}, mac(1), 0, DropLinkLocal},
			{0, tap, MAC{0x01, 0x80, 0xc2, 0, 0, 0x0e}, mac(1), 0, DropLinkLocal},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := Switch{LAN: []bool{false, true}}
			now := Instant(time.Hour)
			floods := NewSource(false)
			for i, st := range steps {
				now = now.Add(st.after)
				to, v := s.Forward(now, st.from, eth(st.dst, st.src), &floods)
				if to != st.to || v != st.want {
					t.Fatalf("step %d: %v to %x, want %v to %x", i, v, to, st.want, st.to)
				}
			}
		})
	}
}

// A frame that goes round between two bridges on one LAN, or whose source is
// this host itself, ends.
func TestFramesThatGoRound(t *testing.T) {
	s := Switch{LAN: []bool{true}}
	s.Own.Store(&[]MAC{mac(9)})
	now := Instant(time.Hour)
	lan, agent := NewSource(true), NewSource(false)
	if _, v := s.Forward(now, AgentPlace(1), eth(Broadcast, mac(9)), &agent); v != DropEcho {
		t.Errorf("our own host's frame from another agent: %v", v)
	}
	floods := 0
	for range 1000 { // a millisecond each round
		now = now.Add(time.Millisecond)
		if _, v := s.Forward(now, PortPlace(0), eth(Broadcast, mac(1)), &lan); v == Flood {
			floods++
		}
	}
	if floods != maxRepeats {
		t.Errorf("the same frame was flooded %d times", floods)
	}
	if _, v := s.Forward(now, PortPlace(0), eth(Broadcast, mac(2)), &lan); v != Flood {
		t.Errorf("another frame: %v", v)
	}
	if _, v := s.Forward(now.Add(time.Second), PortPlace(0), eth(Broadcast, mac(1)), &lan); v != Flood {
		t.Errorf("the frame a second later: %v", v)
	}
}

func TestSwitchShortFrames(t *testing.T) {
	var s Switch
	floods := NewSource(false)
	for n := range MinFrame {
		if _, v := s.Forward(1, PortPlace(0), make([]byte, n), &floods); v != DropShort {
			t.Errorf("%d bytes: %v", n, v)
		}
	}
}

func TestFloodIsBounded(t *testing.T) {
	var s Switch
	now := Instant(time.Hour)
	floods := NewSource(false)
	passed := 0
	for range 10 * FloodBurst { // over one second
		now = now.Add(time.Second / (10 * FloodBurst))
		if _, v := s.Forward(now, PortPlace(0), eth(Broadcast, mac(1)), &floods); v == Flood {
			passed++
		}
	}
	if passed > FloodBurst+FloodRate || passed < FloodBurst {
		t.Errorf("%d frames of a storm passed in a second", passed)
	}
	if _, v := s.Forward(now, AgentPlace(1), eth(mac(1), mac(2)), &floods); v != ToPlace {
		t.Errorf("a storm stops unicast: %v", v)
	}
}

func TestStationsAreBounded(t *testing.T) {
	var s Stations
	now := Instant(time.Hour)
	at, first := make(map[Place]int), 0
	fill := func(p Place, trust Trust) {
		for i := range MaxStations + 100 {
			n := first + i
			s.learn(now, MAC{2, byte(n >> 24), 0, byte(n >> 16), byte(n >> 8), byte(n)}, p, trust, false)
		}
		first += MaxStations + 100
	}
	for i := range 5 { // each invents addresses
		fill(AgentPlace(i), 0)
	}
	fill(PortPlace(0), 0)
	fill(PortPlace(1), TrustAll)
	for _, x := range s.List() {
		at[x.Place]++
	}
	if at[AgentPlace(0)] != AgentStations || at[AgentPlace(4)] != 0 || at[PortPlace(0)] != PortStations || at[PortPlace(1)] < AgentStations-PortStations {
		t.Errorf("stations learned: %v", at)
	}
	if n := len(s.List()); n != MaxStations {
		t.Errorf("%d stations learned", n)
	}
	s.Expire(now.Add(StationAge))
	if n := len(s.List()); n != 0 {
		t.Errorf("%d stations are left", n)
	}
	if s.Learn(now, mac(1), PortPlace(0)) == LearnedNothing {
		t.Error("nothing is learned after the table was full")
	}
	s.Learn(now, mac(2), AgentPlace(3))
	s.Forget(AgentPlace(3))
	if _, ok := s.Lookup(now, mac(2)); ok {
		t.Error("a station of an agent that is gone is still there")
	}
	if _, ok := s.Lookup(now, mac(1)); !ok {
		t.Error("a station was forgotten with another's agent")
	}
}

func TestForwardDoesNotAllocate(t *testing.T) {
	var s Switch
	floods := NewSource(false)
	s.Forward(1, AgentPlace(1), eth(Broadcast, mac(2)), &floods)
	f := eth(mac(2), mac(1))
	s.Forward(2, PortPlace(0), f, &floods)
	if n := testing.AllocsPerRun(100, func() { s.Forward(3, PortPlace(0), f, &floods) }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

func FuzzForward(f *testing.F) {
	f.Add(eth(mac(1), mac(2)))
	f.Fuzz(func(t *testing.T, frame []byte) {
		s := Switch{LAN: []bool{true}}
		floods := NewSource(false)
		now := Instant(time.Hour)
		for _, from := range []Place{PortPlace(0), PortPlace(1), AgentPlace(0), AgentPlace(1)} {
			if to, v := s.Forward(now, from, frame, &floods); v == ToPlace && to == from {
				t.Fatal("a frame goes back where it came from")
			}
		}
	})
}

func TestParseMAC(t *testing.T) {
	for _, s := range []string{"02:00:5e:10:00:ff", "02-00-5e-10-00-ff"} {
		if m, err := ParseMAC(s); err != nil || m.String() != "02:00:5e:10:00:ff" {
			t.Errorf("ParseMAC(%q) = %v, %v", s, m, err)
		}
	}
	for _, s := range []string{"", "02:00:5e:10:00", "02:00:5e:10:00:fg", "02.00.5e.10.00.ff", "02:00:5e:10:00:ff:01", "2:0:5e:10:0:ff      "} {
		if m, err := ParseMAC(s); err == nil {
			t.Errorf("ParseMAC(%q) = %v", s, m)
		}
	}
}

func TestAgentID(t *testing.T) {
	id := AgentID{1, 2, 3, 31: 9}
	got, err := ParseAgentID(id.String())
	if err != nil || got != id {
		t.Fatalf("%v, %v", got, err)
	}
	if s := id.String(); s[:8] != "12D3KooW" {
		t.Errorf("peer id %s", s)
	}
	for _, s := range []string{"", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "0OIl", id.String() + "1"} {
		if a, err := ParseAgentID(s); err == nil {
			t.Errorf("ParseAgentID(%q) = %v", s, a)
		}
	}
}

// A beacon on a physical LAN is for the agents there: it isn't carried to other
// LANs. Guests' own are their business, and so is all else that is sent to a group.
func TestBeaconsStayOnTheirLAN(t *testing.T) {
	udp := func(dst MAC, kind uint16, ip []byte, port uint16) []byte {
		f := eth(dst, mac(1))
		binary.BigEndian.PutUint16(f[12:], kind)
		return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(append(f, ip...), 24747), port)
	}
	ip4 := append([]byte{0: 0x45, 9: 17, 15: 0}, BeaconGroup4.AsSlice()...)
	ip6 := append([]byte{0: 0x60, 6: 17, 23: 0}, BeaconGroup6.AsSlice()...)
	four, six := udp(beaconMAC4, 0x0800, ip4, BeaconPort), udp(beaconMAC6, 0x86dd, ip6, BeaconPort)
	tagged := slices.Insert(slices.Clone(four), 12, 0x81, 0x00, 0x00, 0x07)
	tcp := slices.Clone(four)
	tcp[14+9] = 6
	otherGroup := slices.Clone(four) // of the same Ethernet address
	otherGroup[14+17] &= 0x7f
	lan, tap, agent := PortPlace(1), PortPlace(0), AgentPlace(0)
	for _, c := range []struct {
		name  string
		from  Place
		frame []byte
		want  Verdict
	}{
		{"IPv4", lan, four, DropBeacon},
		{"IPv6", lan, six, DropBeacon},
		{"in a VLAN", lan, tagged, DropBeacon},
		{"from a guest", tap, four, Flood},
		{"from an agent", agent, six, Flood},
		{"another port", lan, udp(beaconMAC4, 0x0800, ip4, BeaconPort+1), Flood},
		{"another group", lan, otherGroup, Flood},
		{"not UDP", lan, tcp, Flood},
		{"cut off", lan, four[:30], Flood},
		{"cut off in a VLAN", lan, tagged[:16], Flood},
		{"nothing but a head", lan, four[:14], Flood},
	} {
		s := Switch{LAN: []bool{false, true}}
		source := NewSource(c.from == lan)
		if _, v := s.Forward(1, c.from, c.frame, &source); v != c.want {
			t.Errorf("%s: %v, want %v", c.name, v, c.want)
		}
	}
}

// A station that left with its port's QEMU is nowhere, and may come back anywhere: its
// claim's number goes on.
func TestStationLeaves(t *testing.T) {
	var s Stations
	m, here, there := MAC{2, 1}, PortPlace(1), AgentPlace(7)
	now := Instant(time.Hour)
	s.Learn(now, m, here)
	s.Claim(m)
	s.Leave(now, m, there) // it isn't there
	if p, ok := s.Lookup(now, m); p != here || !ok {
		t.Fatalf("%v, %v", p, ok)
	}
	s.Leave(now, m, here)
	if p, ok := s.Lookup(now, m); ok {
		t.Fatalf("it is at %v", p)
	}
	if got := s.TakeClaim(now, Claim{MAC: m, Sequence: 2}, there, false, func(Place) bool { return false }); got != LearnedMove || !s.Late(now, m) {
		t.Errorf("%v, late %v", got, s.Late(now, m))
	}
	s.Leave(now, MAC{2, 2}, here) // nobody knows it
	s.Learn(now, m, here)
	s.Leave(now, m, here)
	s.Expire(now)
	if all := s.List(); len(all) != 0 {
		t.Errorf("%v", all)
	}
}

// BenchmarkForward is what it costs to find the place of a frame of data.
func BenchmarkForward(b *testing.B) {
	s, source := Switch{LAN: []bool{false}}, NewSource(false)
	now := Instant(time.Hour)
	s.Stations.Learn(now, mac(2), AgentPlace(1))
	frame := append(eth(mac(2), mac(1)), 0x45, 0, 5, 0xdc, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	frame = append(frame, make([]byte, 1400)...)
	for b.Loop() {
		if _, v := s.Forward(now, PortPlace(0), frame, &source); v != ToPlace {
			b.Fatal(v)
		}
	}
}
