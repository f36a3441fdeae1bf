package overlay

import (
	"slices"
	"time"
)

// A station belongs to the agent that claimed it with the highest sequence number (RFC 7432
// § 15). An agent claims what speaks at a port of its own and isn't there yet: what is new,
// with 1, and what was elsewhere, with one more than the claim that said so. So where frames
// that are late come from doesn't matter.
const (
	// twiceMoves and twiceTime: as many moves in that time are made by two machines with one
	// address (RFC 7432 § 15.1). Until they have become fewer, this agent doesn't claim it.
	twiceMoves = 5
	twiceTime  = 180 * time.Second
	// doubtTime is how long frames of a station must come from another agent than the one
	// that claimed it, and none from there, until they are believed: that one's claim is old
	// then, and the other's was lost.
	doubtTime = 3 * time.Second
	// ownTime is how long after a station spoke here this agent's claim is made anew when another
	// one answers it with a higher number: that one doesn't know yet that it has left.
	ownTime = time.Second
	// lateTime is for how long what still comes for a station that has left is sent after it.
	lateTime = 10 * time.Second
)

// Learned is what a frame, or a claim, told of a station.
type Learned uint8

// What can be learned.
const (
	LearnedNothing Learned = iota // where it is was known, or is not believed
	LearnedNew                    // it wasn't known
	LearnedMove                   // it was elsewhere
	LearnedTwice                  // it moves so often that two machines must have the address; it stays where it was
	LearnedOlder                  // who claims it doesn't know that this agent does, with a higher number
	LearnedAgain                  // it is here, but this agent must claim it with a higher number
	LearnedSpoof                  // another station has the address; see Keep. Of a claim: it must be claimed again
	LearnedFull                   // it wasn't known, and there is no room for it
)

// elsewhere notes that m, whose row is e, sent a frame from p, and not from where it was.
func (t *Stations) elsewhere(now Instant, e *station, m MAC, p Place, trust Trust, announces bool) Learned {
	s := &t.shards[t.shard(m)]
	s.Lock()
	defer s.Unlock()
	was := Place(e.place.Load())
	if was == p {
		return LearnedNothing // another lane was first
	}
	_, here := p.Port()
	switch {
	case here && e.twice(now):
		return LearnedTwice
	case !here && e.seq != 0 && !e.doubted(now):
		return LearnedNothing
	case !t.room(p, trust):
		return LearnedFull
	}
	t.move(now, e, p)
	e.settle(p, trust, announces)
	return LearnedMove
}

// doubted says whether frames have come long enough from elsewhere than from where the
// station was claimed to be.
func (e *station) doubted(now Instant) bool {
	seen := Instant(e.seen.Load())
	if e.doubt <= seen {
		e.doubt = now
	}
	return now.Sub(e.doubt) >= doubtTime
}

// twice says whether the row moved too often.
func (e *station) twice(now Instant) bool {
	first := e.moved[e.moves%twiceMoves] // the next one's place: the oldest
	return e.moves >= twiceMoves && now.Sub(first) < twiceTime
}

// Twice returns the stations that move so often that two machines must have the address, in
// the order of their addresses.
func (t *Stations) Twice(now Instant) (all []Station) {
	for i := range t.shards {
		s := &t.shards[i]
		s.RLock()
		for m, e := range s.at {
			if e.twice(now) {
				all = append(all, e.row(m))
			}
		}
		s.RUnlock()
	}
	slices.SortFunc(all, func(a, b Station) int { return a.MAC.Compare(b.MAC) })
	return all
}

func (t *Stations) move(now Instant, e *station, p Place) {
	t.places.add(Place(e.place.Load()), -1)
	t.places.add(p, 1)
	_, was := Place(e.place.Load()).Port()
	_, is := p.Port()
	switch {
	case is:
		e.left.Store(0)
	case was:
		e.left.Store(int64(now))
	}
	e.was = Place(e.place.Load())
	e.seen.Store(int64(now))
	e.place.Store(uint32(p))
	e.moved[e.moves%twiceMoves] = now
	e.moves++
	e.doubt = 0
}

// Claim returns the sequence number by which this agent claims station m, which it learned
// at a port of its own, from now on; 0 if it isn't at one.
func (t *Stations) Claim(m MAC) uint32 {
	s := &t.shards[t.shard(m)]
	s.Lock()
	defer s.Unlock()
	e := s.at[m]
	if e == nil {
		return 0
	}
	if _, here := Place(e.place.Load()).Port(); !here {
		return 0
	}
	e.seq = after(e.seq)
	return e.seq
}

// Claimed returns the sequence number by which this agent has claimed m, 0 if it hasn't.
func (t *Stations) Claimed(m MAC) uint32 {
	s := &t.shards[t.shard(m)]
	s.RLock()
	defer s.RUnlock()
	e := s.at[m]
	if e == nil {
		return 0
	}
	if _, here := Place(e.place.Load()).Port(); !here {
		return 0
	}
	return e.seq
}

// TakeClaim notes that the agent at place p claims m by a sequence number, or answers a claim
// with that. Of two with the same number one wins: first says whether p goes before another
// place.
func (t *Stations) TakeClaim(now Instant, c Claim, p Place, answer bool, first func(other Place) bool) Learned {
	s := &t.shards[t.shard(c.MAC)]
	s.Lock()
	defer s.Unlock()
	e := s.at[c.MAC]
	if e == nil {
		if !t.room(p, 0) {
			return LearnedNothing
		}
		e = t.row(now, c.MAC, p)
		e.seq = c.Sequence
		e.keep.Store(uint32(c.Keep))
		return LearnedNew
	}
	was := Place(e.place.Load())
	_, here := was.Port()
	switch wins := newer(c.Sequence, e.seq); {
	case was == p:
		if wins {
			e.seq = c.Sequence
		}
		if wins || c.Sequence == e.seq {
			e.keep.Store(uint32(c.Keep))
		}
		e.seen.Store(int64(now))
		return LearnedNothing
	case e.keptFrom(now, c):
		if !here {
			return LearnedNothing
		}
		if !newer(e.seq, c.Sequence) {
			e.seq = c.Sequence
		}
		return LearnedSpoof
	case answer && here && c.Keep.goesBefore(Keep(e.keep.Load())): // this agent took it without right
	case !wins && (c.Sequence != e.seq || !first(was)):
		if here && e.seq != 0 {
			return LearnedOlder
		}
		return LearnedNothing
	case answer && here && now.Sub(Instant(e.seen.Load())) < ownTime && !e.twice(now):
		e.seq = c.Sequence
		return LearnedAgain
	}
	if !t.room(p, 0) {
		return LearnedNothing
	}
	t.move(now, e, p)
	e.seq = c.Sequence
	e.keep.Store(uint32(c.Keep))
	return LearnedMove
}

// Late says whether m was at a port of this agent a moment ago, and isn't any more: what comes
// for it from other agents, who don't know that yet, is sent after it.
func (t *Stations) Late(now Instant, m MAC) bool {
	s := &t.shards[t.shard(m)]
	s.RLock()
	e := s.at[m]
	s.RUnlock()
	if e == nil {
		return false
	}
	left := Instant(e.left.Load())
	return left != 0 && now.Sub(left) < lateTime
}

// after returns the sequence number after seq. 0 is none.
func after(seq uint32) uint32 {
	if seq++; seq == 0 {
		return 1
	}
	return seq
}

// newer says whether a goes after b: they go round (RFC 1982), so that nobody can take a
// number that others can't raise.
func newer(a, b uint32) bool { return a != b && (b == 0 || int32(a-b) > 0) }
