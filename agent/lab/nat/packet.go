package nat

import (
	"encoding/binary"
	"net/netip"
)

// Protocols' numbers in IPv4.
const (
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
)

// ICMP types (RFC 792).
const (
	echoReply        = 0
	unreachable      = 3 // also "fragmentation needed" and "port unreachable"
	echoRequest      = 8
	timeExceeded     = 11
	parameterProblem = 12
)

// A packet is an IPv4 packet that was parsed, or as much of one as an ICMP
// error quotes. Offsets in bytes; those of the second column count from the
// IPv4 header's end:
//
//	 0 version, header length     0 UDP, TCP: source port        ICMP: type, code
//	 2 total length               2 UDP, TCP: destination port   ICMP: checksum
//	 4 identification             4                              ICMP echo: identifier
//	 6 flags, fragment's offset   6 UDP: checksum
//	 9 protocol                   8                              ICMP error: the quoted packet
//	10 header checksum           16 TCP: checksum
//	12 source
//	16 destination
type packet struct {
	b      []byte
	header int // the IPv4 header's bytes
}

// A side is the source or the destination of a packet.
type side int

const (
	source      side = 0
	destination side = 1
)

const (
	headerSum   = 10
	quoteOffset = 8
)

// parse reads a packet, of which all headers must be there unless it is a later
// fragment. What follows its total length is left alone.
func parse(b []byte) (packet, Drop) {
	if len(b) > 0 && b[0]>>4 != 4 {
		return packet{}, NotIPv4
	}
	p, ok := parseHeader(b)
	if !ok {
		return p, Malformed
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total < p.header || total > len(b) {
		return p, Malformed
	}
	if p.b = b[:total]; p.later() {
		return p, Passed
	}
	switch shortest := p.shortest(); {
	case shortest == 0:
		return p, Protocol
	case total-p.header < shortest:
		return p, Malformed
	}
	return p, Passed
}

// shortest returns the length of the shortest transport header; 0 if the
// protocol isn't one that passes.
func (p packet) shortest() int {
	switch p.protocol() {
	case protoICMP, protoUDP:
		return 8
	case protoTCP:
		return 20
	}
	return 0
}

// parseHeader reads the IPv4 header.
func parseHeader(b []byte) (packet, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return packet{}, false
	}
	p := packet{b: b, header: int(b[0]&15) * 4}
	return p, p.header >= 20 && p.header <= len(b)
}

// quote returns the packet that an ICMP error quotes, of which eight bytes
// behind the header must be there (RFC 792), and ports or an identifier in them.
func (p packet) quote() (packet, bool) {
	q, ok := parseHeader(p.b[p.header+quoteOffset:])
	if !ok || len(q.b) < q.header+8 || q.later() {
		return q, false
	}
	switch q.protocol() {
	case protoUDP, protoTCP:
		return q, true
	case protoICMP:
		return q, q.icmpType() == echoRequest || q.icmpType() == echoReply
	}
	return q, false
}

func (p packet) protocol() byte { return p.b[9] }

// later reports whether p is a fragment without ports; leads, whether it is one
// with ports, which others follow.
func (p packet) later() bool { return p.word(6)&0x1fff != 0 }
func (p packet) leads() bool { return p.word(6)&0x3fff == 0x2000 }

func (p packet) icmpType() byte { return p.b[p.header] }

func (p packet) isError() bool {
	if p.protocol() != protoICMP {
		return false
	}
	t := p.icmpType()
	return t == unreachable || t == timeExceeded || t == parameterProblem
}

func (p packet) word(at int) uint16 { return binary.BigEndian.Uint16(p.b[at:]) }

func (p packet) addr(s side) netip.Addr { return netip.AddrFrom4([4]byte(p.b[addrAt(s):])) }

func addrAt(s side) int { return 12 + 4*int(s) }

// portAt returns where the port of a side is, or an echo's identifier.
func (p packet) portAt(s side) int {
	if p.protocol() == protoICMP {
		return p.header + 4
	}
	return p.header + 2*int(s)
}

// local returns the endpoint on side s, which is a NAT's own or inside it.
func (p packet) local(s side) netip.AddrPort {
	return netip.AddrPortFrom(p.addr(s), p.word(p.portAt(s)))
}

// remote returns the endpoint on side s, which is outside. The identifier of an
// echo is not the remote host's.
func (p packet) remote(s side) netip.AddrPort {
	if p.protocol() == protoICMP {
		return netip.AddrPortFrom(p.addr(s), 0)
	}
	return p.local(s)
}

// sumAt returns where the transport's checksum is; 0 if it is cut off, or UDP's
// says that there is none.
func (p packet) sumAt() int {
	at := p.header
	switch p.protocol() {
	case protoICMP:
		at += 2
	case protoTCP:
		at += 16
	case protoUDP:
		at += 6
	}
	if at+2 > len(p.b) || p.protocol() == protoUDP && p.word(at) == 0 {
		return 0
	}
	return at
}

// A delta is how the one's complement sum of a packet's words has changed, not
// folded: the sum of ~m + m' of RFC 1624.
type delta uint32

// put replaces the word at an offset of b.
func (d *delta) put(b []byte, at int, to uint16) {
	*d += delta(^binary.BigEndian.Uint16(b[at:])) + delta(to)
	binary.BigEndian.PutUint16(b[at:], to)
}

// applied returns a checksum after the change: HC' = ~(~HC + ~m + m') (RFC 1624,
// equation 3).
func (d delta) applied(sum uint16) uint16 {
	s := uint32(^sum) + uint32(d)&0xffff + uint32(d)>>16
	s = s&0xffff + s>>16
	return ^uint16(s + s>>16)
}

// readdress replaces the address of a side, and returns the change to the
// address alone and to all of the packet.
func (p packet) readdress(s side, to netip.Addr) (addr, all delta) {
	b := to.As4()
	addr.put(p.b, addrAt(s), binary.BigEndian.Uint16(b[0:]))
	addr.put(p.b, addrAt(s)+2, binary.BigEndian.Uint16(b[2:]))
	all = addr
	all.put(p.b, headerSum, addr.applied(p.word(headerSum)))
	return addr, all
}

// rewrite replaces the endpoint on side s and returns the change to all of the
// packet.
func (p packet) rewrite(s side, to netip.AddrPort) delta {
	sum := p.sumAt() // before anything changes
	addr, all := p.readdress(s, to.Addr())
	var port delta
	port.put(p.b, p.portAt(s), to.Port())
	all += port
	if sum == 0 {
		return all
	}
	if p.protocol() != protoICMP {
		port += addr // it is in the pseudo header
	}
	fixed := port.applied(p.word(sum))
	if fixed == 0 && p.protocol() == protoUDP {
		fixed = 0xffff // 0 would say that there is none (RFC 768)
	}
	all.put(p.b, sum, fixed)
	return all
}
