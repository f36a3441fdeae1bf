package nat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"farlan/overlay"
)

const (
	public = "30.99.1.1"
	alice  = "192.168.1.2:4747" // inside
	bob    = "192.168.1.3:4747" // inside
	a1     = "30.99.2.1:1000"   // outside
	a2     = "30.99.2.1:2000"
	b1     = "30.99.3.1:1000"
)

var (
	fullCone       = Config{}
	restricted     = Config{Filtering: AddressDependent}
	portRestricted = Config{Filtering: AddressAndPortDependent}
	symmetric      = Config{Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent, Ports: Random}
	firewall       = Config{Filtering: AddressAndPortDependent, Firewall: true}
	tcpOnly        = Config{Filtering: AddressAndPortDependent, TCPOnly: true}
)

// A bench is a NAT under test, with its own time and chance.
type bench struct {
	*testing.T
	*NAT
	now overlay.Instant
	rnd *rand.Rand
}

func newBench(t *testing.T, c Config) *bench {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr(public)
	if c.Firewall {
		at = netip.Addr{}
	}
	return &bench{t, New(c, at), 1, rand.New(rand.NewPCG(1, 1))}
}

func (n *bench) after(d time.Duration) { n.now = n.now.Add(d) }

// out sends a packet from inside, which must pass, and returns whom the remote
// host sees.
func (n *bench) out(b []byte) string {
	n.Helper()
	if drop := n.Outbound(n.now, b, n.rnd); drop != Passed {
		n.Fatalf("from inside: %v", drop)
	}
	mustBeRight(n.T, b)
	p, _ := parse(b)
	return p.local(source).String()
}

func (n *bench) refusedOut(b []byte, want Drop) {
	n.Helper()
	before := n.Dropped[want]
	if drop := n.Outbound(n.now, b, n.rnd); drop != want || n.Dropped[want] != before+1 {
		n.Errorf("from inside: %v, want %v, counted", drop, want)
	}
}

// in sends a packet from outside; it must reach an inside endpoint, or be
// dropped as want says.
func (n *bench) in(b []byte, want any) {
	n.Helper()
	drop := n.Inbound(n.now, b)
	var got any = drop
	if drop == Passed {
		mustBeRight(n.T, b)
		p, _ := parse(b)
		got = p.local(destination).String()
	}
	if got != want {
		n.Errorf("from outside: %v, want %v", got, want)
	}
}

// TestKinds checks each kind against RFC 4787: mappings by section 4.1, filters
// by section 5.
func TestKinds(t *testing.T) {
	for name, kind := range map[string]struct {
		config         Config
		otherPort      bool // to another port of the same address goes the same mapping
		otherAddress   bool // … to another address
		fromOtherPort  any  // what becomes of a packet from there
		fromOtherHost  any
		preservesPorts bool
	}{
		"full cone":                 {fullCone, true, true, alice, alice, true},
		"restricted":                {restricted, true, true, alice, Filtered, true},
		"port-restricted":           {portRestricted, true, true, Filtered, Filtered, true},
		"symmetric":                 {symmetric, false, false, Filtered, Filtered, false},
		"address-dependent mapping": {Config{Mapping: AddressDependent, Filtering: AddressDependent}, true, false, alice, Filtered, true},
	} {
		for protocol, packet := range map[string]func(from, to, payload string) []byte{"UDP": udp, "TCP": tcp} {
			t.Run(name+"/"+protocol, func(t *testing.T) {
				n := newBench(t, kind.config)
				n.in(packet(a1, public+":4747", "unasked"), Unmapped)
				seen := n.out(packet(alice, a1, "x"))
				if (seen == public+":4747") != kind.preservesPorts {
					t.Errorf("the mapping is %v", seen)
				}
				n.in(packet(a1, seen, "x"), alice)
				n.in(packet(a2, seen, "x"), kind.fromOtherPort)
				n.in(packet(b1, seen, "x"), kind.fromOtherHost)
				if to2 := n.out(packet(alice, a2, "x")); (to2 == seen) != kind.otherPort {
					t.Errorf("to another port: %v after %v", to2, seen)
				}
				if to3 := n.out(packet(alice, b1, "x")); (to3 == seen) != kind.otherAddress {
					t.Errorf("to another address: %v after %v", to3, seen)
				}
				if n.Out != 3 {
					t.Errorf("%d packets are counted as out", n.Out)
				}
			})
		}
	}
}

func TestFirewall(t *testing.T) {
	n := newBench(t, firewall)
	const host = "30.99.1.1:4747"
	n.in(udp(a1, host, "x"), Unmapped)
	b := udp(host, a1, "x")
	whole := bytes.Clone(b)
	if n.out(b); !bytes.Equal(b, whole) {
		t.Error("a firewall changed a packet")
	}
	n.in(udp(a1, host, "x"), host)
	n.in(udp(a2, host, "x"), Filtered)
	n.in(udp(a1, "30.99.1.2:4747", "x"), Unmapped)
	n.in(icmpError(unreachable, 3, "30.99.2.1", "30.99.1.1", whole, 28), "30.99.1.1:0")
}

func TestTCPOnly(t *testing.T) {
	n := newBench(t, tcpOnly)
	seen := n.out(tcp(alice, a1, "x"))
	n.in(tcp(a1, seen, "x"), alice)
	n.refusedOut(udp(alice, a1, "x"), Blocked)
	n.refusedOut(echo(echoRequest, "192.168.1.2:7", "30.99.2.1:0", ""), Blocked)
	n.in(udp(a1, seen, "x"), Blocked)
	n.in(icmpError(unreachable, 4, "30.99.9.9", public, tcp(seen, a1, "x"), 28), "192.168.1.2:0")
	n.in(icmpError(unreachable, 3, "30.99.9.9", public, udp(seen, a1, "x"), 28), Blocked)
}

// TestPorts checks the choice of ports, RFC 4787 section 4.2.
func TestPorts(t *testing.T) {
	n := newBench(t, portRestricted)
	first, second := n.out(udp(alice, a1, "x")), n.out(udp(bob, a1, "x"))
	if first != public+":4747" || second == first || addrPort(second).Port() < firstPort {
		t.Errorf("two hosts with the same port: %v and %v", first, second)
	}
	if c := n.out(tcp(bob, a1, "x")); c != public+":4747" {
		t.Errorf("TCP has ports of its own, yet %v", c)
	}
	n.after(UDPLifetime)
	if c := n.out(udp(bob, a1, "x")); c != first {
		t.Errorf("a port that is free again is not taken: %v", c)
	}
	if len(n.inside) != 2 || len(n.outside) != 2 {
		t.Errorf("%d mappings from inside, %d from outside: the port's last one is left", len(n.inside), len(n.outside))
	}

	n = newBench(t, Config{Mapping: AddressAndPortDependent, Ports: Sequential})
	for i, to := range []string{a1, a2, b1} {
		if got, want := n.out(udp(alice, to, "x")), fmt.Sprintf("%s:%d", public, firstPort+i); got != want {
			t.Errorf("sequential: %v, want %v", got, want)
		}
	}
	n.next = lastPort
	if got := n.out(udp(bob, a1, "x")); got != public+":65535" {
		t.Errorf("the last port: %v", got)
	}
	if got, want := n.out(udp(bob, a2, "x")), fmt.Sprintf("%s:%d", public, firstPort+3); got != want {
		t.Errorf("after the last: %v, want %v", got, want)
	}

	kept := symmetric
	kept.Ports = Preserved
	n = newBench(t, kept)
	if first, second := n.out(udp(alice, a1, "x")), n.out(udp(alice, a2, "x")); first != public+":4747" || second == first {
		t.Errorf("symmetric and preserving: %v, %v", first, second)
	}
}

// TestLifetime checks RFC 4787 REQ-5 and REQ-6: packets from inside keep a
// mapping alive, those from outside don't, and every remote one has its own time.
func TestLifetime(t *testing.T) {
	n := newBench(t, Config{Filtering: AddressDependent, UDPLife: 30 * time.Second})
	seen := n.out(udp(alice, a1, "x"))
	n.after(20 * time.Second)
	n.in(udp(a1, seen, "x"), alice)
	n.out(udp(alice, b1, "x"))
	n.after(10*time.Second - 1)
	n.in(udp(a1, seen, "x"), alice)
	n.after(1)
	n.in(udp(a1, seen, "x"), Filtered)
	n.in(udp(b1, seen, "x"), alice)
	n.after(20 * time.Second)
	n.in(udp(b1, seen, "x"), Unmapped)
	if got := n.Mappings(n.now); got != 0 {
		t.Errorf("%d mappings live", got)
	}

	n = newBench(t, fullCone)
	seen = n.out(tcp(alice, a1, "x"))
	n.after(UDPLifetime)
	n.in(tcp(a1, seen, "x"), alice)
	n.after(TCPLifetime - UDPLifetime)
	n.in(tcp(a1, seen, "x"), Unmapped)
}

// TestFull fills the tables: what is in them goes on, and time makes room.
func TestFull(t *testing.T) {
	n := newBench(t, Config{Filtering: AddressAndPortDependent, MaxMappings: 3, MaxFilters: 4})
	host := func(i int) string { return fmt.Sprintf("192.168.1.%d:4747", i) }
	seen := n.out(udp(host(1), a1, "x"))
	n.out(udp(host(2), a1, "x"))
	n.after(time.Minute)
	n.out(udp(host(3), a1, "x"))
	n.refusedOut(udp(host(4), a1, "x"), Full)
	n.out(udp(host(1), b1, "x"))
	n.refusedOut(udp(host(1), a2, "x"), Full)
	n.in(udp(a1, seen, "x"), host(1))
	n.after(time.Minute)
	n.out(udp(host(4), a1, "x")) // the second host's mapping has run out
	n.out(udp(host(3), a2, "x"))
	if len(n.inside) != 3 || len(n.outside) != 3 || len(n.filters) != 4 {
		t.Errorf("%d and %d mappings, %d filters", len(n.inside), len(n.outside), len(n.filters))
	}
}

// TestSweepPause lets packets hammer a full table: it is not searched for each.
func TestSweepPause(t *testing.T) {
	n := newBench(t, Config{MaxMappings: 1, UDPLife: time.Second})
	n.out(udp(alice, a1, "x"))
	n.after(time.Second - 1)
	n.refusedOut(udp(bob, a1, "x"), Full)
	n.after(1)
	n.refusedOut(udp(bob, a1, "x"), Full)
	n.after(sweepPause)
	n.out(udp(bob, a1, "x"))
}

func TestForgetAndMove(t *testing.T) {
	n := newBench(t, symmetric)
	seen := addrPort(n.out(udp(alice, a1, "x")))
	moved := netip.AddrPortFrom(netip.MustParseAddr("30.99.1.2"), seen.Port())
	n.Move(moved.Addr())
	n.in(udp(a1, seen.String(), "x"), Unmapped)
	n.in(udp(a1, moved.String(), "x"), alice)
	if got := n.out(udp(alice, a1, "x")); got != moved.String() {
		t.Errorf("after the move: %v, want %v", got, moved)
	}
	n.Forget()
	n.in(udp(a1, moved.String(), "x"), Unmapped)
	if got := n.out(udp(alice, a1, "x")); got == moved.String() {
		t.Error("it remembers")
	}
}

// TestHairpin checks RFC 4787 REQ-9, 9a: the receiver sees a public endpoint.
func TestHairpin(t *testing.T) {
	for filtering, unasked := range map[Dependence]Drop{
		EndpointIndependent: Passed, AddressDependent: Filtered, AddressAndPortDependent: Filtered,
	} {
		n := newBench(t, Config{Filtering: filtering, Hairpin: true})
		seenA, seenB := n.out(udp(alice, a1, "x")), n.out(udp(bob, a1, "x"))
		if drop := n.Hairpin(n.now, udp(alice, seenB, "x"), n.rnd); drop != unasked {
			t.Errorf("filtering %v, unasked: %v, want %v", filtering, drop, unasked)
		}
		b := udp(bob, seenA, "x")
		if drop := n.Hairpin(n.now, b, n.rnd); drop != Passed {
			t.Errorf("filtering %v, as an answer: %v", filtering, drop)
		}
		mustBeRight(t, b)
		p, _ := parse(b)
		if p.local(source).String() != seenB || p.local(destination).String() != alice {
			t.Errorf("from %v to %v, want from %v to %v", p.local(source), p.local(destination), seenB, alice)
		}
	}
	n := newBench(t, fullCone)
	seen := n.out(udp(bob, a1, "x"))
	if drop := n.Hairpin(n.now, udp(alice, seen, "x"), n.rnd); drop != NoHairpin || n.Dropped[NoHairpin] != 1 {
		t.Errorf("without hairpinning: %v", drop)
	}
}

// TestHairpinError lets a host behind a hairpinning NAT say that nobody listens.
func TestHairpinError(t *testing.T) {
	n := newBench(t, Config{Hairpin: true})
	seenA, seenB := n.out(udp(alice, a1, "x")), n.out(udp(bob, a1, "x"))
	b := udp(alice, seenB, "x")
	if drop := n.Hairpin(n.now, b, n.rnd); drop != Passed {
		t.Fatal(drop)
	}
	e := icmpError(unreachable, 3, "192.168.1.3", public, b, len(b))
	if drop := n.Hairpin(n.now, e, n.rnd); drop != Passed {
		t.Fatalf("the answer %v: %v", seenA, drop)
	}
	mustBeRight(t, e)
	p, _ := parse(e)
	q, _ := p.quote()
	if p.addr(destination).String() != "192.168.1.2" || q.local(source).String() != alice || q.local(destination).String() != seenB {
		t.Errorf("to %v, about a packet from %v to %v", p.addr(destination), q.local(source), q.local(destination))
	}
}

// TestEcho checks RFC 5508 section 3: the identifier is the port.
func TestEcho(t *testing.T) {
	n := newBench(t, portRestricted)
	first := n.out(echo(echoRequest, "192.168.1.2:7", "30.99.2.1:0", "ping"))
	second := n.out(echo(echoRequest, "192.168.1.3:7", "30.99.2.1:0", "ping"))
	if first != public+":7" || second == first {
		t.Errorf("two hosts with the same identifier: %v and %v", first, second)
	}
	n.in(echo(echoReply, "30.99.2.1:0", second, "ping"), "192.168.1.3:7")
	n.in(echo(echoReply, "30.99.3.1:0", second, "ping"), Filtered)
	n.in(echo(echoRequest, "30.99.2.1:0", second, "ping"), Unmapped)
	n.refusedOut(echo(echoReply, "192.168.1.2:7", "30.99.2.1:0", "pong"), Protocol)
	n.after(EchoLifetime)
	n.in(echo(echoReply, "30.99.2.1:0", second, "ping"), Unmapped)
}

// TestErrors checks RFC 5508 section 4: errors about packets in either
// direction, as much as may be quoted of them.
func TestErrors(t *testing.T) {
	for _, filtering := range []Dependence{EndpointIndependent, AddressAndPortDependent} {
		for name, sent := range map[string]func() []byte{
			"UDP":  func() []byte { return udp(alice, a1, "some payload") },
			"TCP":  func() []byte { return tcp(alice, a1, "some payload") },
			"echo": func() []byte { return echo(echoRequest, alice, "30.99.2.1:0", "some payload") },
			"no checksum": func() []byte {
				b := udp(alice, a1, "x")
				binary.BigEndian.PutUint16(b[26:], 0)
				return b
			},
		} {
			for _, size := range []int{28, 36, 38, 1500} {
				n := newBench(t, Config{Filtering: filtering, Ports: Random})
				original, passed := sent(), sent()
				n.out(passed)
				checkErrorIn(n, fmt.Sprintf("%s, %d bytes", name, size), original, passed, size)
			}
		}
	}
}

// checkErrorIn lets a router say that a packet, original before and passed after
// translation, is too long: inside, the quoted packet must be as it was sent.
func checkErrorIn(n *bench, name string, original, passed []byte, size int) {
	n.Helper()
	e := icmpError(unreachable, 4, "30.99.9.9", public, passed, size)
	if drop := n.Inbound(n.now, e); drop != Passed {
		n.Errorf("%s: %v", name, drop)
		return
	}
	mustBeRight(n.T, e)
	p, _ := parse(e)
	if p.addr(source).String() != "30.99.9.9" || p.addr(destination).String() != "192.168.1.2" {
		n.Errorf("%s: from %v to %v", name, p.addr(source), p.addr(destination))
	}
	if q := e[28:]; !bytes.Equal(q, original[:len(q)]) {
		n.Errorf("%s: quotes\n% x, sent was\n% x", name, q, original)
	}
}

func TestErrorsRefused(t *testing.T) {
	n := newBench(t, portRestricted)
	seen := n.out(udp(alice, a1, "x"))
	n.in(icmpError(unreachable, 3, "30.99.2.1", public, udp(seen, a2, "x"), 28), Filtered)
	n.in(icmpError(unreachable, 3, "30.99.2.1", public, udp(public+":9", a1, "x"), 28), Unmapped)
	n.in(icmpError(unreachable, 3, "30.99.2.1", public, udp(seen, a1, "x"), 27), Malformed)
	n.in(icmpError(unreachable, 3, "30.99.2.1", public, []byte("no packet at all, that is"), 28), Malformed)
	n.in(icmpError(5, 1, "30.99.2.1", public, udp(seen, a1, "x"), 28), Unmapped)
	n.refusedOut(icmpError(unreachable, 3, "192.168.1.2", "30.99.2.1", udp(a1, bob, "x"), 28), Unmapped)
	n.after(UDPLifetime)
	n.in(icmpError(unreachable, 3, "30.99.2.1", public, udp(seen, a1, "x"), 28), Unmapped)
	n.refusedOut(icmpError(unreachable, 3, "192.168.1.2", "30.99.2.1", udp(a1, alice, "x"), 28), Unmapped)
}

// TestErrorOut lets an inside host say that nobody listens: the remote one sees
// its own packet quoted.
func TestErrorOut(t *testing.T) {
	n := newBench(t, symmetric)
	seen := n.out(udp(alice, a1, "x"))
	b := udp(a1, seen, "an answer")
	original := bytes.Clone(b)
	n.in(b, alice)
	e := icmpError(unreachable, 3, "192.168.1.2", "30.99.2.1", b, len(b))
	if drop := n.Outbound(n.now, e, n.rnd); drop != Passed {
		t.Fatal(drop)
	}
	mustBeRight(t, e)
	p, _ := parse(e)
	if p.addr(source).String() != public || !bytes.Equal(e[28:], original) {
		t.Errorf("from %v, about % x, want % x", p.addr(source), e[28:], original)
	}
	if len(n.inside) != 1 {
		t.Errorf("%d mappings", len(n.inside))
	}
}

// cut returns a packet in two fragments, the first with n bytes behind its
// header.
func cut(b []byte, n int) (first, later []byte) {
	first, later = bytes.Clone(b[:20+n]), append(bytes.Clone(b[:20]), b[20+n:]...)
	binary.BigEndian.PutUint16(first[6:], 0x2000)
	binary.BigEndian.PutUint16(later[6:], uint16(n/8))
	for _, f := range [][]byte{first, later} {
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[10:], 0)
		binary.BigEndian.PutUint16(f[10:], ^fold(f[:20]))
	}
	return first, later
}

// TestFragments checks RFC 4787 REQ-14: fragments in order pass, and put
// together they are the packet translated.
func TestFragments(t *testing.T) {
	n := newBench(t, symmetric)
	first, later := cut(udp(alice, a1, "fragments of a packet"), 16)
	n.refusedOut(bytes.Clone(later), Fragment)
	for _, f := range [][]byte{first, later} {
		if drop := n.Outbound(n.now, f, n.rnd); drop != Passed {
			t.Fatal(drop)
		}
	}
	join := func() []byte {
		p, _ := parse(first)
		return ipv4(protoUDP, p.addr(source), p.addr(destination), append(bytes.Clone(first[20:]), later[20:]...))
	}
	whole := join()
	mustBeRight(t, whole)
	if header, _ := residues(later); header != 0 {
		t.Error("the later fragment's checksum is wrong")
	}
	p, _ := parse(whole)
	seen := p.local(source).String()

	first, later = cut(udp(a1, seen, "fragments of the answer"), 8)
	for _, f := range [][]byte{first, later} {
		if drop := n.Inbound(n.now, f); drop != Passed {
			t.Fatal(drop)
		}
	}
	if q, _ := parseHeader(later); q.addr(destination) != addrPort(alice).Addr() {
		t.Errorf("the later fragment goes to %v", q.addr(destination))
	}
	mustBeRight(t, join())
	_, later = cut(udp(a1, seen, "fragments of the answer"), 8)
	n.after(fragmentLife)
	n.in(later, Fragment)
}

func TestFragmentsBound(t *testing.T) {
	n := newBench(t, fullCone)
	var all [][]byte
	for i := range maxFragments + 1 {
		first, later := cut(udp(alice, fmt.Sprintf("30.99.2.%d:1", i), "some payload"), 8)
		if drop := n.Outbound(n.now, first, n.rnd); drop != Passed {
			t.Fatal(drop)
		}
		all = append(all, later)
	}
	n.refusedOut(all[0], Fragment)
	if drop := n.Outbound(n.now, all[1], n.rnd); drop != Passed {
		t.Errorf("the second is forgotten too: %v", drop)
	}
}

func TestMalformed(t *testing.T) {
	good := udp(alice, a1, "payload")
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want Drop
	}{
		"nothing":           {nil, Malformed},
		"cut header":        {good[:19], Malformed},
		"cut payload":       {good[:len(good)-1], Malformed},
		"IPv6":              {change(0, 0x60), NotIPv4},
		"short header":      {change(0, 0x44), Malformed},
		"header too long":   {change(0, 0x4f), Malformed},
		"total too short":   {change(3, 19), Malformed},
		"no room for ports": {change(3, 27), Malformed},
		"short TCP":         {change(9, protoTCP), Malformed},
		"GRE":               {change(9, 47), Protocol},
		"redirect":          {icmpError(5, 1, "192.168.1.2", "30.99.2.1", good, 28), Protocol},
	} {
		n := newBench(t, fullCone)
		if drop := n.Outbound(n.now, c.b, n.rnd); drop != c.want || n.Dropped[c.want] != 1 {
			t.Errorf("%s: %v, want %v, counted", name, drop, c.want)
		}
	}
	b := append(bytes.Clone(good), "padding"...)
	n := newBench(t, fullCone)
	if n.out(b); string(b[len(good):]) != "padding" {
		t.Errorf("what follows the packet was changed: %q", b[len(good):])
	}
}

func TestConfigValidate(t *testing.T) {
	for name, c := range map[string]Config{
		"mapping":  {Mapping: dependences},
		"filter":   {Filtering: 9},
		"ports":    {Ports: portChoices},
		"lifetime": {UDPLife: -1},
		"mappings": {MaxMappings: 1 << 20},
		"filters":  {MaxFilters: -1},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: %+v is taken for valid", name, c)
		}
	}
}

func TestDoesNotAllocate(t *testing.T) {
	n := newBench(t, portRestricted)
	out, in := udp(alice, a1, "x"), udp(a1, public+":4747", "x")
	n.out(bytes.Clone(out))
	room := make([]byte, len(out))
	if allocs := testing.AllocsPerRun(1000, func() {
		copy(room, out)
		n.Outbound(n.now, room, n.rnd)
		copy(room, in)
		n.Inbound(n.now, room)
	}); allocs != 0 {
		t.Errorf("a packet each way allocates %v times", allocs)
	}
	if n.In != 1001 {
		t.Errorf("%d packets came in", n.In)
	}
}
