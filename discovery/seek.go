package discovery

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// A neighbour may seek seekBurst agents at once and then one each seekEvery.
	seekBurst = 16
	seekEvery = 500 * time.Millisecond
	// maxGuests is how many records of agents of other areas are kept, and sought; beyond
	// it all are forgotten.
	maxGuests = 256
	// seekFor is how long an answer is awaited.
	seekFor = 10 * time.Second
)

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
