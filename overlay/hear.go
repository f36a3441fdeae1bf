package overlay

import (
	"encoding/binary"
	"net/netip"
)

// Said is what a frame says that tells machines of a LAN where others are, or how to
// configure themselves.
type Said uint8

// What frames can say. All else is data: SaidNothing.
const (
	SaidNothing   Said = iota
	SaidARP            // an ARP request or reply for IPv4 on Ethernet (RFC 826)
	SaidRARP           // RARP: hypervisors announce a machine that has moved by one
	SaidNeighbour      // an IPv6 neighbour solicitation or advertisement (RFC 4861 § 4.3, § 4.4)
	SaidRouter         // a router advertisement, or a redirect (RFC 4861 § 4.2, § 4.5)
	SaidHidden         // a packet that doesn't show what it carries (RFC 7113 § 3), or has too many VLAN tags
	SaidLease          // what a DHCP server says to a client, of IPv4 or IPv6
	SaidMDNS           // multicast DNS (RFC 6762)
)

// Heard is what a frame says. Fields that it doesn't say are zero.
type Heard struct {
	Said  Said
	VLANs uint32 // ids of its VLAN tags
	At    int    // where in the frame its protocol's packet starts: ARP, IPv4 or IPv6

	IP     netip.Addr // who says it, or (advertisements) of whom: not valid if it doesn't say
	MAC    MAC        // that IP is said to be at
	Target netip.Addr // that is asked for: not valid if none is
	// Of a request: a machine sees whether an address is free before it takes it
	// (RFC 5227 § 1.1, RFC 4862 § 5.4).
	Probe bool
	// It is for all, asks nothing, and says where IP is.
	Announces bool
	// Of a neighbour advertisement.
	Router bool
	Lease  Lease
}

// A Lease is what a DHCP server gives to a client (RFC 2131); IP is not valid if it is none.
type Lease struct {
	IP      netip.Addr
	Client  MAC
	Router  netip.Addr // the first one that it names; not valid if none
	Seconds uint32
}

const (
	portDHCPServer  = 67
	portDHCPClient  = 68
	portDHCP6Client = 546
	portMDNS        = 5353
)

// maySay says whether a frame may say something. It is called for every frame, and leaves TCP
// after two looks.
func maySay(frame []byte) bool {
	if len(frame) < MinFrame+20 {
		return false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		return frame[MinFrame+9] == protocolUDP
	case etherIPv6:
		return frame[MinFrame+6] != protocolTCP
	}
	return true
}

// Listen returns what a frame says. What is cut short or malformed says nothing.
func Listen(frame []byte) (h Heard) {
	if len(frame) < MinFrame+20 {
		return h
	}
	kind, at := binary.BigEndian.Uint16(frame[12:]), MinFrame
	if kind == etherVLAN || kind == etherQinQ || kind <= maxLength {
		if kind, at, h.VLANs = behindTags(frame); kind == etherVLAN || kind == etherQinQ {
			return Heard{Said: SaidHidden}
		}
	}
	h.At = at
	p := frame[at:]
	switch kind {
	case etherIPv4:
		if len(p) >= 28 && p[9] == protocolUDP && p[0]>>4 == 4 && p[6]&0x1f == 0 && p[7] == 0 {
			h.udp4(p)
		}
	case etherIPv6:
		if len(p) >= 40 && p[6] != protocolTCP {
			h.ip6(frame, p)
		}
	case etherARP:
		h.arp(p)
	case etherRARP:
		h.Said, h.Announces = SaidRARP, true
	}
	return h
}

// maxLength is the largest EtherType that is a length (IEEE 802.3 § 3.2.6): LLC follows.
const maxLength = 1500

// behindTags is etherType, which also looks behind a SNAP header: some systems take what is
// there as if it came without (CVE-2021-27853).
func behindTags(frame []byte) (kind uint16, at int, vlans uint32) {
	const snap = 0xaaaa03000000
	kind, at, vlans = etherType(frame)
	if kind <= maxLength && len(frame) >= at+8 && binary.BigEndian.Uint64(frame[at:])>>16 == snap {
		return binary.BigEndian.Uint16(frame[at+6:]), at + 8, vlans
	}
	return kind, at, vlans
}

// arp takes an ARP packet.
func (h *Heard) arp(p []byte) {
	const ethernetIPv4 = 1<<48 | etherIPv4<<32 | 6<<24 | 4<<16 // types and lengths of the addresses
	if len(p) < 28 || binary.BigEndian.Uint64(p)&^0xffff != ethernetIPv4 {
		return
	}
	operation := binary.BigEndian.Uint16(p[6:])
	if operation != 1 && operation != 2 {
		return
	}
	h.Said, h.MAC = SaidARP, MAC(p[8:14])
	ip, target := netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	if !ip.IsUnspecified() {
		h.IP = ip
	}
	switch {
	case ip == target:
		h.Announces = h.IP.IsValid()
	case operation == 1 && !target.IsUnspecified():
		h.Target, h.Probe = target, !h.IP.IsValid()
	}
}

// udp4 takes an IPv4 packet that isn't a later fragment and has room for a UDP header behind
// one without options.
func (h *Heard) udp4(p []byte) {
	l4 := int(p[0]&0xf) * 4
	if l4 < 20 || l4+8 > len(p) {
		return
	}
	u := p[l4:]
	switch binary.BigEndian.Uint16(u[2:]) {
	case portDHCPClient: // whatever port it comes from: clients don't look
		h.Said, h.IP = SaidLease, netip.AddrFrom4([4]byte(p[12:16]))
		if binary.BigEndian.Uint16(u) == portDHCPServer {
			h.Lease = parseLease(u[8:])
		}
	case portMDNS:
		if p[16]>>4 == 0xe {
			h.Said, h.At = SaidMDNS, len(p)-len(u)+h.At
		}
	}
}

// DHCP (RFC 2131 § 2, RFC 2132).
const (
	dhcpHeader      = 240 // with the magic cookie
	dhcpMagic       = 0x63825363
	optionRouter    = 3
	optionLeaseTime = 51
	optionMessage   = 53
	messageACK      = 5
)

// parseLease returns what a DHCP message gives; that of an acknowledgement only.
func parseLease(b []byte) (l Lease) {
	if len(b) < dhcpHeader || b[0] != 2 || b[1] != 1 || b[2] != 6 || binary.BigEndian.Uint32(b[236:]) != dhcpMagic {
		return l
	}
	ack := false
	ip, client := netip.AddrFrom4([4]byte(b[16:20])), MAC(b[28:34])
	for o := b[dhcpHeader:]; len(o) > 0 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || int(o[1]) > len(o)-2 {
			return Lease{}
		}
		v := o[2 : 2+int(o[1])]
		switch {
		case o[0] == optionMessage && len(v) == 1:
			ack = v[0] == messageACK
		case o[0] == optionRouter && len(v) >= 4:
			l.Router = netip.AddrFrom4([4]byte(v))
		case o[0] == optionLeaseTime && len(v) == 4:
			l.Seconds = binary.BigEndian.Uint32(v)
		}
		o = o[2+len(v):]
	}
	if !ack || ip.IsUnspecified() || client.Group() || client == (MAC{}) {
		return Lease{}
	}
	l.IP, l.Client = ip, client
	return l
}

// Types of ICMPv6 (RFC 4861 § 4).
const (
	routerAdvertisement    = 134
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
	redirect               = 137
)

// ip6 takes an IPv6 packet.
func (h *Heard) ip6(frame, p []byte) {
	next, l4, seen := upper6(p)
	if !seen {
		h.Said = SaidHidden
		return
	}
	switch {
	case next == protocolUDP && l4+8 <= len(p):
		switch binary.BigEndian.Uint16(p[l4+2:]) {
		case portDHCP6Client:
			h.Said, h.IP = SaidLease, netip.AddrFrom16([16]byte(p[8:24]))
		case portMDNS:
			if p[24] == 0xff {
				h.Said, h.At = SaidMDNS, h.At+l4
			}
		}
	case next == protocolICMPv6 && l4 < len(p):
		switch p[l4] {
		case routerAdvertisement, redirect:
			h.Said, h.IP = SaidRouter, netip.AddrFrom16([16]byte(p[8:24]))
		case neighbourSolicitation, neighbourAdvertisement:
			if p[6] == protocolICMPv6 { // else nobody may take it (RFC 6980) that isn't odd
				h.neighbour(frame, p)
			}
		}
	}
}

// upper6 returns what an IPv6 packet carries and where that starts. It is false if that can't
// be seen, though a machine that has all fragments would: the first one of an honest packet
// holds all headers (RFC 7112), and there are few. Of other fragments it is protocolFragment,
// of what is cut short protocolNone.
func upper6(p []byte) (next byte, l4 int, seen bool) {
	next, l4 = p[6], 40
	first := false // of several fragments
	for range maxIPv6Headers {
		switch next {
		case protocolHopOptions, protocolRouting, protocolDestOptions, protocolFragment:
			if l4+8 > len(p) {
				return protocolNone, l4, !first
			}
		case protocolICMPv6, protocolUDP:
			if l4+8 > len(p) {
				return protocolNone, l4, !first
			}
			return next, l4, true
		default:
			return next, l4, true
		}
		kind := next
		next = p[l4]
		if kind != protocolFragment {
			l4 += 8 + 8*int(p[l4+1])
			continue
		}
		if binary.BigEndian.Uint16(p[l4+2:])&^7 != 0 {
			return protocolFragment, l4, true
		}
		first, l4 = true, l4+8
	}
	return 0, 0, false
}

const protocolNone = 59

// neighbour takes a neighbour solicitation or advertisement without extension headers, in p.
func (h *Heard) neighbour(frame, p []byte) {
	const icmp, options = 40, 64
	if len(p) < options || p[7] != 255 || int(binary.BigEndian.Uint16(p[4:])) < options-icmp {
		return
	}
	source, target := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[48:64]))
	if target.IsMulticast() || target.IsUnspecified() {
		return
	}
	end := min(len(p), 40+int(binary.BigEndian.Uint16(p[4:])))
	h.Said = SaidNeighbour
	if p[icmp] == neighbourSolicitation {
		h.Target, h.Probe = target, source.IsUnspecified()
		if m, ok := linkLayer(p[options:end], 1); ok && !h.Probe {
			h.IP, h.MAC = source, m
		}
		return
	}
	h.Router = p[44]&0x80 != 0
	if m, ok := linkLayer(p[options:end], 2); ok {
		h.IP, h.MAC = target, m
		h.Announces = MAC(frame[:6]).Group()
	}
}

// linkLayer returns the link-layer address in the option of a kind (RFC 4861 § 4.6.1).
func linkLayer(o []byte, kind byte) (m MAC, ok bool) {
	for len(o) >= 8 {
		n := int(o[1]) * 8
		if n == 0 || n > len(o) {
			return m, false
		}
		if o[0] == kind && n == 8 {
			return MAC(o[2:8]), true
		}
		o = o[n:]
	}
	return m, false
}
