package nat

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// Packets as the tests make them: the slow way, all checksums computed.

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// ipv4 returns an IPv4 packet with a right header checksum.
func ipv4(protocol byte, from, to netip.Addr, segment []byte) []byte {
	b := make([]byte, 20, 20+len(segment))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(segment)))
	binary.BigEndian.PutUint16(b[4:], 0x1234)
	f, t := from.As4(), to.As4()
	copy(b[12:], f[:])
	copy(b[16:], t[:])
	binary.BigEndian.PutUint16(b[10:], ^fold(b))
	return append(b, segment...)
}

// udp, tcp and echo return packets with right checksums. The port of from is an
// echo request's identifier, and that of to a reply's.
func udp(from, to string, payload string) []byte {
	f, t := addrPort(from), addrPort(to)
	s := append(make([]byte, 8), payload...)
	binary.BigEndian.PutUint16(s, f.Port())
	binary.BigEndian.PutUint16(s[2:], t.Port())
	binary.BigEndian.PutUint16(s[4:], uint16(len(s)))
	sum := ^fold(pseudo(protoUDP, f.Addr(), t.Addr(), len(s)), s)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(s[6:], sum)
	return ipv4(protoUDP, f.Addr(), t.Addr(), s)
}

func tcp(from, to string, payload string) []byte {
	f, t := addrPort(from), addrPort(to)
	s := append(make([]byte, 20), payload...)
	binary.BigEndian.PutUint16(s, f.Port())
	binary.BigEndian.PutUint16(s[2:], t.Port())
	s[12] = 5 << 4
	binary.BigEndian.PutUint16(s[16:], ^fold(pseudo(protoTCP, f.Addr(), t.Addr(), len(s)), s))
	return ipv4(protoTCP, f.Addr(), t.Addr(), s)
}

func echo(icmpType byte, from, to string, payload string) []byte {
	f, t := addrPort(from), addrPort(to)
	s := append([]byte{icmpType, 0, 0, 0, 0, 0, 0, 1}, payload...)
	binary.BigEndian.PutUint16(s[4:], max(f.Port(), t.Port()))
	binary.BigEndian.PutUint16(s[2:], ^fold(s))
	return ipv4(protoICMP, f.Addr(), t.Addr(), s)
}

// icmpError returns an ICMP error about the first n bytes of a packet.
func icmpError(icmpType, code byte, from, to string, about []byte, n int) []byte {
	s := append([]byte{icmpType, code, 0, 0, 0, 0, 5, 0}, about[:min(n, len(about))]...)
	binary.BigEndian.PutUint16(s[2:], ^fold(s))
	return ipv4(protoICMP, netip.MustParseAddr(from), netip.MustParseAddr(to), s)
}

func pseudo(protocol byte, from, to netip.Addr, length int) []byte {
	f, t := from.As4(), to.As4()
	return append(append(f[:], t[:]...), 0, protocol, byte(length>>8), byte(length))
}

// fold returns the one's complement sum of parts, each of an even length but
// the last.
func fold(parts ...[]byte) uint16 {
	var sum uint64
	for _, b := range parts {
		for i, x := range b {
			if i%2 == 0 {
				sum += uint64(x) << 8
			} else {
				sum += uint64(x)
			}
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// residues returns what the checksums of a whole packet are wrong by, 0 if they
// are right; transport's also if it says that there is none.
func residues(b []byte) (header, transport uint16) {
	n := int(b[0]&15) * 4
	s := b[n:binary.BigEndian.Uint16(b[2:])]
	p := packet{b: b}
	switch {
	case b[9] == protoICMP:
		return fold(b[:n]) % 0xffff, fold(s) % 0xffff
	case b[9] == protoUDP && s[6] == 0 && s[7] == 0:
		return fold(b[:n]) % 0xffff, 0
	}
	return fold(b[:n]) % 0xffff, fold(pseudo(b[9], p.addr(source), p.addr(destination), len(s)), s) % 0xffff
}

func mustBeRight(t *testing.T, b []byte) {
	t.Helper()
	if header, transport := residues(b); header != 0 || transport != 0 {
		t.Errorf("checksums are wrong by %#04x in the header and %#04x behind it: % x", header, transport, b)
	}
}

// TestChecksums translates random packets and compares the checksums with those
// computed anew.
func TestChecksums(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func() string {
		a := netip.AddrFrom4([4]byte{byte(rnd.Uint32()), byte(rnd.Uint32()), byte(rnd.Uint32()), byte(rnd.Uint32())})
		return netip.AddrPortFrom(a, uint16(1+rnd.IntN(65535))).String()
	}
	for range 20_000 {
		payload := make([]byte, rnd.IntN(64))
		for i := range payload {
			payload[i] = byte(rnd.Uint32())
		}
		from, to := random(), random()
		b := map[int][]byte{
			0: udp(from, to, string(payload)),
			1: tcp(from, to, string(payload)),
			2: echo(echoRequest, from, netip.AddrPortFrom(addrPort(to).Addr(), 0).String(), string(payload)),
		}[rnd.IntN(3)]
		mustBeRight(t, b)
		p, _ := parse(b)
		for _, s := range []side{source, destination} {
			p.rewrite(s, addrPort(random()))
			mustBeRight(t, b)
		}
		if p.protocol() == protoUDP && p.word(p.header+6) == 0 {
			t.Fatalf("a checksum became none: % x", b)
		}
	}
}

// TestChecksumZero finds the port that makes a UDP checksum 0, which must be
// written as its other form (RFC 768), and keeps that of a packet without one.
func TestChecksumZero(t *testing.T) {
	b := udp("10.0.0.1:1", "10.0.0.2:1", "x")
	p, _ := parse(b)
	sum := p.word(p.sumAt())
	p.rewrite(source, netip.AddrPortFrom(p.addr(source), 1+sum))
	mustBeRight(t, b)
	if got := p.word(p.header + 6); got != 0xffff {
		t.Errorf("the checksum is %#04x, want 0xffff", got)
	}
	binary.BigEndian.PutUint16(b[26:], 0)
	p.rewrite(source, addrPort("1.2.3.4:5"))
	if got := p.word(p.header + 6); got != 0 {
		t.Errorf("a packet without a checksum got %#04x", got)
	}
	if header, _ := residues(b); header != 0 {
		t.Error("the header's checksum is wrong")
	}
}
