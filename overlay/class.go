package overlay

import (
	"encoding/binary"
	"math/bits"
)

// A Class is how urgent a frame is. Frames of one flow are all of one class, so
// that they stay in order.
type Class uint8

// The classes.
const (
	ClassBulk  Class = iota // what can wait a moment
	ClassDelay              // what somebody waits for: see ClassOf
	Classes                 // how many there are
)

// delayDSCP has a bit for each code point that asks for little delay: all that
// RFC 4594 has for signalling, voice, video and control, and for what people and
// programs wait for. Not so the default, CS1 and LE (lower effort, RFC 8622) and
// AF1x (high-throughput data). RFC 8325 would leave AF2x and CS2 with the
// default on Wi-Fi, where classes are few; but RFC 4594 calls AF2x low-latency
// data, and it is what ssh puts on a terminal.
const delayDSCP uint64 = 1<<16 | 1<<18 | 1<<20 | 1<<22 | // CS2, AF2x
	1<<24 | 1<<26 | 1<<28 | 1<<30 | // CS3, AF3x
	1<<32 | 1<<34 | 1<<36 | 1<<38 | // CS4, AF4x
	1<<40 | 1<<44 | 1<<46 | 1<<48 | 1<<56 // CS5, VOICE-ADMIT (RFC 5865), EF, CS6, CS7

// EtherTypes.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherVLAN = 0x8100
	etherIPv6 = 0x86dd
	etherQinQ = 0x88a8
)

// Protocols of IP, with those in cut.go.
const (
	protocolHopOptions  = 0
	protocolICMP        = 1
	protocolRouting     = 43
	protocolFragment    = 44
	protocolESP         = 50
	protocolICMPv6      = 58
	protocolDestOptions = 60
	protocolSCTP        = 132
)

// maxIPv6Headers bounds the extension headers in front of the transport's:
// nobody uses more.
const maxIPv6Headers = 8

// A FlowKey makes the hash of flows one that strangers can't foresee, so they
// can't aim their flows at another's queue. It is random, one a process.
type FlowKey [2]uint64

// ClassOf returns the class of a frame that starts with head, and the hash of
// its flow. Of class ClassDelay are
//   - ARP and RARP, and claims of stations, ICMP and ICMPv6 of any size (neighbour discovery, ping),
//   - DHCP, DNS and NTP over UDP,
//   - IP packets whose DSCP asks for it: see delayDSCP.
//
// All else is ClassBulk, unknown and malformed frames too. DNS over TCP is: what
// it carries may be long, and a short exchange passes a fair queue as a new flow.
//
// A flow is what has the same VLANs and, if it is IP, the same addresses,
// protocol and ports (of ESP: security parameter index), else the same MAC
// addresses and EtherType. Fragments of IP packets count without ports, as only
// the first has them, so all of a packet are of one class and flow. A flow's
// class changes only when its sender changes its DSCP.
func ClassOf(key FlowKey, head []byte) (c Class, flow uint32) {
	if len(head) < MinFrame {
		return ClassBulk, 0
	}
	kind, at, vlans := etherType(head)
	h := head[at:]
	switch {
	case kind == etherIPv4 && len(h) >= 20 && h[0]>>4 == 4:
		ports, known := uint32(0), false
		if binary.BigEndian.Uint16(h[6:])&0x3fff == 0 { // neither more fragments nor an offset
			ports, known = portsOf(h, int(h[0]&0xf)*4, h[9])
		}
		b := uint64(ports)<<32 | uint64(h[9])<<24 | uint64(vlans)
		sum := mix(binary.BigEndian.Uint64(h[12:])^key[0], b^key[1])
		return classOfIP(h[1]>>2, h[9], ports, known), uint32(mix(sum, key[1]|1))
	case kind == etherIPv6 && len(h) >= 40 && h[0]>>4 == 6:
		protocol, l4, fragment := transport6(h)
		ports, known := uint32(0), false
		if !fragment {
			ports, known = portsOf(h, l4, protocol)
		}
		b := uint64(ports)<<32 | uint64(protocol)<<24 | uint64(vlans)
		sum := mix(binary.BigEndian.Uint64(h[8:])^key[0], binary.BigEndian.Uint64(h[16:])^key[1]) ^ b
		sum = mix(binary.BigEndian.Uint64(h[24:])^key[1], binary.BigEndian.Uint64(h[32:])^sum)
		dscp := byte(binary.BigEndian.Uint16(h)>>6) & 0x3f
		return classOfIP(dscp, protocol, ports, known), uint32(mix(sum^key[0], key[1]|1))
	case kind == etherARP, kind == etherRARP, kind == etherClaims:
		c = ClassDelay
	}
	b := uint64(binary.BigEndian.Uint32(head[8:]))<<32 | uint64(kind)
	sum := mix(binary.BigEndian.Uint64(head)^key[0], b^key[1]) ^ uint64(vlans)
	return c, uint32(mix(sum^key[0], key[1]|1))
}

// mix folds the product of x and y, so that every bit of both counts (as in
// wyhash).
func mix(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi ^ lo
}

// classOfIP returns the class of an IP packet; known says that it has ports.
func classOfIP(dscp, protocol byte, ports uint32, known bool) Class {
	switch {
	case delayDSCP>>dscp&1 != 0, protocol == protocolICMP, protocol == protocolICMPv6:
		return ClassDelay
	case protocol == protocolUDP && known && (delayPort(ports>>16) || delayPort(ports&0xffff)):
		return ClassDelay
	}
	return ClassBulk
}

// delayPort says whether p is the UDP port of DNS, DHCP, NTP, or DHCPv6.
func delayPort(p uint32) bool {
	switch p {
	case 53, 67, 68, 123, 546, 547:
		return true
	}
	return false
}

// portsOf returns the ports, or what stands for them, of the transport header
// at l4 of an IP packet h.
func portsOf(h []byte, l4 int, protocol byte) (ports uint32, known bool) {
	switch protocol {
	case protocolTCP, protocolUDP, protocolESP, protocolSCTP:
		if l4 >= 20 && l4+4 <= len(h) {
			return binary.BigEndian.Uint32(h[l4:]), true
		}
	}
	return 0, false
}

// etherType returns the EtherType of a frame of MinFrame bytes at least, behind
// two VLAN tags at most, where what it tells of starts, and the VLANs' ids.
func etherType(frame []byte) (kind uint16, at int, vlans uint32) {
	kind, at = binary.BigEndian.Uint16(frame[12:]), MinFrame
	for range 2 {
		if kind != etherVLAN && kind != etherQinQ || at+4 > len(frame) {
			break
		}
		vlans = vlans<<12 | uint32(binary.BigEndian.Uint16(frame[at:])&0xfff)
		kind = binary.BigEndian.Uint16(frame[at+2:])
		at += 4
	}
	return kind, at, vlans
}

// transport6 returns the protocol that an IPv6 packet h carries and where it
// starts. Of a fragment the protocol is what its fragment header says, which is
// the same in all fragments of a packet, and l4 is where that header ends.
func transport6(h []byte) (protocol byte, l4 int, fragment bool) {
	protocol, l4 = skipHeaders(h, h[6], 40)
	if protocol == protocolFragment && l4+8 <= len(h) {
		return h[l4], l4 + 8, true
	}
	return protocol, l4, false
}

// skipHeaders passes IPv6 extension headers that have no say in what a packet
// is, from one of kind next at byte at on (RFC 8200 § 4). It returns the kind of
// the first other one and where that starts, maybe beyond the end of h.
func skipHeaders(h []byte, next byte, at int) (byte, int) {
	for range maxIPv6Headers {
		if next != protocolHopOptions && next != protocolRouting && next != protocolDestOptions || at+2 > len(h) {
			break
		}
		next, at = h[at], at+8+8*int(h[at+1])
	}
	return next, at
}
