package discovery

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

// A network of more than about a thousand agents is divided into areas. Most records are
// then exchanged between neighbours of the same area only; what gateways tell of the areas
// (Area), and what the admin says, all of the network have. Each store tells its neighbours in
// which area it is. Neighbours of one area compare both scopes, others the wide one only.
const (
	// linger is how long the record of a member is kept that is in another area: as news
	// that it went.
	linger = time.Minute
	// lingerGateway is the same for a gateway that is none any more.
	lingerGateway = 10 * time.Minute
	// moving is for how long an agent that changed its area has the records of the one
	// before, too: so long its links there are used.
	moving = 3 * time.Minute
	// maxFormer is in how many areas it is besides at most.
	maxFormer = 3
)

// The scopes of records.
const (
	local  = iota // exchanged within an area; all records, if the network isn't divided
	wide          // exchanged by all
	scopes = 2
)

var (
	undivided = []uint32{0}
	pruned    = [wide]byte{1}
)

func scopeOf(k Kind) int {
	if k.wide() {
		return wide
	}
	return local
}

// areas is what a store knows of its own.
type areas struct {
	number uint32
	former []former // oldest first
	hash   [32]byte // exclusive or of the sums of the wide records
	sums   [scopes][parts]uint64
	guests map[Brief]*entry
	sought map[Brief]overlay.Instant
	named  map[Brief]*namesakes // by what is asked for
}

// A former area is one that self was in a short while ago.
type former struct {
	number uint32
	until  overlay.Instant
}

// common is what is kept of a neighbour's area.
type common struct {
	areas    []uint32
	untold   bool // it is to be told ours
	parts    [scopes]uint32
	answered [scopes]answer // to its sums
	seeks    []Brief
	sought   pace
}

func (a *areas) mix(e *entry) {
	k := key{e.record.Origin, e.record.Kind}
	a.sums[scopeOf(k.kind)][partOf(k)] ^= binary.BigEndian.Uint64(e.sum[:])
	if k.kind.wide() {
		for i := range a.hash {
			a.hash[i] ^= e.sum[i]
		}
	}
}

// numbers returns the areas in which self is, the present one first.
func (a *areas) numbers() []uint32 {
	all := []uint32{a.number}
	for _, f := range slices.Backward(a.former) {
		all = append(all, f.number)
	}
	return all
}

// settled returns when the next former area is forgotten.
func (a *areas) settled() overlay.Instant {
	if len(a.former) == 0 {
		return math.MaxInt64
	}
	return a.former[0].until
}

// Area returns in which area the store is, and whether it has just come there.
func (s *Store) Area() (number uint32, moving bool) { return s.areas.number, len(s.areas.former) > 0 }

// Enter makes the store one of another area, and for a while of the one before, too. The
// owner publishes a member record that says so.
func (s *Store) Enter(now overlay.Instant, number uint32) {
	a := &s.areas
	if number == a.number {
		return
	}
	if s.shelf.len() == 0 { // as it remembers, or was told
		a.number = number
		s.tellAreas()
		return
	}
	a.former = slices.DeleteFunc(a.former, func(f former) bool { return f.number == number })
	if len(a.former) == maxFormer {
		a.former = a.former[1:]
	}
	a.former = append(a.former, former{a.number, now.Add(moving)})
	a.number = number
	s.tellAreas()
}

// settle forgets former areas.
func (s *Store) settle(now overlay.Instant) {
	a := &s.areas
	n := len(a.former)
	// The second condition is true only after the clock jumped back.
	a.former = slices.DeleteFunc(a.former, func(f former) bool { return now >= f.until || f.until.Sub(now) > moving })
	if len(a.former) < n {
		s.tellAreas()
		s.expire(now)
	}
}

func (s *Store) tellAreas() {
	for _, n := range s.neighbours {
		was := s.shares(n)
		n.untold = true
		s.meet(n, was)
	}
}

// plain says whether self is in no area.
func (s *Store) plain() bool { return s.areas.number == 0 && len(s.areas.former) == 0 }

// divided says whether self and a neighbour go by areas.
func (s *Store) divided(n *neighbour) bool {
	return !s.plain() || len(n.areas) > 1 || n.areas[0] != 0
}

// shares says whether a neighbour is in an area of self's.
func (s *Store) shares(n *neighbour) bool {
	if slices.Contains(n.areas, s.areas.number) {
		return true
	}
	return slices.ContainsFunc(s.areas.former, func(f former) bool { return slices.Contains(n.areas, f.number) })
}

// reaches says whether records of k are exchanged with a neighbour.
func (s *Store) reaches(n *neighbour, k key) bool { return k.kind.wide() || s.shares(n) }

// parts says whether k is the record by which a neighbour tells that it is in another area
// now.
func (s *Store) parts(n *neighbour, k key) bool {
	return k == key{n.id, KindMember} && s.entry(k) != nil
}

// branch returns what is kept of a neighbour for the tree of k.
func (s *Store) branch(n *neighbour, k key) *branch {
	if k.kind.wide() && s.divided(n) {
		return &n.branches[wide]
	}
	return &n.branches[local]
}

// leaves returns when the record of k goes because its origin is in another area.
func (s *Store) leaves(k key, e *entry) overlay.Instant {
	switch {
	case k.kind == KindArea && e.area.Number == 0:
		return e.record.made().Add(lingerGateway)
	case k.kind == KindBackbone:
		if a := s.entry(key{k.origin, KindArea}); a == nil || a.area.Number == 0 {
			return e.record.made().Add(lingerGateway)
		}
		return math.MaxInt64
	case k.kind.wide() || len(s.areas.former) > 0 || k.origin == s.self:
		return math.MaxInt64
	}
	m := e
	if k.kind != KindMember {
		m = s.entry(key{k.origin, KindMember})
	}
	switch {
	case m == nil && s.areas.number != 0:
		return e.record.made().Add(linger)
	case m == nil || m.member.Area == s.areas.number:
		return math.MaxInt64
	}
	return m.record.made().Add(linger)
}

// meet begins to compare anew if a neighbour is in the same area now, or not any more. was
// says whether it was.
func (s *Store) meet(n *neighbour, was bool) {
	is := s.shares(n)
	if is == was {
		return
	}
	if n.digest, n.hash = false, true; is {
		return
	}
	gone := func(k key) bool { return !k.kind.wide() && k != key{s.self, KindMember} }
	for _, keys := range []*keySet{&n.offers, &n.requests, &n.records, &n.later, &n.branches[local].news, &n.branches[local].grafts} {
		*keys = slices.DeleteFunc(*keys, gone)
	}
}

func (s *Store) receiveAreas(n *neighbour, body []byte) error {
	if len(body) == 0 || len(body)%4 != 0 || len(body) > 4*(1+maxFormer) {
		return errMalformed
	}
	was := s.shares(n)
	n.areas = make([]uint32, 0, len(body)/4)
	for b := body; len(b) > 0; b = b[4:] {
		n.areas = append(n.areas, binary.BigEndian.Uint32(b))
	}
	s.meet(n, was)
	// Whoever holds a record of this agent from when it was in the neighbour's area learns
	// that it went.
	if k := (key{s.self, KindMember}); !s.shares(n) && s.entry(k) != nil {
		n.records.add(k)
	}
	return nil
}

// packAreas writes what goes by areas, but for records.
func (s *Store) packAreas(n *neighbour, p *packer) {
	if sums := n.hash && s.divided(n); n.untold || sums { // again and again, as it may get lost
		n.untold = false
		all := s.areas.numbers()
		p.begin(sectionAreas, 4*len(all))
		for _, number := range all {
			p.buf = binary.BigEndian.AppendUint32(p.buf, number)
		}
	}
	if n.sums || n.hash && s.divided(n) {
		n.hash, n.sums = n.hash && !s.divided(n), false
		for scope := range scopes {
			if scope == wide || s.shares(n) {
				s.packSums(scope, p)
			}
		}
	}
	for scope := range scopes {
		if n.parts[scope] != 0 {
			s.packParts(scope, n.parts[scope], p)
			n.parts[scope] = 0
		}
	}
	list(p, sectionSeek, 8, n.seeks, func(b []byte, x Brief) []byte { return binary.BigEndian.AppendUint64(b, uint64(x)) })
	n.seeks = nil
}
