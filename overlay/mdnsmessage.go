package overlay

import (
	"encoding/binary"
	"net/netip"
)

// maxDNSRecords bounds the questions and records of one multicast DNS message; what has more is
// flooded as it is.
const maxDNSRecords = 256

// Types of DNS records (RFC 1035 § 3.2.2, and the registry of DNS parameters).
const (
	dnsA     = 1
	dnsCNAME = 5
	dnsPTR   = 12
	dnsHINFO = 13
	dnsTXT   = 16
	dnsAAAA  = 28
	dnsSRV   = 33
	dnsOPT   = 41
	dnsNSEC  = 47
	dnsSVCB  = 64
	dnsHTTPS = 65
	dnsAny   = 255
)

const (
	dnsHeader  = 12
	dnsFlag    = 0x8000 // of a class: flush what was known (RFC 6762 § 10.2), or answer the asker alone (§ 5.4)
	dnsClassIN = 1
)

// A dnsMessage is a multicast DNS message (RFC 6762 § 18) in a UDP packet, with the machine that
// sent it.
type dnsMessage struct {
	from   MAC
	source netip.Addr
	port   uint16 // not portMDNS: by a simple resolver, which wants the answer alone (§ 6.7)
	vlans  uint32
	ip     int // where in its frame IP starts

	response  bool
	more      bool // known answers follow in another one (§ 7.2)
	probe     bool // it looks whether names are free (§ 8.1)
	questions []dnsQuestion
	records   []dnsRecord // its answers, or those known to who asks
	answers   int         // of records, how many aren't additional
}

type dnsQuestion struct {
	key   string // the name in lower case, as on the wire
	kind  uint16
	alone bool // the answer may go to who asks alone
}

// A dnsRecord has names without compression, as on the wire, also those in its data.
type dnsRecord struct {
	name, key string
	kind      uint16
	flush     bool   // there are no others of the name and type but those with it
	ttl       uint32 // seconds; 0: it is gone
	data      string
}

// openMDNS returns the message in a frame that says SaidMDNS. It is false if it isn't one that can
// be understood to the last byte, by which nothing may be decided then.
func openMDNS(f *Frame, h *Heard) (m dnsMessage, ok bool) {
	frame := f.Head
	if len(f.Body) > 0 || f.Super != 0 || !MAC(frame).Group() || h.At+8 > len(frame) {
		return m, false
	}
	kind, at, vlans := etherType(frame)
	u := frame[h.At:]
	size := int(binary.BigEndian.Uint16(u[4:]))
	if size < 8 || size > len(u) {
		return m, false
	}
	u = u[:size]
	m.from, m.vlans, m.ip, m.port = MAC(frame[6:12]), vlans, at, binary.BigEndian.Uint16(u)
	p := frame[at:]
	switch kind {
	case etherIPv4:
		m.source = netip.AddrFrom4([4]byte(p[12:16]))
		ok = [4]byte(p[16:20]) == mdnsGroup4 && p[6]&0x20 == 0 && int(binary.BigEndian.Uint16(p[2:])) >= h.At-at+size
	case etherIPv6:
		m.source = netip.AddrFrom16([16]byte(p[8:24]))
		ok = [16]byte(p[24:40]) == mdnsGroup6 && h.At == at+40
	}
	ok = ok && !m.source.IsUnspecified() && (f.Start != 0 || soundUDP(p, u))
	return m, ok && m.parse(u[8:])
}

var (
	mdnsGroup4 = [4]byte{224, 0, 0, 251}
	mdnsGroup6 = [16]byte{0: 0xff, 1: 2, 15: 0xfb}
)

// soundUDP says whether the checksum of u, a UDP packet that the IP packet ip carries, is right.
func soundUDP(ip, u []byte) bool {
	if binary.BigEndian.Uint16(u[6:]) == 0 {
		return ip[0]>>4 == 4 // it has none
	}
	return fold(add(pseudoSum(ip, len(u), protocolUDP), u)) == 0xffff
}

// parse takes the message b.
func (m *dnsMessage) parse(b []byte) bool {
	const response, more, opcode, rcode = 1 << 15, 1 << 9, 0xf << 11, 0xf
	if len(b) < dnsHeader {
		return false
	}
	flags := binary.BigEndian.Uint16(b[2:])
	questions, answers := int(binary.BigEndian.Uint16(b[4:])), int(binary.BigEndian.Uint16(b[6:]))
	authority, additional := int(binary.BigEndian.Uint16(b[8:])), int(binary.BigEndian.Uint16(b[10:]))
	if flags&(opcode|rcode) != 0 || questions+answers+authority+additional > maxDNSRecords {
		return false
	}
	m.response, m.more = flags&response != 0, flags&more != 0
	m.probe = !m.response && authority > 0
	at := dnsHeader
	for range questions {
		q, next, ok := parseQuestion(b, at)
		if !ok {
			return false
		}
		if at = next; !m.response { // else they say nothing (§ 6)
			m.questions = append(m.questions, q)
		}
	}
	for i := range answers + authority + additional {
		r, next, ok := parseRecord(b, at)
		if !ok {
			return false
		}
		at = next
		if r.kind != dnsOPT && (m.response || i < answers) {
			m.records = append(m.records, r)
		}
		if i < answers {
			m.answers = len(m.records)
		}
	}
	return at == len(b)
}

func parseQuestion(b []byte, at int) (q dnsQuestion, next int, ok bool) {
	name, next, ok := parseName(b, at)
	if !ok || next+4 > len(b) {
		return q, 0, false
	}
	class := binary.BigEndian.Uint16(b[next+2:])
	q = dnsQuestion{string(lower(name)), binary.BigEndian.Uint16(b[next:]), class&dnsFlag != 0}
	return q, next + 4, class&^dnsFlag == dnsClassIN || class&^dnsFlag == dnsAny
}

// parseRecord takes a record of those types whose data is understood.
func parseRecord(b []byte, at int) (r dnsRecord, next int, ok bool) {
	name, at, ok := parseName(b, at)
	if !ok || at+10 > len(b) {
		return r, 0, false
	}
	class, size := binary.BigEndian.Uint16(b[at+2:]), int(binary.BigEndian.Uint16(b[at+8:]))
	r = dnsRecord{name: string(name), kind: binary.BigEndian.Uint16(b[at:]), flush: class&dnsFlag != 0, ttl: binary.BigEndian.Uint32(b[at+4:])}
	at += 10
	next = at + size
	if next > len(b) || r.kind != dnsOPT && class&^dnsFlag != dnsClassIN {
		return r, 0, false
	}
	r.key = string(lower(name))
	data, ok := parseData(b[:next], at, r.kind)
	r.data = string(data)
	return r, next, ok
}

// parseData returns the data of a record from byte at on to the end of b, with the name in it, if
// there is one, without compression (RFC 6762 § 18.14).
func parseData(b []byte, at int, kind uint16) (data []byte, ok bool) {
	switch data = b[at:]; kind {
	case dnsA:
		return data, len(data) == 4
	case dnsAAAA:
		return data, len(data) == 16
	case dnsHINFO, dnsTXT, dnsSVCB, dnsHTTPS, dnsOPT:
		return data, true
	case dnsPTR, dnsCNAME:
		name, next, fits := parseName(b, at)
		return name, fits && next == len(b)
	case dnsSRV:
		if len(data) < 6 {
			return nil, false
		}
		name, next, fits := parseName(b, at+6)
		return append(data[:6:6], name...), fits && next == len(b)
	case dnsNSEC:
		name, next, fits := parseName(b, at)
		if !fits {
			return nil, false
		}
		return append(name, b[next:]...), true
	}
	return nil, false
}

// parseName returns the name at a byte of b, without compression, and where what follows it
// starts. Each of its pointers leads further to the front, so that it ends.
func parseName(b []byte, at int) (name []byte, next int, ok bool) {
	const maxName, pointer = 255, 0xc0
	front := at
	for at < len(b) {
		n := int(b[at])
		switch {
		case n&pointer == pointer:
			if at+2 > len(b) {
				return nil, 0, false
			}
			if next == 0 {
				next = at + 2
			}
			to := int(binary.BigEndian.Uint16(b[at:]) &^ (pointer << 8))
			if to < dnsHeader || to >= front {
				return nil, 0, false
			}
			at, front = to, to
			continue
		case n&pointer != 0 || at+1+n > len(b) || len(name)+1+n > maxName:
			return nil, 0, false
		}
		name = append(name, b[at:at+1+n]...)
		at += 1 + n
		if n == 0 {
			if next == 0 {
				next = at
			}
			return name, next, true
		}
	}
	return nil, 0, false
}

// lower returns a copy of a name in lower case, as which names are compared: of ASCII only
// (RFC 6762 § 16). The lengths in it are less than any letter.
func lower(name []byte) []byte {
	key := append([]byte(nil), name...)
	for i, c := range key {
		if 'A' <= c && c <= 'Z' {
			key[i] = c + 'a' - 'A'
		}
	}
	return key
}

// denies says whether r, an NSEC record, says that its name has no record of a type
// (RFC 6762 § 6.1).
func (r *dnsRecord) denies(kind uint16) bool {
	name, at, ok := parseName([]byte(r.data), 0)
	if r.kind != dnsNSEC || kind >= 256 || !ok || len(name) == 0 || at+2 > len(r.data) {
		return false
	}
	bits := r.data[at+2:]
	if r.data[at] != 0 || int(r.data[at+1]) != len(bits) { // one block, the first
		return false
	}
	i := int(kind / 8)
	return i >= len(bits) || bits[i]>>(7-kind%8)&1 == 0
}

// append appends a record with the time that it has left, in seconds.
func (r *dnsRecord) append(b []byte, left uint32) []byte {
	class := uint16(dnsClassIN)
	if r.flush {
		class |= dnsFlag
	}
	b = append(b, r.name...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, r.kind), class)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(b, left), uint16(len(r.data)))
	return append(b, r.data...)
}
