package overlay

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxStations bounds the station table. When it is full, new stations are
	// not learned: their frames are flooded, which is slow but correct.
	MaxStations = 16384
	// StationAge is how long a silent station is remembered, as long as
	// bridges do (IEEE 802.1D § 7.9.2).
	StationAge = 300 * time.Second

	stationShards = 16
	stationFresh  = 100 * time.Millisecond // how often an active station's age is renewed; well under echoTime
	maxStationIPs = 8                      // remembered for each station, newest first
)

// A Place is where frames come from or go to: a port of this agent, or another
// agent, by the index that the agent's node gave it. The zero Place is nowhere.
type Place uint32

const (
	placePort  Place = 1 << 30
	placeAgent Place = 1 << 31
)

// PortPlace is the place of this agent's port i.
func PortPlace(i int) Place { return placePort | Place(i) }

// AgentPlace is the place of the agent with index i.
func AgentPlace(i int) Place { return placeAgent | Place(i) }

// Port returns the port's index if p is a port of this agent.
func (p Place) Port() (int, bool) { return int(p &^ placePort), p&placePort != 0 }

// Agent returns the agent's index if p is another agent.
func (p Place) Agent() (int, bool) { return int(p &^ placeAgent), p&placeAgent != 0 }

// A Station is a MAC address and where it is.
type Station struct {
	MAC      MAC
	Place    Place
	Was      Place // where it was before its last move, 0: it hasn't moved
	IPs      []netip.Addr
	Sequence uint32 // of the claim that says where it is (see Claim), 0: none does
	Moves    uint64 // how often it was elsewhere than before
	Seen     Instant
	Leases   Instant // when it answered as a DHCP server last, 0 never
}

// station is a row of the table. MAC and shard never change; place and seen are read on the
// frame path, the others only where something changes.
type station struct {
	place atomic.Uint32
	seen  atomic.Int64
	lease atomic.Int64 // when it answered as a DHCP server last
	left  atomic.Int64 // when it was at a port of this agent last, 0: it is, or never was
	keep  atomic.Uint32

	// Guarded by the shard's lock.
	seq   uint32
	doubt Instant // since when frames of it come from elsewhere than it was claimed to be
	moved [twiceMoves]Instant
	moves uint64
	was   Place // before the last of them
	ips   []netip.Addr
}

// Stations is the table of stations. The zero value is ready; it is safe for
// concurrent use, and looking up takes one shard's read lock only.
type Stations struct {
	shards [stationShards]struct {
		sync.RWMutex
		at map[MAC]*station
	}
	count  atomic.Int64
	places quotas
}

func (t *Stations) shard(m MAC) int { return int((m[5] ^ m[4] ^ m[3]) % stationShards) }

// Lookup returns where m was seen last.
func (t *Stations) Lookup(now Instant, m MAC) (Place, bool) {
	p, seen := t.last(m)
	return p, p != 0 && now.Sub(seen) < StationAge
}

// find returns the row of m, nil if there is none.
func (t *Stations) find(m MAC) *station {
	s := &t.shards[t.shard(m)]
	s.RLock()
	defer s.RUnlock()
	return s.at[m]
}

// last returns where and when m was seen last, 0 if never.
func (t *Stations) last(m MAC) (Place, Instant) {
	s := &t.shards[t.shard(m)]
	s.RLock()
	e := s.at[m]
	s.RUnlock()
	if e == nil {
		return 0, 0
	}
	return Place(e.place.Load()), Instant(e.seen.Load())
}

// Learn notes that m sent a frame from place p, of which nothing is trusted, and says what
// that tells.
func (t *Stations) Learn(now Instant, m MAC, p Place) Learned {
	return t.learn(now, m, p, 0, false)
}

// learn is Learn, with what is trusted there, and whether the frame announces m.
func (t *Stations) learn(now Instant, m MAC, p Place, trust Trust, announces bool) Learned {
	s := &t.shards[t.shard(m)]
	s.RLock()
	e := s.at[m]
	s.RUnlock()
	switch {
	case e == nil:
		return t.add(now, m, p, trust, announces)
	case Place(e.place.Load()) != p:
		if e.kept(now, trust, announces) {
			return LearnedSpoof
		}
		return t.elsewhere(now, e, m, p, trust, announces)
	case now.Sub(Instant(e.seen.Load())) >= stationFresh:
		e.seen.Store(int64(now))
	}
	return LearnedNothing
}

func (t *Stations) add(now Instant, m MAC, p Place, trust Trust, announces bool) Learned {
	s := &t.shards[t.shard(m)]
	s.Lock()
	defer s.Unlock()
	switch {
	case s.at[m] != nil:
		return LearnedNothing
	case !t.room(p, trust):
		return LearnedFull
	}
	t.row(now, m, p).settle(p, trust, announces)
	return LearnedNew
}

// row makes the row of a station. The shard is locked.
func (t *Stations) row(now Instant, m MAC, p Place) *station {
	s := &t.shards[t.shard(m)]
	if s.at == nil {
		s.at = make(map[MAC]*station)
	}
	e := &station{}
	e.place.Store(uint32(p))
	e.seen.Store(int64(now))
	s.at[m] = e
	t.count.Add(1)
	t.places.add(p, 1)
	return e
}

// SetIP notes that the station m, if it is known, uses ip. An address that
// another station used before isn't taken from it: the newer row shows it first.
func (t *Stations) SetIP(m MAC, ip netip.Addr) {
	s := &t.shards[t.shard(m)]
	s.Lock()
	defer s.Unlock()
	e := s.at[m]
	if e == nil || (len(e.ips) > 0 && e.ips[0] == ip) {
		return
	}
	ips := append([]netip.Addr{ip}, slices.DeleteFunc(e.ips, func(a netip.Addr) bool { return a == ip })...)
	e.ips = ips[:min(len(ips), maxStationIPs)]
}

// SetLeases notes that the station m, if it is known, has answered as a DHCP server in
// the frame that it was heard by last.
func (t *Stations) SetLeases(m MAC) {
	s := &t.shards[t.shard(m)]
	s.RLock()
	defer s.RUnlock()
	if e := s.at[m]; e != nil {
		e.lease.Store(e.seen.Load())
	}
}

// Leave notes that m isn't at place p any more, if it was: nobody knows where it is, and
// Expire removes it.
func (t *Stations) Leave(now Instant, m MAC, p Place) {
	s := &t.shards[t.shard(m)]
	s.Lock()
	defer s.Unlock()
	if e := s.at[m]; e != nil && Place(e.place.Load()) == p {
		e.seen.Store(int64(now.Add(-StationAge)))
	}
}

// Forget forgets what is at place p: a port that was closed, an agent that is gone.
func (s *Switch) Forget(p Place) {
	s.Stations.Forget(p)
	s.Bindings.Forget(p)
	s.Groups.Forget(p)
}

// Forget removes the stations at place p: a port that was closed, an agent
// that is gone.
func (t *Stations) Forget(p Place) {
	t.remove(func(e *station) bool { return Place(e.place.Load()) == p })
}

// Expire removes the stations that were silent for StationAge.
func (t *Stations) Expire(now Instant) {
	t.remove(func(e *station) bool { return now.Sub(Instant(e.seen.Load())) >= StationAge })
}

func (t *Stations) remove(gone func(*station) bool) {
	for i := range t.shards {
		s := &t.shards[i]
		s.Lock()
		for m, e := range s.at {
			if gone(e) {
				delete(s.at, m)
				t.count.Add(-1)
				t.places.add(Place(e.place.Load()), -1)
			}
		}
		s.Unlock()
	}
}

// List returns all stations in the order of their addresses.
func (t *Stations) List() []Station {
	var all []Station
	for i := range t.shards {
		s := &t.shards[i]
		s.RLock()
		for m, e := range s.at {
			all = append(all, e.row(m))
		}
		s.RUnlock()
	}
	slices.SortFunc(all, func(a, b Station) int { return a.MAC.Compare(b.MAC) })
	return all
}

// row returns what is known of station m, whose row is e. The shard is locked.
func (e *station) row(m MAC) Station {
	return Station{
		MAC: m, Place: Place(e.place.Load()), Was: e.was, IPs: slices.Clone(e.ips),
		Sequence: e.seq, Moves: e.moves, Seen: Instant(e.seen.Load()), Leases: Instant(e.lease.Load()),
	}
}
