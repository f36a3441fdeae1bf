package p2p

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"farlan/overlay"
)

// The transports that connect agents.
const (
	QUIC = "quic"
	TCP  = "tcp"
)

// A Seed is an agent to join by, on one port for QUIC and TCP. It is comparable.
type Seed struct {
	ID   overlay.AgentID
	Addr netip.AddrPort // where it is; if Host is set, only the port counts

	Host   string // a name to resolve when dialling, or ""
	Family string // what Host resolves to: "ip4", "ip6", or "ip" for either
}

// String returns the seed's multiaddr.
func (s Seed) String() string {
	if s.Host == "" {
		return Multiaddr(s.ID, s.Addr)
	}
	proto := "dns" + strings.TrimPrefix(s.Family, "ip")
	return fmt.Sprintf("/%s/%s/udp/%d/quic-v1/p2p/%s", proto, s.Host, s.Addr.Port(), s.ID)
}

// Multiaddr returns what another agent can take as a seed:
// "/ip4/192.0.2.1/udp/4747/quic-v1/p2p/12D3Koo…".
func Multiaddr(id overlay.AgentID, a netip.AddrPort) string {
	family := "ip6"
	if a.Addr().Unmap().Is4() {
		family = "ip4"
	}
	return fmt.Sprintf("/%s/%s/udp/%d/quic-v1/p2p/%s", family, a.Addr().Unmap().WithZone(""), a.Port(), id)
}

// seedForm is what a right seed looks like.
const seedForm = "/ip4/ADDRESS/udp/PORT/quic-v1/p2p/ID (or tcp/PORT; ip6; dns, dns4, dns6 and a name), as `farlan status` shows it under listen"

// ParseSeed reads a multiaddr of the forms
//
//	/ip4/192.0.2.1/udp/4747/quic-v1/p2p/12D3Koo…
//	/ip6/2001:db8::1/udp/4747/quic-v1/p2p/12D3Koo…
//	/dns4/host.example/udp/4747/quic-v1/p2p/12D3Koo…    (dns6; dns for either family)
//	/ip4/192.0.2.1/tcp/4747/p2p/12D3Koo…                (and so on)
//
// The last form means the same: QUIC is tried first, then TCP, on that port.
// Errors say what is wrong and what a right one looks like.
func ParseSeed(s string) (Seed, error) {
	fail := func(format string, args ...any) (Seed, error) {
		return Seed{}, fmt.Errorf("bootstrap address %q: %s; want %s", s, fmt.Sprintf(format, args...), seedForm)
	}
	part := strings.Split(strings.TrimSpace(s), "/")
	if part[0] != "" || len(part) == 1 {
		return fail("it doesn't start with /")
	}
	part = part[1:]
	if len(part) > 3 && part[2] == "tcp" {
		part = slices.Concat(part[:2], []string{"udp", part[3], "quic-v1"}, part[4:])
	}
	if len(part) == 5 || len(part) == 6 && part[5] == "p2p" {
		return fail("/p2p/ID is missing at the end")
	}
	if len(part) != 7 || part[2] != "udp" || part[4] != "quic-v1" || part[5] != "p2p" {
		return fail("its parts are not the right ones")
	}
	port, err := strconv.ParseUint(part[3], 10, 16)
	if err != nil || port == 0 {
		return fail("%q is not a port", part[3])
	}
	id, err := overlay.ParseAgentID(part[6])
	if err != nil {
		return fail("%v", err)
	}
	seed := Seed{ID: id}
	var ip netip.Addr
	switch part[0] {
	case "ip4", "ip6":
		ip, err = netip.ParseAddr(part[1])
		if err != nil || ip.Is4() != (part[0] == "ip4") || ip.Zone() != "" {
			return fail("%q is not an %s address", part[1], part[0])
		}
	case "dns", "dns4", "dns6":
		seed.Host, seed.Family = part[1], "ip"+strings.TrimPrefix(part[0], "dns")
		if seed.Host == "" || strings.ContainsAny(seed.Host, " \t@:") {
			return fail("%q is not a host name", part[1])
		}
	default:
		return fail("%q is not a kind of address", part[0])
	}
	seed.Addr = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	return seed, nil
}

// multiaddr returns the multiaddr to reach a at by a transport, without the peer.
func multiaddr(a netip.AddrPort, by string) (ma.Multiaddr, error) {
	ip := a.Addr().Unmap()
	if !ip.IsValid() || ip.Zone() != "" || a.Port() == 0 {
		return nil, fmt.Errorf("%v is no address to reach an agent at", a)
	}
	family := "ip6"
	if ip.Is4() {
		family = "ip4"
	}
	form := "/%s/%s/udp/%d/quic-v1"
	if by == TCP {
		form = "/%s/%s/tcp/%d"
	}
	return ma.NewMultiaddr(fmt.Sprintf(form, family, ip, a.Port()))
}

// addrPort returns the address and transport of a multiaddr of QUIC or TCP.
func addrPort(m ma.Multiaddr) (a netip.AddrPort, by string, ok bool) {
	if m == nil {
		return a, "", false
	}
	by, below := TCP, ma.P_TCP
	if _, err := m.ValueForProtocol(ma.P_QUIC_V1); err == nil {
		by, below = QUIC, ma.P_UDP
	}
	s, err := m.ValueForProtocol(below)
	if err != nil || by == TCP && len(m) != 2 { // nothing above TCP
		return a, "", false
	}
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return a, "", false
	}
	ip, err := manet.ToIP(m)
	if err != nil {
		return a, "", false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), by, ok
}

// peerID returns libp2p's name of an agent.
func peerID(id overlay.AgentID) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(id[:])
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(pub)
}

// agentID returns the agent of a libp2p peer; ok is false for a peer whose key
// is not an Ed25519 key.
func agentID(p peer.ID) (id overlay.AgentID, ok bool) {
	pub, err := p.ExtractPublicKey()
	if err != nil || pub.Type() != crypto.Ed25519 {
		return overlay.AgentID{}, false
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != len(id) {
		return overlay.AgentID{}, false
	}
	return overlay.AgentID(raw), true
}
