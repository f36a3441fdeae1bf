package overlay

import (
	"encoding/binary"
	"time"
)

// Protocols of IP by which routers and listeners of groups speak.
const (
	protocolIGMP = 2
	protocolPIM  = 103
)

// Types of messages: IGMP (RFC 1112, RFC 2236, RFC 3376; RFC 4286 for the router's), and of
// ICMPv6 those of MLD (RFC 2710, RFC 3810; RFC 4286).
const (
	igmpQuery   = 0x11
	igmpReport1 = 0x12
	igmpReport2 = 0x16
	igmpLeave   = 0x17
	igmpReport3 = 0x22
	igmpRouter  = 0x30

	mldQuery   = 130
	mldReport1 = 131
	mldDone    = 132
	mldReport2 = 143
	mldRouter  = 151
)

// A groupAddress is that of an IP multicast group; of IPv4 the first four bytes.
type groupAddress [16]byte

// speaks is what a packet says of groups.
type speaks uint8

const (
	speaksNothing speaks = iota // it is data, or malformed
	speaksReport                // of a listener, to routers: that it listens, or doesn't any more
	speaksQuery                 // of a router: who listens?
	speaksRouter                // of a router: that it is one
)

// A groupNet is a LAN of which it is told who listens: that of some VLAN, or of none, and of
// one version of IP.
type groupNet struct {
	vlans uint32 // ids of the tags
	six   bool
}

func (n groupNet) addressLen() int {
	if n.six {
		return 16
	}
	return 4
}

// A membership is what a packet of IGMP, MLD or PIM says.
type membership struct {
	net    groupNet
	speaks speaks

	// Of a report, what it joins: one group, or those in records.
	joins   bool
	group   groupAddress
	records []byte
	count   int

	// Of a query: after how long at most it is answered, how often it is asked (RFC 3376
	// § 4.1.6), and of which group alone; none for a general one.
	wait     time.Duration
	robust   int
	specific bool
	lowers   bool // who doesn't answer it doesn't listen
}

// ipGroup says whether m is an address that IP multicast maps to (RFC 1112 § 6.4, RFC 2464 § 7).
func ipGroup(m MAC) bool {
	return m[0] == 0x33 && m[1] == 0x33 || m[0] == 0x01 && m[1] == 0 && m[2] == 0x5e && m[3]&0x80 == 0
}

// parseGroups returns what a frame to a group's address says of groups, if it is IP; and if it
// is data whose group others may be known to listen to, that group. What is cut short, in
// fragments, or malformed says nothing, and isn't data of a group either.
func parseGroups(frame []byte) (m membership, data bool) {
	if len(frame) < MinFrame+20 || !ipGroup(MAC(frame)) {
		return m, false
	}
	kind, at, vlans := etherType(frame)
	p := frame[at:]
	m.net.vlans = vlans
	switch {
	case kind == etherIPv4 && frame[0] == 0x01:
		data = m.ip4(MAC(frame), p)
	case kind == etherIPv6 && frame[0] == 0x33:
		m.net.six = true
		data = m.ip6(MAC(frame), p)
	}
	return m, data
}

// ip4 takes an IPv4 packet, and says whether it is data of a group.
func (m *membership) ip4(dst MAC, p []byte) (data bool) {
	if len(p) < 20 || p[0]>>4 != 4 || p[16]>>4 != 0xe || [3]byte(dst[3:]) != [3]byte{p[17] & 0x7f, p[18], p[19]} {
		return false
	}
	copy(m.group[:], p[16:20])
	if p[9] != protocolIGMP && p[9] != protocolPIM {
		return m.restricted()
	}
	l4, end := int(p[0]&0xf)*4, int(binary.BigEndian.Uint16(p[2:]))
	whole := binary.BigEndian.Uint16(p[6:])&0x3fff == 0 // no fragment
	if l4 < 20 || end > len(p) || end < l4+4 || p[8] != 1 || !whole || fold(add(0, p[:l4])) != 0xffff {
		return false
	}
	b := p[l4:end]
	if p[9] == protocolPIM {
		m.pim(b)
	} else if len(b) >= 8 && fold(add(0, b)) == 0xffff {
		m.igmp(b)
	}
	return false
}

// ip6 takes an IPv6 packet, and says whether it is data of a group.
func (m *membership) ip6(dst MAC, p []byte) (data bool) {
	if len(p) < 40 || p[0]>>4 != 6 || p[24] != 0xff || [4]byte(dst[2:]) != [4]byte(p[36:40]) {
		return false
	}
	copy(m.group[:], p[24:40])
	next, l4, end := p[6], 40, 40+int(binary.BigEndian.Uint16(p[4:]))
	switch next {
	case protocolHopOptions, protocolICMPv6, protocolPIM:
	default:
		return m.restricted()
	}
	if next == protocolHopOptions && len(p) >= 48 { // all of MLD has the router alert (RFC 3810 § 5)
		next, l4 = p[40], 48+8*int(p[41])
	}
	if end > len(p) || end < l4+4 || p[7] != 1 {
		return false
	}
	b, linkLocal := p[l4:end], p[8] == 0xfe && p[9]&0xc0 == 0x80
	switch {
	case next == protocolPIM:
		m.pim(b)
	case next == protocolICMPv6 && fold(add(pseudoSum(p, len(b), protocolICMPv6), b)) == 0xffff && (linkLocal || [16]byte(p[8:24]) == [16]byte{}):
		m.mld(b, linkLocal)
	}
	return false
}

// restricted says whether data of the group may be kept from who doesn't listen: not that of
// groups that everybody on a link gets (RFC 4541 § 2.1.2, § 3), for which not all report, if any.
func (m *membership) restricted() bool { return reported(m.net.six, m.group) }

func reported(six bool, g groupAddress) bool {
	if six {
		return g[0] == 0xff && g[1]&0xf > 2 // of more than link-local scope
	}
	return g[0]>>4 == 0xe && [3]byte(g[:3]) != [3]byte{224, 0, 0}
}

// pim takes a PIM message: a hello is a router's (RFC 7761 § 4.9).
func (m *membership) pim(b []byte) {
	if b[0] == 0x20 {
		m.speaks = speaksRouter
	}
}

// igmp takes an IGMP message.
func (m *membership) igmp(b []byte) {
	var group groupAddress
	copy(group[:], b[4:8])
	switch b[0] {
	case igmpReport1, igmpReport2:
		m.speaks, m.joins, m.group = speaksReport, true, group
	case igmpLeave:
		m.speaks = speaksReport
	case igmpReport3:
		m.report(b)
	case igmpRouter:
		m.speaks = speaksRouter
	case igmpQuery:
		const tenth = time.Second / 10
		switch {
		case len(b) == 8 && b[1] == 0: // version 1, which says no time
			m.query(group, 10*time.Second, nil)
		case len(b) == 8:
			m.query(group, time.Duration(b[1])*tenth, nil)
		case len(b) >= 12:
			m.query(group, time.Duration(floating(uint32(b[1]), 4))*tenth, b[8:])
		}
	}
}

// mld takes an ICMPv6 message, from a link-local address if that is so.
func (m *membership) mld(b []byte, linkLocal bool) {
	switch {
	case b[0] == mldRouter:
		m.speaks = speaksRouter
	case b[0] == mldReport2 && len(b) >= 8:
		m.report(b)
	case len(b) < 24:
	case b[0] == mldReport1:
		m.speaks, m.joins, m.group = speaksReport, true, groupAddress(b[8:24])
	case b[0] == mldDone:
		m.speaks = speaksReport
	case b[0] == mldQuery && linkLocal:
		wait := uint32(binary.BigEndian.Uint16(b[4:]))
		if len(b) == 24 {
			m.query(groupAddress(b[8:]), time.Duration(wait)*time.Millisecond, nil)
		} else if len(b) >= 28 {
			m.query(groupAddress(b[8:]), time.Duration(floating(wait, 12))*time.Millisecond, b[24:])
		}
	}
}

// floating returns the value of a code: beyond half of its range it is a floating-point number
// with so many bits of mantissa (RFC 3376 § 4.1.1, RFC 3810 § 5.1.3).
func floating(code uint32, bits int) uint32 {
	if code < 1<<(bits+3) {
		return code
	}
	return (code&(1<<bits-1) | 1<<bits) << (code>>bits&7 + 3)
}

// query takes a query for a group, none if that is zero; more is what follows the group in
// those of IGMPv3 and MLDv2.
func (m *membership) query(group groupAddress, wait time.Duration, more []byte) {
	m.specific = group != groupAddress{}
	if m.specific && !reported(m.net.six, group) {
		return
	}
	m.speaks, m.group, m.wait, m.robust, m.lowers = speaksQuery, group, wait, 2, m.specific
	if len(more) < 4 {
		return
	}
	const suppress = 8 // others answered meanwhile (RFC 3376 § 4.1.5)
	if r := int(more[0] & 7); r > 0 {
		m.robust = r
	}
	m.lowers = m.specific && more[0]&suppress == 0 && binary.BigEndian.Uint16(more[2:]) == 0
}

// report takes a report with records, of IGMPv3 and MLDv2.
func (m *membership) report(b []byte) {
	m.records, m.count = b[8:], int(binary.BigEndian.Uint16(b[6:]))
	for rest, i := m.records, 0; i < m.count; i++ {
		n := m.recordLen(rest)
		if n == 0 {
			m.records, m.count = nil, 0
			return
		}
		rest = rest[n:]
	}
	m.speaks = speaksReport
}

// recordLen returns the length of the first record in b, 0 if it is cut short.
func (m *membership) recordLen(b []byte) int {
	size := m.net.addressLen()
	if len(b) < 4+size {
		return 0
	}
	n := 4 + size + size*int(binary.BigEndian.Uint16(b[2:])) + 4*int(b[1])
	if n > len(b) {
		return 0
	}
	return n
}

// Types of records (RFC 3376 § 4.2.12).
const (
	recordIsInclude = 1 + iota
	recordIsExclude
	recordToInclude
	recordToExclude
	recordAllow
)

// each calls yield for every group that a report joins.
func (m *membership) each(yield func(groupAddress)) {
	if m.joins && reported(m.net.six, m.group) {
		yield(m.group)
	}
	for rest, i := m.records, 0; i < m.count; i++ {
		kind, sources := rest[0], binary.BigEndian.Uint16(rest[2:])
		listens := kind == recordIsExclude || kind == recordToExclude ||
			sources > 0 && (kind == recordIsInclude || kind == recordToInclude || kind == recordAllow)
		var g groupAddress
		copy(g[:], rest[4:4+m.net.addressLen()])
		if listens && reported(m.net.six, g) {
			yield(g)
		}
		rest = rest[m.recordLen(rest):]
	}
}
