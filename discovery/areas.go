package discovery

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"time"

	"farlan/overlay"
)

// A network of more than about a thousand agents is divided into areas. Most records are
// then exchanged between neighbours of the same area only; what gateways tell of the areas
// (Area), and what the admin says, all of the network have. Each store tells its neighbours in which area it is. Neighbours of
// one area compare both scopes, others the wide one only, each scope part by part, as
// somewhere in a large network something always changes. In a network that isn't divided
// all of this is silent.
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
	// parts is in how many parts a scope's keys are compared.
	parts = 32
	// A neighbour may seek seekBurst agents at once and then one each seekEvery.
	seekBurst = 16
	seekEvery = 500 * time.Millisecond
	// maxGuests is how many records of agents of other areas are kept, and sought; beyond
	// it all are forgotten.
	maxGuests = 256
	// seekFor is how long an answer is awaited.
	seekFor = 10 * time.Second
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

func partOf(k key) int { return int(k.origin[0]) * parts >> 8 }

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

// Seek asks a neighbour, a gateway of another area, for the member record of an agent there.
// When it comes, Member knows it.
func (s *Store) Seek(now overlay.Instant, gateway overlay.AgentID, b Brief) {
	i, ok := s.neighbourAt(gateway)
	if !ok {
		return
	}
	if a := &s.areas; len(a.sought) >= maxGuests || a.sought == nil {
		a.sought = make(map[Brief]overlay.Instant)
	}
	s.areas.sought[b] = now
	if n := s.neighbours[i]; len(n.seeks) < seekBurst && !slices.Contains(n.seeks, b) {
		n.seeks = append(n.seeks, b)
	}
}

// receiveSeek answers with the member records of this area that a neighbour seeks.
func (s *Store) receiveSeek(now overlay.Instant, n *neighbour, body []byte) error {
	if len(body)%8 != 0 {
		return errMalformed
	}
	for b := body; len(b) > 0; b = b[8:] {
		if !n.sought.allow(now, seekEvery, seekBurst) {
			s.counters.Limited++
			return nil
		}
		n.sought.pay(now, seekEvery, seekBurst)
		what := Brief(binary.BigEndian.Uint64(b))
		if id, ok := s.Find(what); ok && s.entry(key{id, KindMember}) != nil {
			n.records.add(key{id, KindMember})
		} else if !ok {
			s.tellNamed(n, what)
		}
	}
	return nil
}

// receiveGuest takes the record of a member of another area if it was sought.
func (s *Store) receiveGuest(now overlay.Instant, n *neighbour, r Record) error {
	b := BriefOf(r.Origin)
	at, ok := s.areas.sought[b]
	old := s.areas.guests[b]
	if old != nil {
		s.calledFor(now, old.record).add(r.Origin)
	}
	named := s.calledFor(now, r)
	if named == nil && (!ok || now.Sub(at) > seekFor) || r.Kind != KindMember || old != nil && !newer(r, old.record) {
		s.counters.Elsewhere++
		return nil
	}
	delete(s.areas.sought, b)
	if count := s.refusal(now, r, true); count != nil {
		*count++
		return nil
	}
	if err := s.verify(&r); err != nil {
		return err
	}
	if ok, err := s.admit(now, n, r); !ok {
		return err
	}
	r.setEncoded(bytes.Clone(r.encoded))
	if a := &s.areas; len(a.guests) >= maxGuests || a.guests == nil {
		a.guests = make(map[Brief]*entry)
	}
	s.areas.guests[b] = newEntry(r)
	named.add(r.Origin)
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
