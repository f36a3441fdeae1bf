package overlay

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// add adds the 16-bit words of b to sum, as RFC 1071 does; an odd byte at the
// end counts as the upper half of a word.
func add(sum uint64, b []byte) uint64 {
	var carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	var last [8]byte
	copy(last[:], b)
	sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(last[:]), carry)
	sum, carry = bits.Add64(sum, 0, carry)
	return sum + carry
}

// fold makes a sum one of 16 bits.
func fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}

// transportChecksum returns the checksum for a sum that goes into a TCP or UDP
// header, where zero would mean that there is none (RFC 768).
func transportChecksum(sum uint64) uint16 {
	if c := ^fold(sum); c != 0 {
		return c
	}
	return 0xffff
}

// putIPv4Checksum computes the checksum of an IPv4 header: h is all of it.
func putIPv4Checksum(h []byte) {
	field := h[10:12]
	clear(field)
	binary.BigEndian.PutUint16(field, ^fold(add(0, h)))
}

// pseudoSum returns the sum of the pseudo header (RFC 9293 § 3.1, RFC 8200
// § 8.1) of l4len bytes of that protocol behind the IP header that ip starts
// with. Folded, it is what the checksum field of an unfinished frame holds: the
// rest of the sum adds to it.
func pseudoSum(ip []byte, l4len int, protocol byte) uint64 {
	sum := uint64(l4len) + uint64(protocol)
	if ip[0]>>4 == 4 {
		return add(sum, ip[12:20])
	}
	return add(sum, ip[8:40])
}

// Defer makes the checksum of a super-frame of that length, which begins with
// head and has the headers h, one that whoever finishes the frame computes.
// Super-frames have no other: each of their segments gets its own.
func (o *Offload) Defer(head []byte, h Headers, length int) {
	protocol := byte(protocolTCP)
	if o.Super == SuperUDP {
		protocol = protocolUDP
	}
	o.Start, o.Offset = o.checksum(h)
	sum := pseudoSum(head[h.IP:], length-h.L4, protocol)
	binary.BigEndian.PutUint16(head[o.Start+o.Offset:], fold(sum))
}

// sctpOffset is where SCTP alone has its checksum, which is a CRC (RFC 9260).
const sctpOffset = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksumFits says whether the checksum that o leaves out, if any, lies in a
// frame of n bytes.
func (o Offload) checksumFits(n int) bool {
	size := 2
	if o.Offset == sctpOffset {
		size = 4
	}
	return o.Start == 0 || int(o.Start)+int(o.Offset)+size <= n
}

// Complete computes the checksum that o says frame f lacks, in place. It
// returns false if the checksum doesn't lie in f.
func Complete(f []byte, o Offload) bool {
	switch {
	case o.Start == 0:
		return true
	case !o.checksumFits(len(f)):
		return false
	}
	covered := f[o.Start:]
	if o.Offset == sctpOffset {
		field := covered[sctpOffset:][:4]
		clear(field)
		binary.LittleEndian.PutUint32(field, crc32.Checksum(covered, castagnoli))
		return true
	}
	binary.BigEndian.PutUint16(covered[o.Offset:], transportChecksum(add(0, covered)))
	return true
}
