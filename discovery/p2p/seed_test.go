package p2p

import (
	"net/netip"
	"strings"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"farlan/overlay"
)

func TestParseSeed(t *testing.T) {
	id := overlay.AgentID(testKey(1)[32:])
	end := "/p2p/" + id.String()
	for _, c := range []struct {
		in   string
		want Seed
		fail string
	}{
		{"/ip4/192.0.2.1/udp/4747/quic-v1" + end, Seed{ID: id, Addr: netip.MustParseAddrPort("192.0.2.1:4747")}, ""},
		{" /ip6/2001:db8::1/udp/1/quic-v1" + end + "\n", Seed{ID: id, Addr: netip.MustParseAddrPort("[2001:db8::1]:1")}, ""},
		{"/dns4/host.example/udp/4747/quic-v1" + end, Seed{ID: id, Addr: netip.AddrPortFrom(netip.Addr{}, 4747), Host: "host.example", Family: "ip4"}, ""},
		{"/dns/host/udp/4747/quic-v1" + end, Seed{ID: id, Addr: netip.AddrPortFrom(netip.Addr{}, 4747), Host: "host", Family: "ip"}, ""},
		{"", Seed{}, "doesn't start with /"},
		{"192.0.2.1:4747", Seed{}, "doesn't start with /"},
		{"/ip4/192.0.2.1/udp/4747/quic-v1", Seed{}, "/p2p/ID is missing"},
		{"/ip4/192.0.2.1/tcp/4747" + end, Seed{ID: id, Addr: netip.MustParseAddrPort("192.0.2.1:4747")}, ""},
		{"/dns6/host.example/tcp/4747" + end, Seed{ID: id, Addr: netip.AddrPortFrom(netip.Addr{}, 4747), Host: "host.example", Family: "ip6"}, ""},
		{"/ip4/192.0.2.1/tcp/4747", Seed{}, "/p2p/ID is missing"},
		{"/ip4/192.0.2.1/tcp", Seed{}, "parts are not the right ones"},
		{"/ip4/192.0.2.1/tcp/0" + end, Seed{}, `"0" is not a port`},
		{"/ip4/192.0.2.1/tcp/4747/ws" + end, Seed{}, "parts are not the right ones"},
		{"/ip4/192.0.2.1/tcp/4747/quic-v1" + end, Seed{}, "parts are not the right ones"},
		{"/ip4/192.0.2.1/udp/4747/quic" + end, Seed{}, "parts are not the right ones"},
		{"/ip4/192.0.2.1/udp/0/quic-v1" + end, Seed{}, `"0" is not a port`},
		{"/ip4/192.0.2.1/udp/70000/quic-v1" + end, Seed{}, `"70000" is not a port`},
		{"/ip4/2001:db8::1/udp/1/quic-v1" + end, Seed{}, "is not an ip4 address"},
		{"/ip6/192.0.2.1/udp/1/quic-v1" + end, Seed{}, "is not an ip6 address"},
		{"/ip6/fe80::1%eth0/udp/1/quic-v1" + end, Seed{}, "is not an ip6 address"},
		{"/dns4//udp/1/quic-v1" + end, Seed{}, "is not a host name"},
		{"/unix/x/udp/1/quic-v1" + end, Seed{}, `"unix" is not a kind`},
		{"/ip4/192.0.2.1/udp/4747/quic-v1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", Seed{}, "not that of an Ed25519 key"},
	} {
		got, err := ParseSeed(c.in)
		switch {
		case c.fail == "" && (err != nil || got != c.want):
			t.Errorf("%s: %+v, %v", c.in, got, err)
		case c.fail == "":
			if again, err := ParseSeed(got.String()); err != nil || again != got {
				t.Errorf("%s comes back as %s", c.in, got)
			}
		case err == nil || !strings.Contains(err.Error(), c.fail) || !strings.Contains(err.Error(), "want /ip4/ADDRESS/udp/PORT/quic-v1/p2p/ID"):
			t.Errorf("%s: error %v, want %q", c.in, err, c.fail)
		}
	}
}

// Multiaddrs are those of libp2p, and ids too.
func TestMultiaddr(t *testing.T) {
	id := overlay.AgentID(testKey(1)[32:])
	for _, s := range []string{"192.0.2.1:4747", "[2001:db8::1]:4747", "[::ffff:192.0.2.1]:4747"} {
		a := netip.MustParseAddrPort(s)
		m, err := ma.NewMultiaddr(Multiaddr(id, a))
		if err != nil {
			t.Fatal(err)
		}
		if got, by, ok := addrPort(m); !ok || by != QUIC || got != netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) {
			t.Errorf("%s comes back as %v", a, got)
		}
	}
	p, err := peerID(id)
	if err != nil || p.String() != id.String() {
		t.Errorf("peer id %s, want %s, %v", p, id, err)
	}
	if got, ok := agentID(p); !ok || got != id {
		t.Errorf("agent id %s, want %s", got, id)
	}
	m, err := multiaddr(netip.MustParseAddrPort("[2001:db8::1]:4747"), TCP)
	if err != nil || m.String() != "/ip6/2001:db8::1/tcp/4747" {
		t.Errorf("a multiaddr by TCP is %v, %v", m, err)
	}
	if got, by, ok := addrPort(m); !ok || by != TCP || got != netip.MustParseAddrPort("[2001:db8::1]:4747") {
		t.Errorf("%v comes back as %v by %s", m, got, by)
	}
	for _, s := range []string{"/ip4/192.0.2.1/tcp/1/ws", "/ip4/192.0.2.1/udp/1", "/dns4/x/udp/1/quic-v1", "/dns4/x/tcp/1"} {
		m, err := ma.NewMultiaddr(s)
		if err != nil {
			t.Fatal(err)
		}
		if a, _, ok := addrPort(m); ok {
			t.Errorf("%s is taken as %v", s, a)
		}
	}
}

func FuzzParseSeed(f *testing.F) {
	f.Add("/ip4/192.0.2.1/udp/4747/quic-v1/p2p/" + overlay.AgentID(testKey(1)[32:]).String())
	f.Add("/ip6/::1/tcp/1/p2p/" + overlay.AgentID(testKey(1)[32:]).String())
	f.Add("/dns/host/udp/4747/quic-v1/p2p/" + overlay.AgentID(testKey(1)[32:]).String())
	f.Fuzz(func(t *testing.T, s string) {
		seed, err := ParseSeed(s)
		if err != nil {
			return
		}
		if again, err := ParseSeed(seed.String()); err != nil || again != seed {
			t.Fatalf("%q comes back as %q, %v", s, seed, err)
		}
	})
}
