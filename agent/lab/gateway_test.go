package lab

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// newGates returns the wide area of a lab with NATs, without its interfaces.
func newGates(t *testing.T, sites int, texts ...string) *Emulator {
	t.Helper()
	o := DefaultOptions("x")
	o.Sites, o.NATs = sites, nats(t, texts...)
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	w := wideArea(o, plan(o))
	e := &Emulator{sites: w.Sites, start: time.Now(), rnd: rand.New(rand.NewPCG(1, 1))}
	if err := e.makeGates(w.NATs); err != nil {
		t.Fatal(err)
	}
	return e
}

// datagram returns a UDP packet without payload and checksum.
func datagram(from, to netip.AddrPort) []byte {
	b := make([]byte, 28)
	b[0], b[3], b[9], b[25] = 0x45, 28, 17, 8
	f, t := from.Addr().As4(), to.Addr().As4()
	copy(b[12:], f[:])
	copy(b[16:], t[:])
	binary.BigEndian.PutUint16(b[20:], from.Port())
	binary.BigEndian.PutUint16(b[22:], to.Port())
	return b
}

func (e *Emulator) at(site int) netip.AddrPort {
	return netip.AddrPortFrom(e.sites[site].Prefixes[0].Addr(), 4747)
}

// pass carries a packet from a site through all gates. It returns the site whose
// path it took, the site that got it, and from whom it seems to be; -1 if it got
// lost.
func (e *Emulator) pass(from int, to netip.AddrPort) (path, got int, seen netip.AddrPort) {
	b := datagram(e.at(from), to)
	s, ok := e.leave(from, b)
	if !ok {
		return -1, -1, seen
	}
	path = e.target(s, b)
	got = e.enter(s, b)
	return path, got, netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:])), binary.BigEndian.Uint16(b[20:]))
}

// want passes a packet that must get to a site, by that site's path.
func (e *Emulator) want(t *testing.T, from int, to netip.AddrPort, site int) (seen netip.AddrPort) {
	t.Helper()
	path, got, seen := e.pass(from, to)
	if path != site || got != site {
		t.Fatalf("from site%d to %v: by the path to %d, got by %d; want %d", from, to, path, got, site)
	}
	return seen
}

// lost passes a packet that nobody must get.
func (e *Emulator) lost(t *testing.T, from int, to netip.AddrPort) {
	t.Helper()
	if _, got, _ := e.pass(from, to); got >= 0 {
		t.Fatalf("from site%d to %v: got by %d", from, to, got)
	}
}

func TestGatesShared(t *testing.T) {
	for _, isolated := range []string{"", ",isolated"} {
		e := newGates(t, 4, "site1=port-restricted,group=g,hairpin"+isolated, "site2=port-restricted,group=g,hairpin"+isolated)
		one, two := e.want(t, 1, e.at(3), 3), e.want(t, 2, e.at(3), 3)
		if one.Addr() != two.Addr() || one == two {
			t.Errorf("behind one NAT: %v and %v", one, two)
		}
		e.want(t, 3, two, 2)
		e.lost(t, 0, one) // filtered
		e.lost(t, 1, two)
		if seen := e.want(t, 2, one, 1); seen != two {
			t.Errorf("around the hairpin from %v, want %v", seen, two)
		}
		e.want(t, 1, two, 2)
		if isolated == "" {
			e.want(t, 1, e.at(2), 2)
			continue
		}
		e.lost(t, 1, e.at(2))
		if n := e.natStatus()[0].Dropped["isolated"]; n != 1 {
			t.Errorf("%d packets between isolated sites are counted", n)
		}
	}
}

func TestGatesNested(t *testing.T) {
	e := newGates(t, 4, "isp=full-cone,cgn,hairpin,random", "site1=full-cone,behind=isp,random", "site2=none,behind=isp")
	one := e.want(t, 1, e.at(3), 3)
	if one.Addr() != netip.MustParseAddr("30.99.100.1") {
		t.Errorf("site1 seems to be at %v", one)
	}
	e.want(t, 3, one, 1)
	two := e.want(t, 2, e.at(3), 3)
	e.want(t, 2, one, 1) // around the carrier's hairpin
	e.want(t, 1, two, 2)
	inner := e.want(t, 1, e.at(2), 2) // within the carrier's network
	if inner.Addr() != netip.MustParseAddr("100.64.0.70") {
		t.Errorf("to its neighbour site1 seems to be at %v", inner)
	}
	e.want(t, 2, inner, 1)
	e.want(t, 1, one, 1) // to itself, as a test for hairpinning does
	e.lost(t, 3, e.at(1))
	e.lost(t, 3, inner)
	if e.stray != 2 {
		t.Errorf("%d packets went to inside addresses from outside, want 2", e.stray)
	}
	if err := e.ForgetNAT("site1"); err != nil {
		t.Fatal(err)
	}
	e.want(t, 3, two, 2)
	e.lost(t, 3, one)
}

func TestGatesFirewall(t *testing.T) {
	e := newGates(t, 3, "site1=firewall", "home=tcp-only")
	e.lost(t, 2, e.at(1))
	if seen := e.want(t, 1, e.at(2), 2); seen != e.at(1) {
		t.Errorf("site1 seems to be at %v", seen)
	}
	e.want(t, 2, e.at(1), 1)
	e.lost(t, 0, e.at(2))
	if s := e.natStatus()[1]; s.Dropped["blocked"] != 1 || s.Mappings != 0 {
		t.Errorf("home's: %+v", s)
	}
	for name, says := range map[string]string{
		"site1": "site1 has a firewall, which has no address of its own", "site2": "site2 has no NAT", "x": `no site "x"`,
	} {
		if err := e.NewAddress(name); err == nil || err.Error() != says {
			t.Errorf("a new address for %s: %v, want %s", name, err, says)
		}
	}
}

func TestGatesNewAddress(t *testing.T) {
	e := newGates(t, 3, "site1=full-cone")
	first := e.want(t, 1, e.at(2), 2)
	if err := e.NewAddress("site1"); err != nil {
		t.Fatal(err)
	}
	second := e.want(t, 1, e.at(2), 2)
	if second.Addr() != first.Addr().Next() || second.Port() != first.Port() {
		t.Errorf("%v after %v", second, first)
	}
	e.lost(t, 2, first)
	e.want(t, 2, second, 1)
	for range publicAddresses - 1 {
		if err := e.NewAddress("site1"); err != nil {
			t.Fatal(err)
		}
	}
	e.want(t, 2, first, 1)
}

func TestGatesRefused(t *testing.T) {
	address := []netip.Addr{netip.MustParseAddr("30.99.1.1")}
	for name, nats := range map[string][]WANNAT{
		"circle":     {{Name: "a", Behind: "b", Addresses: address}, {Name: "b", Behind: "a", Addresses: address}},
		"nowhere":    {{Name: "a", Behind: "x", Addresses: address}},
		"no address": {{Name: "a"}},
	} {
		if (&Emulator{}).makeGates(nats) == nil {
			t.Errorf("%s: %+v is taken for possible", name, nats)
		}
	}
	if (&Emulator{sites: []WANSite{{Behind: "x"}}}).makeGates(nil) == nil {
		t.Error("a site is behind a NAT that isn't there")
	}
}
