package overlay

// seizeStep is how much an agent that takes over from another one that forwarded for a LAN
// raises the stations' sequence numbers: it may have missed claims, as it was frozen, say, and
// must outbid those who haven't. 32,768 such may be missed.
const seizeStep = 1 << 16

// Seize notes that station m is at p, a port of this agent's, with such a trust, that forwards
// for m's LAN from now on, and returns how it is claimed; false if there is no room for it.
func (t *Stations) Seize(now Instant, m MAC, p Place, trust Trust) (Claim, bool) {
	s := &t.shards[t.shard(m)]
	s.Lock()
	defer s.Unlock()
	e := s.at[m]
	switch {
	case e == nil && !t.room(p, trust):
		return Claim{}, false
	case e == nil:
		e = t.row(now, m, p)
	case Place(e.place.Load()) != p:
		t.hand(now, e, p)
	}
	keep := Keep(e.keep.Load()) &^ KeepLAN // what it says of itself it says there, too
	if trust&TrustStations != 0 {
		keep |= KeepLAN
	}
	e.keep.Store(uint32(keep))
	if e.seq += seizeStep; e.seq == 0 {
		e.seq = 1
	}
	return Claim{MAC: m, Sequence: e.seq, Keep: keep}, true
}

// hand is move for a station whose LAN is forwarded for by another agent, and which is where
// it was: it doesn't count as one that moves too often.
func (t *Stations) hand(now Instant, e *station, p Place) {
	moved, moves := e.moved, e.moves
	t.move(now, e, p)
	e.moved, e.moves = moved, moves
}

// Calm forgets how often stations moved: a loop made them, which is cut.
func (t *Stations) Calm() {
	for i := range t.shards {
		s := &t.shards[i]
		s.Lock()
		for _, e := range s.at {
			e.moves, e.moved, e.doubt = 0, [twiceMoves]Instant{}, 0
		}
		s.Unlock()
	}
}

// Yield notes that another agent, at place to, forwards for the LAN of a port of this one's,
// from. What still comes for its stations is sent after them.
func (t *Stations) Yield(now Instant, from, to Place) {
	for i := range t.shards {
		s := &t.shards[i]
		s.Lock()
		for _, e := range s.at {
			if Place(e.place.Load()) == from {
				t.hand(now, e, to)
			}
		}
		s.Unlock()
	}
}
