package agent

import (
	"encoding/binary"
	"net/netip"

	"farlan/overlay"
)

// EtherTypes, and numbers of protocols in IP.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeTag  = 0x8100
	typeIPv6 = 0x86dd

	protocolUDP    = 17
	protocolICMPv6 = 58
)

// snoop learns which IP addresses stations use from a frame that was forwarded, if it
// is one in which they say so: ARP, IPv6 neighbour solicitations and advertisements; and
// which are DHCP servers. There may be one VLAN tag. It is called for every frame, most
// of which it leaves after two looks, and is written by hand: gopacket's layers, which
// its tests compare it with, hold 6 MB of tables.
func snoop(stations *overlay.Stations, f []byte) {
	at := 12
	if len(f) >= 18 && binary.BigEndian.Uint16(f[at:]) == typeTag {
		at = 16
	}
	if len(f) < at+2 {
		return
	}
	from, payload := overlay.MAC(f[6:12]), f[at+2:]
	switch binary.BigEndian.Uint16(f[at:]) {
	case typeARP:
		if station, ip, ok := arpSender(payload); ok {
			learnIP(stations, station, ip)
		}
	case typeIPv6:
		if ip, ok := neighbour(payload); ok {
			learnIP(stations, from, ip)
		}
	case typeIPv4:
		if ip, ok := leases(payload); ok {
			stations.SetLeases(from)
			learnIP(stations, from, ip)
		}
	}
}

func learnIP(stations *overlay.Stations, m overlay.MAC, ip netip.Addr) {
	if !ip.IsUnspecified() && !ip.IsMulticast() {
		stations.SetIP(m, ip)
	}
}

// arpSender returns the sender's addresses of an ARP packet for IPv4 on Ethernet
// (RFC 826).
func arpSender(b []byte) (m overlay.MAC, ip netip.Addr, ok bool) {
	const ethernetIPv4 = 1<<48 | typeIPv4<<32 | 6<<24 | 4<<16 // types and lengths of the addresses
	if len(b) < 28 || binary.BigEndian.Uint64(b)&^0xffff != ethernetIPv4 {
		return m, ip, false
	}
	return overlay.MAC(b[8:14]), netip.AddrFrom4([4]byte(b[14:18])), true
}

// neighbour returns the source of a neighbour solicitation or advertisement (ICMPv6
// types 135 and 136, RFC 4861 § 4.3).
func neighbour(b []byte) (ip netip.Addr, ok bool) {
	const header = 40
	if len(b) <= header || b[0]>>4 != 6 || b[6] != protocolICMPv6 || b[header] != 135 && b[header] != 136 {
		return ip, false
	}
	return netip.AddrFrom16([16]byte(b[8:24])), true
}

// leases returns the source of what a DHCP server answers: BOOTREPLY from UDP port 67
// to 68 (RFC 2131 § 2), not in fragments.
func leases(b []byte) (ip netip.Addr, ok bool) {
	const header, udp = 20, 8
	if len(b) <= header+udp || b[9] != protocolUDP || b[0] != 4<<4|header/4 ||
		binary.BigEndian.Uint32(b[header:]) != 67<<16|68 || b[header+udp] != 2 {
		return ip, false
	}
	return netip.AddrFrom4([4]byte(b[12:16])), true
}
