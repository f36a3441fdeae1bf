package discovery

import (
	"bytes"
	"slices"
	"time"

	"farlan/overlay"
)

// Pushes get lost with connections, and are refused by an agent whose clock is wrong, so
// each agent sends the hash of its store to a random neighbour from time to time. Who has
// another one answers with a digest if its records are few, else with sums of the parts of
// its records, and is answered with digests of those parts alone that differ: a lost record
// is found among many for a thousand bytes. While records change that happens often; where
// nothing has changed for a while, nothing can have been lost lately, and it becomes rare. A
// change that one agent has missed finds it all the same: its neighbours have seen it, and
// ask often again, as do those who hear that others have other records.
const (
	// gossipEvery is the mean time between two hashes while records change, gossipDivided
	// between sums in a divided network, which are ten times as long. It grows to a quarter
	// of the time since the last change, up to gossipRarely.
	gossipEvery   = 3 * time.Second
	gossipDivided = 5 * time.Second
	gossipRarely  = 2 * time.Minute

	// few is of how many records a digest is sent at once: it takes hardly more than
	// sums would, and spares a round trip.
	few = 32
	// digestEvery is how often one neighbour can make us send digests. While records are on
	// their way, less than settled ago, hashes differ although nothing is lost: then it
	// waits for stampEvery more for each stamp of the last digests, flowEvery at most.
	digestEvery = time.Second
	stampEvery  = 150 * time.Millisecond
	flowEvery   = 30 * time.Second
	settled     = 2 * time.Second
)

// An answer is when a neighbour last made us send stamps, and how many.
type answer struct {
	at     overlay.Instant
	stamps int
}

// A rest tells since when a store hasn't changed, and when it last heard of other records.
type rest struct {
	hash   [32]byte
	since  overlay.Instant
	others overlay.Instant
}

// lasted returns how long the store hasn't changed.
func (r *rest) lasted(now overlay.Instant, hash [32]byte) time.Duration {
	if r.hash != hash || r.since == 0 || now.Before(r.since) {
		r.hash, r.since = hash, now
	}
	return now.Sub(r.since)
}

// calm returns how long nothing is known to be missing anywhere.
func (r *rest) calm(now overlay.Instant, hash [32]byte) time.Duration {
	calm := r.lasted(now, hash)
	if since := now.Sub(r.others); since >= 0 {
		calm = min(calm, since)
	}
	return calm
}

// gossip sends our hash to a neighbour if it is time, and returns when it is again.
func (s *Store) gossip(now overlay.Instant) (next overlay.Instant) {
	gap := gossipEvery
	if !s.plain() {
		gap = gossipDivided
	}
	gap = min(max(gap, s.rest.calm(now, s.hash)/4), gossipRarely)
	due := now >= s.nextGossip
	if due {
		s.another().hash = true
	}
	// The second condition is true after a change, and after the clock jumped back.
	if due || s.nextGossip.Sub(now) > gap*3/2 {
		s.nextGossip = now.Add(gap/2 + time.Duration(s.rand.Int64N(int64(gap))))
	}
	return s.nextGossip
}

// another returns a neighbour to compare with: every other time one that has other records,
// as far as is known.
func (s *Store) another() *neighbour {
	all := s.neighbours
	if s.rand.IntN(2) == 0 {
		if others := slices.DeleteFunc(slices.Clone(all), func(n *neighbour) bool { return !n.differs }); len(others) > 0 {
			all = others
		}
	}
	return all[s.rand.IntN(len(all))]
}

// other notes that a neighbour has other records.
func (s *Store) other(now overlay.Instant, n *neighbour) { n.differs, s.rest.others = true, now }

// spares says whether it is too soon after an answer for another one.
func (s *Store) spares(now overlay.Instant, last answer) bool {
	patience := digestEvery
	if s.rest.lasted(now, s.hash) < settled {
		patience = min(digestEvery+time.Duration(last.stamps)*stampEvery, flowEvery)
	}
	since := now.Sub(last.at)
	return since >= 0 && since < patience
}

// compareWith begins to compare with a neighbour.
func (s *Store) compareWith(n *neighbour) {
	n.digest = !s.divided(n) && s.shelf.len() <= few
	n.hash = !n.digest
}

// receiveHash answers another hash than ours.
func (s *Store) receiveHash(now overlay.Instant, n *neighbour, body []byte) error {
	if len(body) != len(s.hash) {
		return errMalformed
	}
	if n.differs = false; bytes.Equal(body, s.hash[:]) {
		return nil
	}
	s.other(now, n)
	if s.spares(now, n.answered) {
		return nil
	}
	n.answered = answer{at: now}
	if n.sums = s.shelf.len() > few; !n.sums {
		n.digest, n.answered.stamps = true, s.shelf.len()
	}
	return nil
}
