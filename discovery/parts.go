package discovery

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"farlan/overlay"
)

// parts is in how many parts a scope's keys are compared, if the whole differs: somewhere in a
// large network something always changes.
const parts = 32

func partOf(k key) int { return int(k.origin[0]) * parts >> 8 }

// receiveSums answers other sums than ours by digests of the parts.
func (s *Store) receiveSums(now overlay.Instant, n *neighbour, body []byte) error {
	if len(body) != 1+8*parts || body[0] >= scopes {
		return errMalformed
	}
	scope := int(body[0])
	last := &n.common.answered[scope]
	if scope == local && !s.shares(n) || s.spares(now, *last) {
		return nil
	}
	for i := range parts {
		if binary.BigEndian.Uint64(body[1+8*i:]) == s.areas.sums[scope][i] {
			continue
		}
		if last.at != now {
			*last = answer{at: now}
			s.other(now, n)
		}
		n.parts[scope] |= 1 << i
		last.stamps += s.partLen(i)
	}
	return nil
}

// partLen returns how many stamps a part has, of both scopes.
func (s *Store) partLen(i int) int {
	from, _ := s.shelf.find(partEnd(i - 1))
	to, _ := s.shelf.find(partEnd(i))
	return to - from
}

func (s *Store) receivePart(now overlay.Instant, n *neighbour, body []byte) error {
	if len(body) == 0 || body[0] >= scopes {
		return errMalformed
	}
	scope := int(body[0])
	return s.walk(now, n, body[1:], func(k key) bool { return scopeOf(k.kind) == scope && s.reaches(n, k) })
}

func (s *Store) packSums(scope int, p *packer) {
	p.begin(sectionSums, 1+8*parts)
	p.buf = append(p.buf, byte(scope))
	for _, sum := range s.areas.sums[scope] {
		p.buf = binary.BigEndian.AppendUint64(p.buf, sum)
	}
}

// packParts writes digests of some parts of a scope's keys.
func (s *Store) packParts(scope int, which uint32, p *packer) {
	all := slices.DeleteFunc(s.shelf.keys(), func(k key) bool { return scopeOf(k.kind) != scope })
	for ; which != 0; which &= which - 1 {
		i := bits.TrailingZeros32(which)
		above, upTo := partEnd(i-1), partEnd(i)
		from, _ := all.find(above)
		to, _ := all.find(upTo)
		s.packRange(p, sectionPart, []byte{byte(scope)}, above, upTo, s.stamps(all[from:to]))
	}
}

// partEnd returns the last key of a part, the zero key for that before the first one.
func partEnd(i int) key {
	switch {
	case i < 0:
		return key{}
	case i == parts-1:
		return lastKey
	}
	k := lastKey
	k.origin[0] = byte((i+1)<<8/parts - 1)
	return k
}
