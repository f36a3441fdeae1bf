package discovery

import (
	"time"

	"farlan/overlay"
)

// Pushes get lost with connections, so each agent sends the hash of its store to a
// random neighbour from time to time, and who has another one answers with a digest.
// While records change that happens often; where nothing has changed for a while, nothing
// can have been lost lately, and it becomes rare. A change that one agent has missed
// finds it all the same: its neighbours have seen it, and ask often again.
const (
	// gossipEvery is the mean time between two hashes while records change. It grows
	// to a quarter of the time since the last change, up to gossipRarely.
	gossipEvery  = 5 * time.Second
	gossipRarely = 2 * time.Minute

	// digestEvery is how often one neighbour can make us send a digest; flowEvery is
	// how often while records are on their way, less than settled ago: then the
	// hashes differ although nothing is lost, and a digest of 200 agents takes 20 kB.
	digestEvery = time.Second
	flowEvery   = 30 * time.Second
	settled     = 2 * time.Second
)

// A rest tells since when a store hasn't changed.
type rest struct {
	hash  [32]byte
	since overlay.Instant
}

// lasted returns how long the store hasn't changed.
func (r *rest) lasted(now overlay.Instant, hash [32]byte) time.Duration {
	if r.hash != hash || r.since == 0 || now.Before(r.since) {
		r.hash, r.since = hash, now
	}
	return now.Sub(r.since)
}

// gossip sends our hash to a neighbour if it is time, and returns when it is again.
func (s *Store) gossip(now overlay.Instant) (next overlay.Instant) {
	gap := min(max(gossipEvery, s.rest.lasted(now, s.hash)/4), gossipRarely)
	due := now >= s.nextGossip
	if due {
		s.neighbours[s.rand.IntN(len(s.neighbours))].hash = true
	}
	// The second condition is true after a change, and after the clock jumped back.
	if due || s.nextGossip.Sub(now) > gap*3/2 {
		s.nextGossip = now.Add(gap/2 + time.Duration(s.rand.Int64N(int64(gap))))
	}
	return s.nextGossip
}

// patience returns how long after a digest a neighbour may make us send another one.
func (s *Store) patience(now overlay.Instant) time.Duration {
	if s.rest.lasted(now, s.hash) < settled {
		return flowEvery
	}
	return digestEvery
}
