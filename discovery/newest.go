package discovery

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

// newer says whether a replaces b. Of two records of one version, which only an
// agent that runs twice makes, all stores keep the same.
func newer(a, b Record) bool {
	return cmp.Or(cmp.Compare(a.Version, b.Version), bytes.Compare(b.encoded, a.encoded)) > 0
}

// refusal returns the counter of the reason to refuse r before looking at its
// signature, nil if there is none. An own record from the future is taken from
// others, who believe it: publishing above it is the way back to be heard.
func (s *Store) refusal(now overlay.Instant, r Record, fromNeighbour bool) *uint64 {
	last := unix(now) + int64((RecordLifetime+maxAhead)/time.Second)
	ahead := r.Version > uint64(max(0, now.Add(maxAhead))) || r.Expires > last && r.Kind != KindAdmin
	switch {
	case r.Expires <= unix(now):
		return &s.counters.Expired
	case ahead && (!fromNeighbour || r.Origin != s.self):
		return &s.counters.Ahead
	case fromNeighbour && !s.allows(now, r.Origin):
		return &s.counters.Limited
	case !s.room(now, r):
		return &s.counters.Full
	}
	return nil
}

// room says whether the limits leave room for r, after dropping what expired if
// they don't. There is always room for the admin's statement.
func (s *Store) room(now overlay.Instant, r Record) bool {
	fits := func() bool {
		size := s.bytes + len(r.encoded)
		if e := s.entry(key{r.Origin, r.Kind}); e != nil {
			size -= len(e.record.encoded)
		}
		return size <= s.limits.Bytes && (s.known(r.Origin) || s.originRoom(r.Origin))
	}
	if r.Kind == KindAdmin || fits() {
		return true
	}
	s.expire(now)
	return fits()
}

// originRoom says whether one more origin may come; there is always room for
// self and the admin.
func (s *Store) originRoom(id overlay.AgentID) bool {
	others := s.shelf.origins
	if s.known(s.self) {
		others--
	}
	if s.members != nil && s.known(overlay.AgentID(s.members.admin)) {
		others--
	}
	return id == s.self || s.members.isAdmin(id) || others < s.limits.Origins
}

// known says whether there is a record of an agent.
func (s *Store) known(id overlay.AgentID) bool {
	i, _ := s.shelf.find(key{id, 0})
	return i < s.shelf.len() && s.shelf.key(i).origin == id
}

// Paces of more than fewPaces origins are looked through each lookEvery, and those forgotten
// that are over.
const (
	fewPaces  = 16
	lookEvery = 15 * time.Second
)

// allows says whether an origin may renew a record now.
func (s *Store) allows(now overlay.Instant, id overlay.AgentID) bool {
	return s.paces[id].allow(now, updateEvery, updateBurst)
}

// pay accounts for a record of an origin.
func (s *Store) pay(now overlay.Instant, id overlay.AgentID) {
	p := s.paces[id]
	p.pay(now, updateEvery, updateBurst)
	s.paces[id] = p
}

// calm forgets paces that are over.
func (s *Store) calm(now overlay.Instant) {
	since := now.Sub(s.calmed)
	if len(s.paces) <= fewPaces || since >= 0 && since < lookEvery {
		return
	}
	s.calmed = now
	left := make(map[overlay.AgentID]pace) // a map keeps its room
	for id, p := range s.paces {
		if p.upTo(now, updateEvery) != now {
			left[id] = p
		}
	}
	s.paces = left
}

// entry returns the record of k, nil if there is none.
func (s *Store) entry(k key) *entry {
	if i, ok := s.shelf.find(k); ok {
		return s.shelf.entries[i]
	}
	return nil
}

// put makes e, whose encoding the store keeps, the newest of k.
func (s *Store) put(now overlay.Instant, k key, e *entry) {
	if old := s.entry(k); old != nil {
		s.forget(old)
	}
	s.bytes += len(e.record.encoded)
	s.mix(e)
	if x := s.archive.shelf(s.hash); x != nil {
		s.shelf = x
	} else {
		s.shelf = s.shelf.own()
		s.shelf.put(e)
	}
	s.pay(now, k.origin)
	s.nextExpiry = min(s.nextExpiry, expiry(e.record), s.leaves(k, e))
	if k.origin == s.self {
		s.own = max(s.own, e.record.Version)
	}
	s.change(Change{Origin: k.origin, Kind: k.kind})
	s.enact(now, e)
}

// forget takes e out of the sums.
func (s *Store) forget(e *entry) {
	s.bytes -= len(e.record.encoded)
	s.mix(e)
}

func (s *Store) mix(e *entry) {
	for i := range s.hash {
		s.hash[i] ^= e.sum[i]
	}
	s.areas.mix(e)
}

func (s *Store) change(c Change) {
	k := key{c.Origin, c.Kind}
	if i, ok := s.changed.get(k); ok {
		s.changes[i] = c
		return
	}
	s.changed.set(k, len(s.changes))
	s.changes = append(s.changes, c)
}

// expire drops the records whose time is over, and in a signed network all of
// origins that are no members any more.
func (s *Store) expire(now overlay.Instant) {
	s.nextExpiry = math.MaxInt64
	var last Change // that tells of a record that goes
	for _, e := range slices.Clone(s.shelf.entries) {
		k := e.key()
		until, cause := s.lasts(now, k, e)
		if until > now {
			s.nextExpiry = min(s.nextExpiry, until)
			continue
		}
		if k.origin == last.Origin && cause == nil { // the member record went first
			cause = last.Cause
		}
		last = s.drop(k, cause)
	}
}

// drop takes the record of k out, and returns what it told of that.
func (s *Store) drop(k key, cause error) Change {
	s.forget(s.entry(k))
	s.shelf = s.shelf.own()
	s.shelf.remove(k)
	c := Change{Origin: k.origin, Kind: k.kind, Gone: true, Cause: cause}
	s.change(c)
	return c
}

// rewind drops what is from the future since the clock was set back: no store whose clock
// is right took it. So an agent whose clock was ahead by hours for a moment speaks anew,
// instead of being heard by nobody for as long. Whoever believed it returns it.
func (s *Store) rewind(now overlay.Instant) {
	back := s.ticked.Sub(now)
	if s.ticked = now; back < setBack {
		return
	}
	s.own = 0
	for _, e := range slices.Clone(s.shelf.entries) {
		k, v := e.key(), e.record.Version
		switch {
		case v > uint64(max(0, now.Add(maxAhead))) && !k.kind.ofAdmin():
			s.drop(k, nil)
		case k.origin == s.self:
			s.own = max(s.own, v)
		}
	}
}

// expiry returns when r is forgotten.
func expiry(r Record) overlay.Instant {
	if r.Expires > math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return overlay.Instant(max(r.Expires, 0) * int64(time.Second))
}
