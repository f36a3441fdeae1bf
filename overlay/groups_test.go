package overlay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// groupMAC returns the address that a group maps to.
func groupMAC(g netip.Addr) MAC {
	if g.Is4() {
		b := g.As4()
		return MAC{0x01, 0, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := g.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// toGroup makes an IP packet to a group.
func toGroup(src MAC, group netip.Addr, protocol, ttl byte, payload []byte) []byte {
	dst := groupMAC(group)
	if !group.Is4() {
		f := packet6(dst, src, netip.MustParseAddr("fe80::1"), group, protocol, payload...)
		f[MinFrame+7] = ttl
		return f
	}
	g := group.As4()
	h := slices.Concat([]byte{0x46, 0xc0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0, 10, 0, 0, 1}, g[:], []byte{0x94, 4, 0, 0}) // with the router alert
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	putIPv4Checksum(h)
	return slices.Concat(dst[:], src[:], []byte{8, 0}, h, payload)
}

// igmp makes an IGMP message.
func igmp(src MAC, to string, b ...byte) []byte {
	b[2], b[3] = 0, 0
	binary.BigEndian.PutUint16(b[2:], ^fold(add(0, b)))
	return toGroup(src, netip.MustParseAddr(to), protocolIGMP, 1, b)
}

// mld makes an MLD message, behind the router alert.
func mld(src MAC, to string, b ...byte) []byte {
	f := toGroup(src, netip.MustParseAddr(to), protocolHopOptions, 1, append([]byte{protocolICMPv6, 0, 5, 2, 0, 0, 1, 0}, b...))
	p, icmp := f[MinFrame:], f[MinFrame+48:]
	icmp[2], icmp[3] = 0, 0
	binary.BigEndian.PutUint16(icmp[2:], ^fold(add(pseudoSum(p, len(icmp), protocolICMPv6), icmp)))
	return f
}

func bytesOf(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// query4 asks for all groups, or for one; what is more makes it version 3's.
func query4(src MAC, tenths byte, group string, more ...byte) []byte {
	to := group
	if to == "0.0.0.0" {
		to = "224.0.0.1"
	}
	return igmp(src, to, slices.Concat([]byte{igmpQuery, tenths, 0, 0}, bytesOf(group), more)...)
}

// report4 makes a record of version 3 for a group.
func report4(src MAC, kind byte, group string, sources ...string) []byte {
	b := slices.Concat([]byte{igmpReport3, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, byte(len(sources))}, bytesOf(group))
	for _, s := range sources {
		b = append(b, bytesOf(s)...)
	}
	return igmp(src, "224.0.0.22", b...)
}

func report6(src MAC, kind byte, group string) []byte {
	return mld(src, "ff02::16", slices.Concat([]byte{mldReport2, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, 0}, bytesOf(group))...)
}

func query6(src MAC, group string, wait uint16, more ...byte) []byte {
	to := group
	if to == "::" {
		to = "ff02::1"
	}
	return mld(src, to, slices.Concat([]byte{mldQuery, 0, 0, 0, byte(wait >> 8), byte(wait), 0, 0}, bytesOf(group), more)...)
}

func data(group string) []byte {
	return toGroup(mac(7), netip.MustParseAddr(group), protocolUDP, 64, make([]byte, 100))
}

// A snooper is a table with a clock.
type snooper struct {
	t   *testing.T
	g   Groups
	now Instant
}

// The places of a snooper: two ports, and agents.
var snooperPlaces = []Place{PortPlace(0), PortPlace(1), AgentPlace(0), AgentPlace(1), AgentPlace(2)}

// newSnooper returns one where a querier at the second port was answered twice.
func newSnooper(t *testing.T) *snooper {
	s := &snooper{t: t, now: Instant(time.Hour)}
	s.g.Meet(s.now, snooperPlaces)
	s.ask()
	return s
}

var querier = mac(9)

// ask has the querier ask twice, by both versions of IP, and waits for answers.
func (s *snooper) ask() {
	for range 2 {
		s.after(time.Second)
		s.from(PortPlace(1), query4(querier, 10, "0.0.0.0"))
		s.from(PortPlace(1), query6(querier, "::", 1000))
		s.after(2 * time.Second)
	}
}

func (s *snooper) after(d time.Duration) { s.now = s.now.Add(d) }

func (s *snooper) from(p Place, frame []byte) (Reach, bool) {
	_, r, news := s.g.Take(s.now, p, frame, nil)
	return r, news
}

// goes checks where data for a group goes; nil is everywhere.
func (s *snooper) goes(frame []byte, want ...Place) {
	s.t.Helper()
	to, r, news := s.g.Take(s.now, PortPlace(0), frame, nil)
	slices.Sort(to)
	slices.Sort(want)
	if (r == ReachAll) != (want == nil) || news || !slices.Equal(to, want) {
		s.t.Errorf("%x goes to %v (%d), want %v", frame[:min(len(frame), 40)], to, r, want)
	}
}

// Data goes to those who listen, and to routers, of all versions of the protocols.
func TestGroups(t *testing.T) {
	one, two, router := AgentPlace(0), AgentPlace(1), PortPlace(1)
	for name, c := range map[string]struct {
		group string
		join  []byte
		leave []byte
		ask   []byte
	}{
		"IGMPv1": {"239.1.2.3", igmp(mac(1), "239.1.2.3", slices.Concat([]byte{igmpReport1, 0, 0, 0}, bytesOf("239.1.2.3"))...), nil, nil},
		"IGMPv2": {
			"239.1.2.3", igmp(mac(1), "239.1.2.3", slices.Concat([]byte{igmpReport2, 0, 0, 0}, bytesOf("239.1.2.3"))...),
			igmp(mac(1), "224.0.0.2", slices.Concat([]byte{igmpLeave, 0, 0, 0}, bytesOf("239.1.2.3"))...), query4(querier, 10, "239.1.2.3"),
		},
		"IGMPv3":   {"239.1.2.3", report4(mac(1), recordToExclude, "239.1.2.3"), report4(mac(1), recordToInclude, "239.1.2.3"), query4(querier, 10, "239.1.2.3", 2, 125, 0, 0)},
		"a source": {"232.1.2.3", report4(mac(1), recordAllow, "232.1.2.3", "10.0.0.1"), report4(mac(1), 6, "232.1.2.3", "10.0.0.1"), query4(querier, 10, "232.1.2.3", 2, 125, 0, 0)},
		"MLDv1": {
			"ff05::77", mld(mac(1), "ff05::77", slices.Concat([]byte{mldReport1, 0, 0, 0, 0, 0, 0, 0}, bytesOf("ff05::77"))...),
			mld(mac(1), "ff02::2", slices.Concat([]byte{mldDone, 0, 0, 0, 0, 0, 0, 0}, bytesOf("ff05::77"))...), query6(querier, "ff05::77", 1000),
		},
		"MLDv2": {"ff05::77", report6(mac(1), recordIsExclude, "ff05::77"), report6(mac(1), recordToInclude, "ff05::77"), query6(querier, "ff05::77", 1000, 2, 125, 0, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSnooper(t)
			s.goes(data(c.group)) // nobody listened yet
			if r, news := s.from(one, c.join); r != ReachRouters || !news {
				t.Errorf("the report goes to %d, news %v", r, news)
			}
			s.goes(data(c.group), one, router)
			tagged := inVLAN(c.join, 0x81, 0, 0, 7)
			s.from(two, tagged)
			s.goes(data(c.group), one, router)
			s.goes(inVLAN(data(c.group), 0x81, 0, 0, 7)) // where nobody asks
			if c.leave != nil {
				s.from(one, c.leave)
				s.goes(data(c.group), one, router)
				s.from(router, c.ask)
				s.after(2 * time.Second)
				s.goes(data(c.group), one, router)
				s.after(leaveSlack)
				s.goes(data(c.group), router)
				s.from(one, c.join)
				s.goes(data(c.group), one, router)
			}
			s.after(listenerAge - time.Second)
			s.ask()
			s.goes(data(c.group), router) // and it vanished
			s.after(querierAge)
			s.goes(data(c.group)) // nobody asks any more
		})
	}
}

// Who answers in time goes on listening, and so does another station at the same place.
func TestGroupAnswers(t *testing.T) {
	s := newSnooper(t)
	for _, at := range []Place{AgentPlace(0), AgentPlace(1)} {
		s.from(at, report4(mac(1), recordToExclude, "239.1.2.3"))
	}
	s.from(AgentPlace(0), report4(mac(2), recordToExclude, "239.1.2.3"))
	s.from(PortPlace(1), query4(querier, 10, "239.1.2.3", 2, 125, 0, 0))
	s.after(time.Second)
	if _, news := s.from(AgentPlace(0), report4(mac(2), recordIsExclude, "239.1.2.3")); !news {
		t.Error("who answers just in time is no news")
	}
	if _, news := s.from(AgentPlace(0), report4(mac(2), recordIsExclude, "239.1.2.3")); news {
		t.Error("who says it twice is news")
	}
	s.after(5 * time.Second)
	s.goes(data("239.1.2.3"), AgentPlace(0), PortPlace(1))
	s.from(PortPlace(1), query4(querier, 10, "239.1.2.3", 8|2, 125, 0, 0))                 // others answered yet
	s.from(PortPlace(1), query4(querier, 10, "239.1.2.3", 2, 125, 0, 1, 10, 0, 0, 1))      // of one source
	s.from(PortPlace(1), query4(querier, 10, "239.9.9.9", 2, 125, 0, 0))                   // of another group
	s.from(PortPlace(1), igmp(querier, "239.1.2.3", igmpQuery, 10, 0, 0, 239, 1, 2, 3, 2)) // of no length that is one
	s.after(20 * time.Second)
	s.goes(data("239.1.2.3"), AgentPlace(0), PortPlace(1))
}

// What all get is never kept from anybody.
func TestGroupsOfAll(t *testing.T) {
	s := newSnooper(t)
	for _, g := range []string{"224.0.0.251", "239.1.2.3"} {
		s.from(AgentPlace(0), report4(mac(1), recordToExclude, g))
	}
	for _, g := range []string{"ff02::fb", "ff05::77", "ff01::77"} {
		s.from(AgentPlace(0), report6(mac(1), recordToExclude, g))
	}
	s.goes(data("239.1.2.3"), AgentPlace(0), PortPlace(1))
	s.goes(data("ff05::77"), AgentPlace(0), PortPlace(1))
	s.goes(data("224.0.0.251"))
	s.goes(data("ff02::fb"))
	s.goes(data("ff02::77")) // the same Ethernet address as ff05::77
	s.goes(data("ff01::77"))
	s.goes(data("238.1.2.3")) // and as 239.1.2.3
	for _, frame := range [][]byte{
		eth(MAC{1, 0, 0x5e, 1, 2, 3}, mac(7)), eth(MAC{1, 0x80, 0xc2, 0, 0, 0x20}, mac(7)), eth(Broadcast, mac(7)),
		toGroup(mac(7), netip.MustParseAddr("239.1.2.3"), protocolIGMP, 1, make([]byte, 8)),
		toGroup(mac(7), netip.MustParseAddr("ff05::77"), protocolHopOptions, 1, make([]byte, 8)),
		toGroup(mac(7), netip.MustParseAddr("ff05::77"), protocolICMPv6, 1, make([]byte, 8)),
	} {
		s.goes(frame)
	}
	other := data("239.1.2.3")
	other[5]++ // not the group's Ethernet address
	s.goes(other)
}

// Who comes listens to everything until it was asked twice, and so do all where nobody was.
func TestGroupsOfNewPlaces(t *testing.T) {
	s := &snooper{t: t, now: Instant(time.Hour)}
	s.g.Meet(s.now, snooperPlaces)
	join := report4(mac(1), recordToExclude, "239.1.2.3")
	if r, _ := s.from(AgentPlace(0), join); r != ReachAll {
		t.Errorf("a report goes to %d where no router is known", r)
	}
	s.goes(data("239.1.2.3"))
	for _, at := range []int{1, 2} {
		s.after(time.Second)
		s.from(PortPlace(1), query4(querier, 100, "0.0.0.0"))
		s.after(10 * time.Second)
		s.goes(data("239.1.2.3")) // not all have answered
		if s.after(time.Second); at == 1 {
			s.goes(data("239.1.2.3"))
		}
	}
	s.goes(data("239.1.2.3"), AgentPlace(0), PortPlace(1))
	// One comes, and another one was away.
	s.g.Meet(s.now, append(slices.Clone(snooperPlaces), AgentPlace(5)))
	s.g.Forget(AgentPlace(2))
	s.goes(data("239.1.2.3"), AgentPlace(0), PortPlace(1), AgentPlace(5), AgentPlace(2))
	s.g.Meet(s.now, append(slices.Clone(snooperPlaces), AgentPlace(5)))
	s.ask()
	s.g.Doubt(s.now, AgentPlace(1)) // another one may not have been heard
	s.g.Doubt(s.now, AgentPlace(9))
	s.goes(data("239.1.2.3"), AgentPlace(0), PortPlace(1), AgentPlace(1))
	s.ask()
	s.goes(data("239.1.2.3"), AgentPlace(0), PortPlace(1))
	s.g.Meet(s.now, snooperPlaces)
	s.g.Forget(AgentPlace(0))
	s.g.Meet(s.now, snooperPlaces[:2])
	s.goes(data("239.1.2.3"), PortPlace(1))
	// The querier falls silent, and is back: what was known before says nothing.
	s.after(querierAge)
	s.goes(data("239.1.2.3"))
	s.from(PortPlace(1), query4(querier, 10, "0.0.0.0"))
	s.after(3 * time.Second)
	s.from(AgentPlace(1), join)
	s.goes(data("239.1.2.3"))
}

// What a station listens to follows it, and stays where it was, as do routers.
func TestGroupsFollow(t *testing.T) {
	s := newSnooper(t)
	s.from(AgentPlace(0), report4(mac(1), recordToExclude, "239.1.2.3"))
	s.from(AgentPlace(0), report4(mac(2), recordToExclude, "239.4.4.4"))
	s.g.Follow(s.now, mac(1), AgentPlace(1))
	s.g.Follow(s.now, mac(8), AgentPlace(2))
	s.goes(data("239.1.2.3"), AgentPlace(0), AgentPlace(1), PortPlace(1))
	s.goes(data("239.4.4.4"), AgentPlace(0), PortPlace(1))
	s.g.Follow(s.now, querier, AgentPlace(2))
	s.goes(data("239.4.4.4"), AgentPlace(0), PortPlace(1), AgentPlace(2))
	s.g.Hand(s.now, AgentPlace(0), PortPlace(0))
	s.goes(data("239.4.4.4"), AgentPlace(0), PortPlace(0), PortPlace(1), AgentPlace(2))

	// It is so for the switch, too.
	p := newPost(t)
	p.s.Groups.Meet(p.now, snooperPlaces)
	p.takes(postTap, report4(mac(1), recordToExclude, "239.1.2.3"), Flood)
	p.s.Groups.Take(p.now, postTap, report4(mac(1), recordToExclude, "239.1.2.3"), nil)
	p.now = p.now.Add(keptFor)
	p.takes(postLAN, eth(Broadcast, mac(1)), Flood)
	if got := p.s.Groups.at[postLAN]; got != 1 {
		t.Errorf("%d listeners where it went", got)
	}
	p.s.Forget(postLAN)
	if got := p.s.Groups.at[postLAN]; got != 0 {
		t.Errorf("%d listeners where nobody is", got)
	}
}

// A router is where hellos of PIM, or of routers, come from.
func TestGroupRouters(t *testing.T) {
	s := newSnooper(t)
	s.from(AgentPlace(0), report4(mac(1), recordToExclude, "239.1.2.3"))
	s.from(AgentPlace(1), toGroup(mac(3), netip.MustParseAddr("224.0.0.13"), protocolPIM, 1, []byte{0x20, 0, 0, 0}))
	s.from(AgentPlace(2), igmp(mac(4), "224.0.0.106", igmpRouter, 20, 0, 0, 0, 0, 0, 0))
	s.goes(data("239.1.2.3"), AgentPlace(0), AgentPlace(1), AgentPlace(2), PortPlace(1))
	s.from(AgentPlace(0), report6(mac(1), recordToExclude, "ff05::77"))
	s.from(AgentPlace(1), toGroup(mac(3), netip.MustParseAddr("ff02::d"), protocolPIM, 1, []byte{0x20, 0, 0, 0}))
	s.from(AgentPlace(2), mld(mac(4), "ff02::6a", mldRouter, 20, 0, 0, 0, 0, 0, 0))
	s.goes(data("ff05::77"), AgentPlace(0), AgentPlace(1), AgentPlace(2), PortPlace(1))
	for i := range byte(maxGroupRouters) {
		s.from(AgentPlace(1), query4(MAC{2, 1, 0, 0, 0, i}, 10, "0.0.0.0"))
	}
	s.goes(data("239.1.2.3")) // more than are remembered
}

// However much is said, no more than the bounds is remembered, and what isn't goes everywhere.
func TestGroupsAreBounded(t *testing.T) {
	s := newSnooper(t)
	s.from(AgentPlace(1), report4(mac(1), recordToExclude, "239.0.0.1"))
	group := func(i int) string { return netip.AddrFrom4([4]byte{239, 0, byte(i >> 8), byte(i)}).String() }
	for i := range 3 * maxPlaceListeners {
		s.from(AgentPlace(0), report4(mac(2), recordToExclude, group(i)))
	}
	s.goes(data(group(1)), AgentPlace(0), AgentPlace(1), PortPlace(1))
	s.goes(data(group(2*maxPlaceListeners + 1)))
	s.from(AgentPlace(1), report4(mac(1), recordToExclude, "239.7.0.1")) // others have room
	s.goes(data("239.7.0.1"), AgentPlace(1), PortPlace(1))
	s.from(AgentPlace(0), report4(mac(3), recordToExclude, "239.7.0.1"))
	s.goes(data("239.7.0.1")) // there is one who isn't remembered
	for i := range 2 * maxGroupNets {
		s.from(AgentPlace(0), inVLAN(query4(querier, 1, "0.0.0.0"), 0x81, 0, byte(i>>8), byte(i)))
	}
	for i := range 2 * maxListeners {
		s.from(AgentPlace(10+i%20), report4(MAC{2, 2, 2, 2, byte(i >> 8), byte(i)}, recordToExclude, "239.8.0.1"))
	}
	g := &s.g
	if len(g.nets) > maxGroupNets || g.groups > maxGroups || g.listeners > maxListeners || g.at[AgentPlace(0)] > maxPlaceListeners {
		t.Errorf("%d LANs, %d groups, %d listeners, %d at one place", len(g.nets), g.groups, g.listeners, g.at[AgentPlace(0)])
	}
	s.goes(data("239.8.0.1"))
	s.after(2 * listenerAge)
	g.Expire(s.now)
	if len(g.nets)+g.groups+g.listeners+len(g.at)+len(g.stations) != 0 {
		t.Errorf("left: %d LANs, %d groups, %d listeners at %d places of %d stations", len(g.nets), g.groups, g.listeners, len(g.at), len(g.stations))
	}
}

// A group to which nobody listens any more isn't sent everywhere while it is used.
func TestGroupsLeft(t *testing.T) {
	s := newSnooper(t)
	s.from(AgentPlace(0), report4(mac(1), recordToExclude, "239.1.2.3"))
	for range 100 {
		s.after(10 * time.Second)
		s.ask()
		s.g.Expire(s.now)
		s.g.Take(s.now, PortPlace(0), data("239.1.2.3"), nil)
	}
	s.goes(data("239.1.2.3"), PortPlace(1))
	for range 20 {
		s.after(10 * time.Second)
		s.ask()
	}
	s.g.Expire(s.now)
	s.goes(data("239.1.2.3"))
}

// What is malformed says nothing.
func TestMalformedReports(t *testing.T) {
	v4, v6 := report4(mac(1), recordToExclude, "239.1.2.3"), report6(mac(1), recordToExclude, "ff05::77")
	says := func(frame []byte) bool {
		m, data := parseGroups(frame)
		said := 0
		m.each(func(groupAddress) { said++ })
		return m.speaks != speaksNothing || data || said > 0
	}
	if !says(v4) || !says(v6) {
		t.Fatal("what is right says nothing")
	}
	for _, frame := range [][]byte{v4, v6, query4(querier, 10, "0.0.0.0"), query6(querier, "::", 1000)} {
		for n := range frame {
			if says(frame[:n]) {
				t.Errorf("%x, cut to %d bytes, says something", frame, n)
			}
		}
		for i := MinFrame; i < len(frame); i++ { // but for IPv6's traffic class and flow label nothing is unprotected
			if frame[12] == 0x86 && (i < MinFrame+4 || i >= MinFrame+40 && i < MinFrame+48 || i == MinFrame+4 || i == MinFrame+5) {
				continue
			}
			bad := bytes.Clone(frame)
			if bad[i]++; says(bad) {
				t.Errorf("%x: byte %d isn't looked at", bad, i)
			}
		}
	}
	records := func(count byte, b ...byte) []byte {
		return igmp(mac(1), "224.0.0.22", append([]byte{igmpReport3, 0, 0, 0, 0, 0, 0, count}, b...)...)
	}
	for _, frame := range [][]byte{
		records(2, 4, 0, 0, 0, 239, 1, 2, 3), records(1, 4, 1, 0, 0, 239, 1, 2, 3), records(1, 4, 0, 0xff, 0xff, 239, 1, 2, 3),
		records(1, 4, 0, 0, 0, 239), records(1), igmp(mac(1), "224.0.0.1", igmpQuery, 1, 0, 0, 0, 0, 0, 0, 0, 0),
	} {
		if says(frame) {
			t.Errorf("%x says something", frame)
		}
	}
	for _, c := range []struct {
		frame []byte
		want  int
	}{
		{records(0), 0},
		{records(1, 99, 0, 0, 0, 239, 1, 2, 3), 0},
		{records(1, 5, 0, 0, 0, 239, 1, 2, 3), 0},
		{records(1, 4, 0, 0, 0, 10, 1, 2, 3), 0},
		{records(2, 4, 1, 0, 0, 239, 1, 2, 3, 7, 7, 7, 7, 1, 0, 0, 1, 239, 1, 2, 4, 10, 0, 0, 1), 2},
		{report6(mac(1), recordToExclude, "ff02::1:ff00:1"), 0},
	} {
		m, _ := parseGroups(c.frame)
		said := 0
		m.each(func(groupAddress) { said++ })
		if m.speaks != speaksReport || said != c.want {
			t.Errorf("%x: %+v joins %d groups, want %d", c.frame, m, said, c.want)
		}
	}
}

// The times of queries are those of the RFCs.
func TestQueryTimes(t *testing.T) {
	for _, c := range []struct {
		frame  []byte
		wait   time.Duration
		robust int
	}{
		{query4(querier, 0, "0.0.0.0"), 10 * time.Second, 2},
		{query4(querier, 255, "0.0.0.0"), 25500 * time.Millisecond, 2},
		{query4(querier, 127, "0.0.0.0", 0, 125, 0, 0), 12700 * time.Millisecond, 2},
		{query4(querier, 128, "0.0.0.0", 3, 125, 0, 0), 12800 * time.Millisecond, 3},
		{query4(querier, 255, "0.0.0.0", 7, 125, 0, 0), 3174400 * time.Millisecond, 7},
		{query6(querier, "::", 65535), 65535 * time.Millisecond, 2},
		{query6(querier, "::", 32768, 2, 125, 0, 0), 32768 * time.Millisecond, 2},
		{query6(querier, "::", 65535, 2, 125, 0, 0), 8387584 * time.Millisecond, 2},
	} {
		if m, _ := parseGroups(c.frame); m.speaks != speaksQuery || m.wait != c.wait || m.robust != c.robust || m.specific || m.lowers {
			t.Errorf("%x: %+v, want %v", c.frame, m, c.wait)
		}
	}
}

// Where data goes is found without an allocation.
func TestGroupsDoNotAllocate(t *testing.T) {
	s := newSnooper(t)
	s.from(AgentPlace(0), report4(mac(1), recordToExclude, "239.1.2.3"))
	frame, to := data("239.1.2.3"), make([]Place, 0, 8)
	if n := testing.AllocsPerRun(100, func() { s.g.Take(s.now, PortPlace(0), frame, to[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzGroups shows that no frame makes the table panic, grow beyond its bounds, or say that a
// frame of another network or of all goes to some places only.
func FuzzGroups(f *testing.F) {
	for _, frame := range [][]byte{
		data("239.1.2.3"), data("ff05::77"), query4(querier, 10, "0.0.0.0"), query4(querier, 10, "239.1.2.3", 2, 125, 0, 0), query6(querier, "ff05::77", 1000, 2, 125, 0, 0),
		report4(mac(1), recordToExclude, "239.1.2.3", "10.0.0.1"), report6(mac(1), recordToExclude, "ff05::77"), inVLAN(report4(mac(1), recordAllow, "239.1.2.3"), 0x81, 0, 0, 7),
	} {
		f.Add(frame, uint8(1))
	}
	f.Fuzz(func(t *testing.T, frame []byte, from uint8) {
		s := newSnooper(t)
		s.from(AgentPlace(0), report4(mac(1), recordToExclude, "239.1.2.3"))
		s.from(AgentPlace(0), report6(mac(1), recordToExclude, "ff05::77"))
		for range 2 {
			to, r, _ := s.g.Take(s.now, AgentPlace(int(from)), frame, nil)
			if r == ReachPlaces && (len(to) == 0 || !ipGroup(MAC(frame))) {
				t.Errorf("%x goes to %v", frame, to)
			}
			s.after(time.Second)
		}
		s.g.Expire(s.now)
		listeners := 0
		for _, n := range s.g.at {
			listeners += n
		}
		if listeners != s.g.listeners || len(s.g.nets) > 4 {
			t.Errorf("%d listeners, %d at places, %d LANs", s.g.listeners, listeners, len(s.g.nets))
		}
		s.after(2 * listenerAge)
		s.g.Expire(s.now)
		if s.g.listeners+s.g.groups+len(s.g.nets) != 0 {
			t.Errorf("%d listeners, %d groups, %d LANs are left", s.g.listeners, s.g.groups, len(s.g.nets))
		}
	})
}
