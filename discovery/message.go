package discovery

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"farlan/overlay"
)

// MaxMessage is the longest message between two stores, in bytes.
const MaxMessage = 64 << 10

// Neighbours replicate records by messages of this form, numbers big endian:
//
//	0   version, 1; a message of another version is counted and dropped
//	1–  sections: type, 1 byte; length n, 2 bytes; body, n bytes
//
// Types of sections; others are counted and skipped:
//
//	1 hash      32 bytes that depend on all records of the sender: whoever has
//	            others answers with a digest, or with sums if they are many
//	2 digest    key, key, stamps: all that the sender has of the keys above the
//	            first and up to the second, ascending. The receiver asks for what
//	            it lacks and offers what the sender lacks
//	3 offer     stamps: what the sender has got and the receiver may ask for
//	4 request   keys: what the sender wants to have
//	5 record    a record, see Record
//	6 claim     in signed networks: the credential by which an agent has a one-time
//	            invite that another agent's record claims, see Claims
//	7 news      stamps: what the sender has got of late and most likely comes
//	            another way, see tree.go
//	8 prune     nothing: the sender gets records another way sooner, and wants to
//	            have news instead
//	9 graft     keys: what the sender wants to have, and what will be new, too
//	11 sums     scope, 1 byte; 8 bytes for each of 32 parts of the keys: they depend on
//	            all records of the scope that the sender has in the part. Whoever has
//	            others answers with digests of these parts
//	12 part     scope, 1 byte; as digest, of a part of the scope's keys
//
// In divided networks (areas.go) there are these besides, and prunes of one byte are for
// what all of the network have:
//
//	10 areas    numbers, 4 bytes each: of the sender's area, and of those that it was in
//	            a short while ago
//	13 seek     brief names, 8 bytes each: of members whose records the sender wants to
//	            have though they are in another area
//
// A key is an origin (32 bytes) and a kind (1 byte); a stamp is a key, the
// record's version (8 bytes) and the first 8 bytes of the SHA-256 of its
// encoding.
const (
	messageVersion = 1
	sectionHead    = 3
	keyLen         = 33
	stampLen       = keyLen + 16
)

const (
	_ = iota
	sectionHash
	sectionDigest
	sectionOffer
	sectionRequest
	sectionRecord
	sectionClaim
	sectionNews
	sectionPrune
	sectionGraft
	sectionAreas
	sectionSums
	sectionPart
	sectionSeek
)

var errMalformed = errors.New("malformed message")

// A key names a record whatever its version.
type key struct {
	origin overlay.AgentID
	kind   Kind
}

// lastKey is at or above every key.
var lastKey = key{overlay.AgentID(bytes.Repeat([]byte{0xff}, 32)), 0xff}

func (k key) compare(o key) int {
	return cmp.Or(k.origin.Compare(o.origin), cmp.Compare(k.kind, o.kind))
}

func (k key) append(b []byte) []byte { return append(append(b, k.origin[:]...), byte(k.kind)) }

func parseKey(b []byte) key { return key{overlay.AgentID(b[:32]), Kind(b[32])} }

// A stamp tells which record of a key somebody has.
type stamp struct {
	key
	version uint64
	sum     [8]byte
}

func (t stamp) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(t.key.append(b), t.version)
	return append(b, t.sum[:]...)
}

func parseStamp(b []byte) stamp {
	return stamp{parseKey(b), binary.BigEndian.Uint64(b[33:]), [8]byte(b[41:49])}
}

// cutSection reads the section at the start of b and returns what follows it.
func cutSection(b []byte) (typ byte, body, rest []byte, err error) {
	if len(b) < sectionHead {
		return 0, nil, nil, errMalformed
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if len(b) < sectionHead+n {
		return 0, nil, nil, errMalformed
	}
	return b[0], b[sectionHead : sectionHead+n], b[sectionHead+n:], nil
}

// A packer puts sections into as few messages as possible.
type packer struct {
	send func([]byte)
	buf  []byte // the message in the making, nil if none
	sent int    // messages sent
}

// begin makes room for a section of n bytes and writes its head. The caller
// appends exactly n bytes to p.buf.
func (p *packer) begin(typ byte, n int) {
	if p.buf != nil && len(p.buf)+sectionHead+n > MaxMessage {
		p.flush()
	}
	if p.buf == nil {
		p.buf = append(make([]byte, 0, 1+sectionHead+n), messageVersion)
	}
	p.buf = binary.BigEndian.AppendUint16(append(p.buf, typ), uint16(n))
}

// fits returns how many items of n bytes go into a section of the message in
// the making after head further bytes; 0 means that a new message is needed.
func (p *packer) fits(n, head int) int {
	return max(0, (MaxMessage-max(1, len(p.buf))-sectionHead-head)/n)
}

func (p *packer) flush() {
	if p.buf != nil {
		p.send(p.buf)
		p.sent++
		p.buf = nil
	}
}

// list writes items of size bytes each into sections of one type.
func list[T any](p *packer, typ byte, size int, items []T, add func([]byte, T) []byte) {
	for len(items) > 0 {
		n := min(p.fits(size, 0), len(items))
		if n == 0 {
			p.flush()
			continue
		}
		p.begin(typ, n*size)
		for _, x := range items[:n] {
			p.buf = add(p.buf, x)
		}
		items = items[n:]
	}
}

// A keySet is a set of keys in ascending order.
type keySet []key

func (s keySet) find(k key) (int, bool) { return slices.BinarySearchFunc(s, k, key.compare) }

func (s *keySet) add(k key) {
	if n := len(*s); n == 0 || (*s)[n-1].compare(k) < 0 { // as those of a digest come
		*s = append(*s, k)
		return
	}
	if i, ok := s.find(k); !ok {
		*s = slices.Insert(*s, i, k)
	}
}

// shift takes out the first n.
func (s *keySet) shift(n int) {
	if n == len(*s) && cap(*s) > roomy {
		*s = nil // see table
		return
	}
	*s = append((*s)[:0], (*s)[n:]...)
}

func (s *keySet) clear() { s.shift(len(*s)) }

func (s *keySet) remove(k key) {
	if len(*s) == 0 {
		return
	}
	if i, ok := s.find(k); ok {
		*s = slices.Delete(*s, i, i+1)
	}
}
