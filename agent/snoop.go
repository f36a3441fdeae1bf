package agent

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"farlan/overlay"
)

// A snooper learns which IP addresses stations use from the frames in which
// they say so: ARP, and IPv6 neighbour solicitations and advertisements; and which
// are DHCP servers. It is used by one goroutine; it looks closer at those frames only.
type snooper struct {
	ready  bool
	eth    layers.Ethernet
	tag    layers.Dot1Q
	arp    layers.ARP
	ip6    layers.IPv6
	icmp   layers.ICMPv6
	found  []gopacket.LayerType
	parser *gopacket.DecodingLayerParser
}

// frame looks at a frame that was forwarded.
func (s *snooper) frame(stations *overlay.Stations, f []byte) {
	if !tells(f) {
		if at, ok := leases(f); ok {
			from := overlay.MAC(f[6:12])
			stations.SetLeases(from)
			learnIP(stations, from, netip.AddrFrom4([4]byte(f[at:])))
		}
		return
	}
	if !s.ready {
		s.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &s.eth, &s.tag, &s.arp, &s.ip6, &s.icmp)
		s.parser.IgnoreUnsupported = true
		s.ready = true
	}
	if err := s.parser.DecodeLayers(f, &s.found); err != nil {
		return // malformed: it tells nothing
	}
	for _, l := range s.found {
		switch l {
		case layers.LayerTypeARP:
			if ip, ok := netip.AddrFromSlice(s.arp.SourceProtAddress); ok && len(s.arp.SourceHwAddress) == 6 {
				learnIP(stations, overlay.MAC(s.arp.SourceHwAddress), ip)
			}
		case layers.LayerTypeICMPv6:
			if ip, ok := netip.AddrFromSlice(s.ip6.SrcIP); ok {
				learnIP(stations, overlay.MAC(f[6:12]), ip)
			}
		}
	}
}

func learnIP(stations *overlay.Stations, m overlay.MAC, ip netip.Addr) {
	if !ip.IsUnspecified() && !ip.IsMulticast() {
		stations.SetIP(m, ip)
	}
}

// tells says whether f may tell an address: ARP, or ICMPv6 of type 135 or 136
// (RFC 4861), behind one VLAN tag at most.
func tells(f []byte) bool {
	at := 12
	if len(f) >= 18 && binary.BigEndian.Uint16(f[at:]) == uint16(layers.EthernetTypeDot1Q) {
		at = 16
	}
	if len(f) < at+2 {
		return false
	}
	switch layers.EthernetType(binary.BigEndian.Uint16(f[at:])) {
	case layers.EthernetTypeARP:
		return true
	case layers.EthernetTypeIPv6:
		const ip6 = 2 + 40 // type and IPv6 header
		return len(f) > at+ip6 && f[at+2+6] == byte(layers.IPProtocolICMPv6) && (f[at+ip6] == 135 || f[at+ip6] == 136)
	}
	return false
}

// leases says whether f is what a DHCP server answers: BOOTREPLY from UDP port 67
// (RFC 2131 § 2), behind one VLAN tag at most; and where its source address is.
func leases(f []byte) (source int, ok bool) {
	at := 14
	if len(f) >= 18 && binary.BigEndian.Uint16(f[12:]) == uint16(layers.EthernetTypeDot1Q) {
		at = 18
	}
	const protocol, from, ports, reply = 9, 12, 20, 28
	if len(f) <= at+reply || f[at+protocol] != byte(layers.IPProtocolUDP) || f[at] != 4<<4|5 || binary.BigEndian.Uint16(f[at-2:]) != uint16(layers.EthernetTypeIPv4) {
		return 0, false
	}
	return at + from, binary.BigEndian.Uint32(f[at+ports:]) == 67<<16|68 && f[at+reply] == 2
}
