package overlay

import (
	"encoding/binary"
	"net/netip"
)

// BeaconPort is the UDP port of beacons, by which agents on one link find each
// other: below the ports that systems give away by themselves.
const BeaconPort = 24747

// The groups that beacons are sent to: one of IPv4's local scope (RFC 2365 § 6.1),
// sent with a TTL of 1, and a link-local one of IPv6.
var (
	BeaconGroup4 = netip.AddrFrom4([4]byte{239, 255, 247, 47})
	BeaconGroup6 = netip.AddrFrom16([16]byte{0xff, 0x02, 12: 0xf2, 13: 0x47, 14: 0x47, 15: 0x47})
)

// The groups' Ethernet addresses (RFC 1112 § 6.4, RFC 2464 § 7).
var (
	beaconMAC4 = MAC{0x01, 0x00, 0x5e, 0x7f, 0xf7, 0x2f}
	beaconMAC6 = MAC{0x33, 0x33, 0xf2, 0x47, 0x47, 0x47}
)

// isBeacon says whether a frame with the destination dst is a beacon, perhaps in
// a VLAN. Beacons have no IP options or extension headers.
func isBeacon(dst MAC, frame []byte) bool {
	if dst != beaconMAC4 && dst != beaconMAC6 {
		return false
	}
	const ethernet, vlan = 12, 0x8100 // where the type is
	p := frame[ethernet:]
	if len(p) >= 6 && binary.BigEndian.Uint16(p) == vlan {
		p = p[4:]
	}
	if len(p) < 2 {
		return false
	}
	kind, p := binary.BigEndian.Uint16(p), p[2:]
	switch {
	case kind == 0x0800 && len(p) >= 24 && p[0] == 0x45:
		return p[9] == 17 && [4]byte(p[16:20]) == BeaconGroup4.As4() && binary.BigEndian.Uint16(p[22:]) == BeaconPort
	case kind == 0x86dd && len(p) >= 44:
		return p[6] == 17 && [16]byte(p[24:40]) == BeaconGroup6.As16() && binary.BigEndian.Uint16(p[42:]) == BeaconPort
	}
	return false
}
