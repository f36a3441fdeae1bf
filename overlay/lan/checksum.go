package lan

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

// checksum returns the Internet checksum for a sum.
func checksum(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum)
}

// transportChecksum returns the checksum for a sum that goes into a TCP or UDP
// header, where zero would mean that there is none (RFC 768).
func transportChecksum(sum uint64) uint16 {
	if c := checksum(sum); c != 0 {
		return c
	}
	return 0xffff
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// complete computes the checksum that the sender left to its device: it covers
// b from start on and is put offset bytes further, where the sum of the pseudo
// header waits. It returns false if it does not lie in b.
func complete(b []byte, start, offset int) bool {
	const sctp = 8 // where only SCTP has its checksum, which is a CRC (RFC 9260)
	if offset == sctp {
		if start+offset+4 > len(b) {
			return false
		}
		field := b[start+offset:][:4]
		clear(field)
		binary.LittleEndian.PutUint32(field, crc32.Checksum(b[start:], castagnoli))
		return true
	}
	if start+offset+2 > len(b) {
		return false
	}
	binary.BigEndian.PutUint16(b[start+offset:], transportChecksum(add(0, b[start:])))
	return true
}
