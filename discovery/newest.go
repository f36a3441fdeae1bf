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
	case fromNeighbour && !s.origins[r.Origin].allow(now):
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
		return size <= s.limits.Bytes && (s.origins[r.Origin] != nil || s.originRoom(r.Origin))
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
	others := len(s.origins)
	if s.origins[s.self] != nil {
		others--
	}
	if s.members != nil && s.origins[overlay.AgentID(s.members.admin)] != nil {
		others--
	}
	return id == s.self || s.members.isAdmin(id) || others < s.limits.Origins
}

// An origin is somebody of whom there is a record.
type origin struct {
	entries [lastKind]*entry // by kind, from the first one
	records int              // how many of them there are
	updates pace
}

// entry returns the origin's record of a kind, nil if there is none.
func (o *origin) entry(kind Kind) *entry {
	if kind < 1 || kind > lastKind {
		return nil
	}
	return o.entries[kind-1]
}

// allow says whether the origin may renew a record now.
func (o *origin) allow(now overlay.Instant) bool {
	return o == nil || o.updates.allow(now, updateEvery, updateBurst)
}

// entry returns the record of k, nil if there is none.
func (s *Store) entry(k key) *entry {
	if o := s.origins[k.origin]; o != nil {
		return o.entry(k.kind)
	}
	return nil
}

// put makes e, whose encoding the store keeps, the newest of k.
func (s *Store) put(now overlay.Instant, k key, e *entry) {
	o := s.origins[k.origin]
	if o == nil {
		o = new(origin)
		s.origins[k.origin] = o
	}
	if old := o.entry(k.kind); old == nil {
		s.order.add(k)
		o.records++
	} else {
		s.forget(old)
	}
	o.entries[k.kind-1] = e
	s.bytes += len(e.record.encoded)
	s.mix(e)
	o.updates.pay(now, updateEvery, updateBurst)
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
	s.order = slices.DeleteFunc(s.order, func(k key) bool {
		e := s.entry(k)
		until, cause := s.lasts(now, k, e)
		if until > now {
			s.nextExpiry = min(s.nextExpiry, until)
			return false
		}
		if k.origin == last.Origin && cause == nil { // the member record went first
			cause = last.Cause
		}
		last = s.drop(k, cause)
		return true
	})
}

// drop takes the record of k out of all but the order, and returns what it told of that.
func (s *Store) drop(k key, cause error) Change {
	o := s.origins[k.origin]
	s.forget(o.entry(k.kind))
	o.entries[k.kind-1] = nil
	if o.records--; o.records == 0 {
		delete(s.origins, k.origin)
	}
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
	s.order = slices.DeleteFunc(s.order, func(k key) bool {
		v := s.entry(k).record.Version
		if v > uint64(max(0, now.Add(maxAhead))) && !k.kind.ofAdmin() {
			s.drop(k, nil)
			return true
		}
		if k.origin == s.self {
			s.own = max(s.own, v)
		}
		return false
	})
}

// expiry returns when r is forgotten.
func expiry(r Record) overlay.Instant {
	if r.Expires > math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return overlay.Instant(max(r.Expires, 0) * int64(time.Second))
}
