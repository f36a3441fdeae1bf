package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// wireName makes a name of labels.
func wireName(name string) string {
	var b strings.Builder
	for label := range strings.SplitSeq(name, ".") {
		b.WriteByte(byte(len(label)))
		b.WriteString(label)
	}
	return b.String() + "\x00"
}

func nameRecord(name string, kind uint16, ttl uint32, data string) dnsRecord {
	n := wireName(name)
	return dnsRecord{name: n, key: string(lower([]byte(n))), kind: kind, flush: kind != dnsPTR, ttl: ttl, data: data}
}

func address4(name string, ttl uint32, ip netip.Addr) dnsRecord {
	return nameRecord(name, dnsA, ttl, string(ip.AsSlice()))
}

func service(instance string, ttl uint32) dnsRecord {
	return nameRecord("_ssh._tcp.local", dnsPTR, ttl, wireName(instance+"._ssh._tcp.local"))
}

// inMDNS makes the frame by which a machine says a message to all.
func inMDNS(src MAC, ip netip.Addr, body []byte) []byte {
	m := dnsMessage{source: ip, ip: MinFrame}
	kind := []byte{8, 0}
	if ip.Is6() {
		kind = []byte{0x86, 0xdd}
	}
	return m.reply(slices.Concat(make([]byte, 12), kind), src, ip, false, body)
}

func sayRecords(src MAC, ip netip.Addr, records ...dnsRecord) []byte {
	body := []byte{2: 0x84, 7: byte(len(records)), 11: 0}
	for i := range records {
		body = records[i].append(body, records[i].ttl)
	}
	return inMDNS(src, ip, body)
}

// askName asks for a name; class is 1, and with dnsFlag the answer may be for who asks alone.
func askName(src MAC, ip netip.Addr, name string, kind, class uint16, known ...dnsRecord) []byte {
	body := append([]byte{5: 1, 7: byte(len(known)), 11: 0}, wireName(name)...)
	body = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(body, kind), class)
	for i := range known {
		body = known[i].append(body, known[i].ttl)
	}
	return inMDNS(src, ip, body)
}

// probeName looks whether a name is free for an address.
func probeName(src MAC, ip netip.Addr, name string) []byte {
	body := append([]byte{5: 1, 9: 1, 11: 0}, wireName(name)...)
	r := address4(name, 120, ip)
	r.flush = false
	return inMDNS(src, ip, r.append(append(body, 0, dnsAny, 0x80, 1), 120))
}

// namesWorld are the agents of some sites, each with one port and the others.
type namesWorld struct {
	t     *testing.T
	now   Instant
	sites []*Switch
	ports []Source
	peers [][]Source
	gone  map[int]bool
	lost  func(from, to int) bool
}

func newNamesWorld(t *testing.T, sites int) *namesWorld {
	w := &namesWorld{t: t, now: Instant(time.Hour), gone: make(map[int]bool)}
	for range sites {
		w.sites = append(w.sites, new(Switch))
		w.ports = append(w.ports, NewSource(false))
		peers := make([]Source, sites)
		for i := range peers {
			peers[i] = NewSource(false)
			peers[i].Trust = TrustAll
		}
		w.peers = append(w.peers, peers)
	}
	return w
}

// say has a machine at a site say a frame. It returns whether it crossed, and what it got.
func (w *namesWorld) say(site int, frame []byte) (crossed bool, answers [][]byte) {
	w.t.Helper()
	s, f := w.sites[site], &Frame{Head: frame}
	if _, v := s.Forward(w.now, PortPlace(0), frame, &w.ports[site]); v != Flood || w.ports[site].Heard.Said != SaidMDNS {
		w.t.Fatalf("%v, says %v", v, w.ports[site].Heard.Said)
	}
	turn, answers := s.TellName(w.now, PortPlace(0), f, &w.ports[site].Heard, func(p Place) (Instant, bool) {
		i, ok := p.Agent()
		return 0, ok && !w.gone[i]
	})
	if turn != AskAll {
		return false, answers
	}
	for i, o := range w.sites {
		if i == site || w.gone[i] || w.gone[site] || w.lost != nil && w.lost(site, i) {
			continue
		}
		source := &w.peers[i][site]
		if _, v := o.Forward(w.now, AgentPlace(site), frame, source); v == Flood {
			o.HearName(w.now, AgentPlace(site), f, &source.Heard)
		}
	}
	return true, answers
}

func (w *namesWorld) crosses(what string, site int, frame []byte, want bool) {
	w.t.Helper()
	crossed, answers := w.say(site, frame)
	if crossed != want || len(answers) > 0 {
		w.t.Errorf("%s: crossed %v, want %v; %d answers", what, crossed, want, len(answers))
	}
}

// answered says a question that is answered at its site, and returns the answers.
func (w *namesWorld) answered(what string, site int, frame []byte) (all []dnsMessage) {
	w.t.Helper()
	crossed, answers := w.say(site, frame)
	if crossed || len(answers) == 0 {
		w.t.Errorf("%s: crossed %v, %d answers", what, crossed, len(answers))
	}
	for _, a := range answers {
		h, p := Listen(a), MinFrame
		if a[p] == 0x45 && fold(add(0, a[p:p+20])) != 0xffff {
			w.t.Errorf("%s: wrong header %x", what, a)
		}
		if h.Said != SaidMDNS { // it is for one
			b := slices.Clone(a)
			copy(b, []byte{1})
			copy(b[p+16:], mdnsGroup4[:])
			b[p+26], b[p+27] = 0, 0
			a, h = b, Listen(b)
		}
		m, ok := openMDNS(&Frame{Head: a}, &h)
		if !ok || !m.response {
			w.t.Fatalf("%s: %x", what, a)
		}
		all = append(all, m)
	}
	return all
}

func (w *namesWorld) wait(d time.Duration) {
	w.now = w.now.Add(d)
	for _, s := range w.sites {
		s.Names.Expire(w.now)
	}
}

// here has a machine be heard at its site and all others, so that they know where it is.
func (w *namesWorld) here(site int, m MAC) {
	for i, s := range w.sites {
		if i == site {
			s.Stations.Learn(w.now, m, PortPlace(0))
		} else {
			s.Stations.Learn(w.now, m, AgentPlace(site))
		}
	}
}

// What machines say of themselves crosses as far as it is news.
func TestNamesTold(t *testing.T) {
	w := newNamesWorld(t, 3)
	a, far := mac(1), mac(2)
	is, other := address4("a.local", 120, ip4(1)), address4("a.local", 120, ip4(9))
	w.crosses("an announcement", 0, sayRecords(a, ip4(1), is), true)
	w.wait(time.Second)
	w.crosses("its second", 0, sayRecords(a, ip4(1), is), true)
	w.wait(time.Second)
	w.crosses("what all know", 0, sayRecords(a, ip4(1), is), false)
	w.crosses("in another VLAN", 0, inVLAN(sayRecords(a, ip4(1), is), 0x81, 0, 0, 3), true)
	w.crosses("by IPv6", 0, sayRecords(a, ip6(1), is), true)
	w.wait(time.Second)
	w.crosses("with news beside it", 0, sayRecords(a, ip4(1), is, nameRecord("a.local", dnsTXT, 120, "x")), true)
	w.wait(50 * time.Second)
	w.crosses("what all heard less than half of its life ago", 0, sayRecords(a, ip4(1), is), false)
	w.wait(11 * time.Second)
	w.crosses("more than that", 0, sayRecords(a, ip4(1), is), true)
	w.wait(2 * time.Second)
	w.crosses("another address", 0, sayRecords(a, ip4(1), other), true)
	w.wait(2 * time.Second)
	w.crosses("both", 0, sayRecords(a, ip4(1), is, other), true)
	w.wait(2 * time.Second)
	w.crosses("one less", 0, sayRecords(a, ip4(1), other), true)
	w.wait(2 * time.Second)
	w.crosses("the same", 0, sayRecords(a, ip4(1), other), false)
	other.ttl = 60
	w.wait(2 * time.Second)
	w.crosses("another lifetime", 0, sayRecords(a, ip4(1), other), true)
	other.ttl = 0
	w.wait(time.Second)
	w.crosses("a goodbye", 0, sayRecords(a, ip4(1), other), true)
	other.ttl = 60
	for i, s := range w.sites {
		if n := s.Names.at[dnsName{other.key, 0, false}]; n != nil && slices.ContainsFunc(n.entries, func(e *dnsEntry) bool { return e.kind == dnsA }) {
			t.Errorf("site %d knows what has said goodbye", i)
		}
	}
	w.wait(time.Second)
	w.crosses("what comes back", 0, sayRecords(a, ip4(1), other), true)
	w.wait(time.Second)
	w.crosses("its second", 0, sayRecords(a, ip4(1), other), true)
	w.wait(10 * time.Second)
	w.crosses("a question from afar for what isn't known there", 2, askName(far, ip4(2), "A.local", dnsHINFO, 1), true)
	w.crosses("the answer", 0, sayRecords(a, ip4(1), other), true)
	w.wait(4 * time.Second)
	w.crosses("the same later", 0, sayRecords(a, ip4(1), other), false)
	w.here(1, a)
	w.wait(time.Second)
	for _, news := range []bool{true, true, false} {
		w.crosses("at another site", 1, sayRecords(a, ip4(1), other), news)
		w.wait(time.Second)
	}
	for _, s := range w.sites {
		s.Names.Renew(w.now)
	}
	w.wait(time.Second)
	w.crosses("when another agent is there", 1, sayRecords(a, ip4(1), other), true)
}

// What is asked is answered where it is asked, in the name of who would, for as long as it is
// known there as on a LAN.
func TestNamesAsked(t *testing.T) {
	w := newNamesWorld(t, 2)
	a, b, c := mac(1), mac(2), mac(3)
	ask := func(known ...dnsRecord) []byte { return askName(b, ip4(2), "A.local", dnsA, 1, known...) }
	w.crosses("what nobody knows", 1, ask(), true)
	w.wait(time.Second)
	w.crosses("that again", 1, ask(), true)
	is := address4("a.local", 120, ip4(1))
	w.crosses("an announcement", 0, sayRecords(a, ip4(1), is), true)
	w.wait(10 * time.Second)
	got := w.answered("what is known", 1, ask())
	want := is
	want.ttl = 110
	if m := got[0]; m.from != a || m.source != ip4(1) || m.port != portMDNS || len(m.records) != 1 || m.records[0] != want {
		t.Errorf("answered %+v, want %+v of %v", m, want, a)
	}
	w.wait(100 * time.Millisecond)
	if crossed, answers := w.say(1, askName(c, ip4(3), "a.local", dnsA, 1, address4("b.local", 9, ip4(2)))); crossed || len(answers) > 0 {
		t.Errorf("what all heard a moment ago: crossed %v, %d answers", crossed, len(answers))
	}
	alone := w.answered("for one alone", 1, askName(c, ip4(3), "a.local", dnsA, dnsFlag|1))
	if _, answers := w.say(1, askName(c, ip4(3), "a.local", dnsA, dnsFlag|1, address4("x.local", 120, ip4(1)))); len(alone) != 1 || len(answers) != 1 ||
		MAC(answers[0]) != c || !bytes.Equal(answers[0][30:34], ip4(3).AsSlice()) {
		t.Errorf("one that wants it alone got %x", answers)
	}
	w.wait(2 * time.Second)
	known := is
	known.ttl = 70
	w.crosses("what who asks knows", 1, ask(known), false)
	known.ttl = 20
	w.answered("what it knows almost no more", 1, ask(known))
	w.crosses("for another type", 1, askName(b, ip4(2), "a.local", dnsAAAA, 1), true)
	w.crosses("for any type", 1, askName(b, ip4(2), "a.local", dnsAny, 1), true)
	w.crosses("by IPv6", 1, askName(b, ip6(2), "a.local", dnsA, 1), true)
	w.crosses("at its own site", 0, askName(c, ip4(3), "a.local", dnsA, 1), false)
	w.wait(80 * time.Second)
	w.here(0, a)
	w.answered("for most of its life", 1, ask())
	w.wait(5 * time.Second)
	w.crosses("not at its end", 1, ask(), true)
	w.crosses("which its owner answers", 0, sayRecords(a, ip4(1), is), true)
	w.wait(time.Second)
	w.answered("and is known again", 1, ask())
	w.wait(2 * time.Second)
	w.gone[0] = true
	w.crosses("of an agent that is gone", 1, ask(), true)
	w.gone[0] = false
	w.wait(2 * time.Second)
	w.sites[1].Stations.Forget(AgentPlace(0))
	w.crosses("of a station that nobody knows", 1, ask(), true)
	w.wait(2 * time.Minute)
	w.crosses("when its life is over", 1, ask(), true)
	if n := w.sites[1].Names.Len(); n != 0 {
		t.Errorf("%d records are left", n)
	}
}

// By IPv6 answers are right, too; and that there is no record of a type is an answer.
func TestNamesDeny(t *testing.T) {
	w := newNamesWorld(t, 2)
	a := mac(1)
	denial := nameRecord("a.local", dnsNSEC, 120, wireName("a.local")+"\x00\x04\x00\x00\x00\x08") // AAAA only
	w.crosses("an announcement", 0, sayRecords(a, ip6(1), nameRecord("a.local", dnsAAAA, 120, string(ip6(1).AsSlice())), denial), true)
	w.wait(2 * time.Second)
	for kind, want := range map[uint16]uint16{dnsAAAA: dnsAAAA, dnsA: dnsNSEC, dnsTXT: dnsNSEC} {
		w.wait(2 * time.Second)
		got := w.answered("known", 1, askName(mac(2), ip6(2), "a.local", kind, 1))
		if m := got[0]; m.from != a || m.source != ip6(1) || len(m.records) != 1 || m.records[0].kind != want {
			t.Errorf("type %d: %+v", kind, m)
		}
	}
}

// Who browses gets all from its site, and the site asks on, more and more seldom, but finds what
// was lost, and what it can't be sure of.
func TestNamesBrowsed(t *testing.T) {
	w := newNamesWorld(t, 3)
	var told []dnsRecord
	for i := range byte(20) {
		told = append(told, service(fmt.Sprint("s", i), 4500))
		w.crosses("an announcement", int(i)%2, sayRecords(mac(i), ip4(i), told[i]), true)
	}
	asks := func(known ...dnsRecord) []byte {
		return askName(mac(100), ip4(100), "_ssh._tcp.local", dnsPTR, 1, known...)
	}
	var crossed []int
	for second := range 2000 {
		w.wait(time.Second)
		for i := range byte(20) {
			w.here(int(i)%2, mac(i))
		}
		if across, _ := w.say(2, asks(told...)); across {
			crossed = append(crossed, second)
		}
	}
	if want := []int{0, 1, 5, 21, 85, 341, 1365}; !slices.Equal(crossed, want) {
		t.Errorf("crossed after %v s, want %v", crossed, want)
	}
	w.wait(time.Second)
	if got := w.answered("one that knows nothing", 2, asks()); len(got) != len(told) {
		t.Errorf("%d machines answered, want %d", len(got), len(told))
	}
	w.lost = func(_, to int) bool { return to == 2 }
	for range 2 {
		w.crosses("an announcement that is lost", 0, sayRecords(mac(30), ip4(30), service("lost", 4500)), true)
		w.wait(time.Second)
	}
	w.lost = nil
	w.wait(time.Hour / 4)
	for i := range byte(20) {
		w.here(int(i)%2, mac(i))
	}
	w.wait(time.Hour / 3)
	w.crosses("what nobody is sure of any more", 2, asks(), true)
	w.wait(100 * time.Millisecond)
	w.crosses("the answer that it got", 0, sayRecords(mac(30), ip4(30), service("lost", 4500)), true)
	if n := len(w.sites[2].Names.at[dnsName{told[0].key, 0, false}].entries); n != len(told)+1 {
		t.Errorf("knows %d services", n)
	}
}

// A machine that starts again, as its look at its name shows, is heard of again by all.
func TestNamesBegun(t *testing.T) {
	w := newNamesWorld(t, 2)
	a := mac(1)
	is := []dnsRecord{service("a", 4500), address4("a.local", 4500, ip4(1))}
	for _, crosses := range []bool{true, true, false} {
		w.crosses("an announcement", 0, sayRecords(a, ip4(1), is...), crosses)
		w.wait(time.Second)
	}
	w.wait(time.Minute)
	w.crosses("a look at another's name", 0, probeName(mac(2), ip4(2), "a.local"), true)
	w.crosses("an answer", 0, sayRecords(a, ip4(1), is...), false)
	w.wait(time.Minute)
	w.crosses("a look at its own", 0, probeName(a, ip4(1), "a.local"), true)
	for _, crosses := range []bool{true, true, false} {
		w.wait(time.Second)
		w.crosses("an announcement after it", 0, sayRecords(a, ip4(1), is...), crosses)
	}
}

// Two machines at two sites that take one name hear of each other.
func TestNamesContested(t *testing.T) {
	w := newNamesWorld(t, 3)
	a, b := mac(1), mac(2)
	is := address4("a.local", 120, ip4(1))
	for range 3 {
		w.crosses("a look whether a name is free", 0, probeName(a, ip4(1), "a.local"), true)
		w.wait(250 * time.Millisecond)
	}
	for range 2 {
		w.crosses("an announcement", 0, sayRecords(a, ip4(1), is), true)
		w.wait(time.Second)
	}
	w.wait(10 * time.Second)
	for range 3 {
		w.crosses("a look at a name that isn't", 1, probeName(b, ip4(2), "a.local"), true)
		w.wait(250 * time.Millisecond)
	}
	w.crosses("who defends it", 0, sayRecords(a, ip4(1), is), true)
	w.wait(10 * time.Second)
	w.crosses("who doesn't look", 1, sayRecords(b, ip4(2), address4("a.local", 120, ip4(2))), true)
}

// What can't be understood, and what asks by another port, goes to all.
func TestNamesFlooded(t *testing.T) {
	w := newNamesWorld(t, 2)
	a, b := mac(1), mac(2)
	is := address4("a.local", 120, ip4(1))
	w.crosses("an announcement", 0, sayRecords(a, ip4(1), is), true)
	plain := askName(b, ip4(2), "a.local", dnsA, 1)
	for name, change := range map[string]func([]byte) []byte{
		"by another port":       func(f []byte) []byte { f[34], f[40], f[41] = 99, 0, 0; return f },
		"with a wrong checksum": func(f []byte) []byte { f[40] ^= 1; return f },
		"of another class":      func(f []byte) []byte { f[len(f)-1], f[40], f[41] = 3, 0, 0; return f },
		"cut short":             func(f []byte) []byte { f[39], f[40], f[41] = f[39]-1, 0, 0; return f },
		"an unknown operation":  func(f []byte) []byte { f[44], f[40], f[41] = 8, 0, 0; return f },
		"to another group":      func(f []byte) []byte { f[33], f[40], f[41] = 250, 0, 0; return f },
		"a fragment":            func(f []byte) []byte { f[20], f[40], f[41] = 0x20, 0, 0; return f },
		"of a name that loops":  func(f []byte) []byte { f[54], f[55], f[40], f[41] = 0xc0, 12, 0, 0; return f },
		"of unknown data": func([]byte) []byte {
			return sayRecords(b, ip4(2), nameRecord("b.local", 99, 120, "x"))
		},
	} {
		for range 3 {
			w.wait(2 * time.Second)
			w.crosses(name, 1, change(slices.Clone(plain)), true)
		}
	}
	w.wait(2 * time.Second)
	w.answered("unchanged", 1, plain)
}

// Who says ever more takes no room from others, and what finds none goes to all.
func TestNamesBounded(t *testing.T) {
	w := newNamesWorld(t, 3)
	w.crosses("an announcement", 2, sayRecords(mac(1), ip4(1), service("first", 4500)), true)
	rng := rand.New(rand.NewPCG(1, 1))
	names := &w.sites[1].Names
	for i := range 30000 {
		src := MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}
		f := sayRecords(src, ip4(2), service(fmt.Sprint("s", rng.Uint64()), 4500), address4(fmt.Sprint("h", rng.Uint64(), ".local"), 4500, ip4(2)))
		h := Listen(f)
		w.sites[1].HearName(w.now, AgentPlace(0), &Frame{Head: f}, &h)
	}
	if n := names.Len(); n > placeDNS+1 || n < placeDNS || names.bytes > maxDNSBytes {
		t.Errorf("%d records of %d bytes", n, names.bytes)
	}
	if n := len(names.at[dnsName{service("", 0).key, 0, false}].entries); n > nameDNS {
		t.Errorf("%d of one name", n)
	}
	w.here(2, mac(1))
	for range 3 {
		w.wait(10 * time.Second)
		w.crosses("a question of which not all is known", 1, askName(mac(2), ip4(2), "_ssh._tcp.local", dnsPTR, 1), true)
	}
	f := sayRecords(mac(3), ip4(3), service("third", 4500))
	h := Listen(f)
	one := newNamesWorld(t, 1).sites[0]
	for i := range 2 * stationDNS {
		g := sayRecords(mac(3), ip4(3), address4(fmt.Sprint("h", i, ".local"), 4500, ip4(3)))
		one.TellName(w.now, PortPlace(0), &Frame{Head: g}, &h, nil)
	}
	if n := one.Names.Len(); n != stationDNS {
		t.Errorf("%d records of one station, want %d", n, stationDNS)
	}
	for range 5 {
		w.now = w.now.Add(time.Second)
		if turn, _ := one.TellName(w.now, PortPlace(0), &Frame{Head: f}, &h, nil); turn != AskAll {
			t.Error("what isn't remembered doesn't go to all")
		}
	}
	w.wait(48 * time.Hour)
	if n := names.Len() + len(names.at) + len(names.of) + len(names.from) + names.bytes; n != 0 {
		t.Errorf("%d are left of what is over", n)
	}
}

// Whatever machines and agents say, it doesn't panic, and what is remembered is counted right.
func FuzzNames(f *testing.F) {
	a, b := mac(1), mac(2)
	f.Add(sayRecords(a, ip4(1), address4("a.local", 120, ip4(1)), service("a", 4500)), askName(b, ip4(2), "_ssh._tcp.local", dnsPTR, 1), uint16(5))
	f.Add(sayRecords(a, ip6(1), nameRecord("a.local", dnsSRV, 120, "\x00\x00\x00\x00\x00\x16"+wireName("b.local"))), probeName(b, ip4(2), "a.local"), uint16(900))
	f.Add(sayRecords(a, ip4(1), nameRecord("a.local", dnsNSEC, 0, wireName("a.local")+"\x00\x01\x40")), askName(b, ip4(2), "a.local", dnsAAAA, 0x8001, address4("a.local", 60, ip4(1))), uint16(60))
	f.Fuzz(func(t *testing.T, first, second []byte, seconds uint16) {
		var s Switch
		now := Instant(time.Hour)
		present := func(Place) (Instant, bool) { return 0, true }
		if len(first) >= MinFrame {
			s.Stations.Learn(now, MAC(first[6:12]), AgentPlace(1))
		}
		for i, x := range [][]byte{first, second, first, second, second, first} {
			h := Listen(x)
			if h.Said != SaidMDNS || len(x) < MinFrame {
				continue
			}
			fr := &Frame{Head: x, Offload: Offload{Start: uint16(h.At), Offset: 6}} // whose checksum nobody looks at
			if i%2 == 0 {
				s.HearName(now, AgentPlace(1), fr, &h)
			}
			if m, ok := openMDNS(fr, &h); ok && i == 0 {
				writtenAgain(t, &m)
			}
			_, answers := s.TellName(now, PortPlace(0), fr, &h, present)
			for _, frame := range answers {
				if l := Listen(frame); l.Said == SaidMDNS {
					if m, ok := openMDNS(&Frame{Head: frame}, &l); !ok || !m.response {
						t.Fatalf("answered %x", frame)
					}
				}
			}
			now = now.Add(time.Duration(seconds) * time.Second)
			s.Names.Expire(now)
		}
		count, size := 0, 0
		for _, n := range s.Names.at {
			for _, e := range n.entries {
				count, size = count+1, size+e.size()
			}
		}
		if count != s.Names.count || size != s.Names.bytes {
			t.Fatalf("%d records of %d bytes, counted %d of %d", count, size, s.Names.count, s.Names.bytes)
		}
	})
}

// writtenAgain checks that a message's records are the same when they are written and read again.
func writtenAgain(t *testing.T, m *dnsMessage) {
	body := []byte{2: 0x84, 6: byte(len(m.records) >> 8), 7: byte(len(m.records)), 11: 0}
	for i := range m.records {
		body = m.records[i].append(body, m.records[i].ttl)
	}
	var n dnsMessage
	if !n.parse(body) || !slices.Equal(n.records, m.records) {
		t.Fatalf("%+v became %+v", m.records, n.records)
	}
}

// Who knows more than a packet holds says so in several: one that isn't there is as if it were lost.
func TestNamesKnownMore(t *testing.T) {
	w := newNamesWorld(t, 2)
	a, b := service("a", 4500), service("b", 4500)
	w.crosses("an announcement", 0, sayRecords(mac(1), ip4(1), a), true)
	w.crosses("another", 0, sayRecords(mac(2), ip4(2), b), true)
	body := func(more byte, ask bool, known ...dnsRecord) []byte {
		m := []byte{2: more, 7: byte(len(known)), 11: 0}
		if ask {
			m[5] = 1
			m = append(m, a.name+"\x00\x0c\x00\x01"...)
		}
		for i := range known {
			m = known[i].append(m, 4500)
		}
		return inMDNS(mac(3), ip4(3), m)
	}
	w.wait(time.Second)
	w.crosses("a question that is due", 1, body(2, true, a), true)
	w.crosses("its rest", 1, body(0, false, b), true)
	w.wait(time.Second)
	w.crosses("once more", 1, body(2, true, a), true)
	w.wait(1500 * time.Millisecond)
	w.crosses("one that isn't", 1, body(2, true, a), false)
	w.crosses("its rest", 1, body(0, false, b), false)
	w.wait(time.Second)
	w.crosses("again", 1, body(2, true), false)
	if got := w.answered("whose rest knows one", 1, body(0, false, a)); len(got) != 1 || got[0].records[0].data != b.data {
		t.Errorf("answered %+v", got)
	}
	w.wait(100 * time.Millisecond)
	w.crosses("one whose rest is lost", 1, body(2, true, b), false)
	w.wait(2 * time.Second)
	w.crosses("what comes too late", 1, body(0, false, a, b), true)
	if n := len(w.sites[1].Names.held); n > 0 {
		t.Errorf("%d are held", n)
	}
}

// Who asks without end gets so many answers here, and then as many as without.
func TestNamesAnswerRate(t *testing.T) {
	w := newNamesWorld(t, 2)
	w.crosses("an announcement", 0, sayRecords(mac(1), ip4(1), address4("a.local", 4500, ip4(1))), true)
	w.ports[1].floods, w.ports[1].Trust = NewBucket(1<<30, 1<<30), TrustAll
	here := 0
	for i := range answerBurst + 1000 {
		if crossed, answers := w.say(1, askName(MAC{2, 9, 0, 0, byte(i >> 8), byte(i)}, ip4(2), "a.local", dnsA, dnsFlag|1)); !crossed {
			here += len(answers)
		}
	}
	if here != answerBurst {
		t.Errorf("%d answers, want %d", here, answerBurst)
	}
}
