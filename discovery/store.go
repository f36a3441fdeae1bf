package discovery

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"farlan/overlay"
)

// Limits bounds what a Store holds. A zero field takes its default.
type Limits struct {
	// Origins is how many other agents are remembered, by default 4,096. When
	// there are more, expired ones go first; then new ones are refused. In a
	// signed network as many one-time invites and one more can be in use.
	Origins int
	// Bytes is how long all records together may be, by default 64 MB. A record
	// that goes beyond is refused.
	Bytes int
}

const (
	defaultOrigins = 4096
	defaultBytes   = 64 << 20

	// maxAhead is how far a record may come from the future. Beyond, its
	// origin's clock is wrong; were it believed, the origin could not be heard
	// again once its clock is right.
	maxAhead = 10 * time.Minute
	// setBack is by how much a clock must be set back for that to matter.
	setBack = time.Minute
	// askAgain is how long an answer to a request is awaited before another
	// neighbour is asked.
	askAgain = 2 * time.Second
	// An origin may renew its records updateBurst times at once and then each
	// updateEvery. What comes more often is dropped; comparisons heal it later.
	updateBurst = 20
	updateEvery = 500 * time.Millisecond
	// flushMessages is how many messages of records one neighbour is sent by
	// one Flush (1 MB), and flushAgain when the rest follows.
	flushMessages = 16
	flushAgain    = 20 * time.Millisecond
)

// Counters counts what a Store received and did not take, and why.
type Counters struct {
	Duplicate uint64 // records that were there already
	Stale     uint64 // records older than what was there
	Expired   uint64 // records whose time was over
	Ahead     uint64 // records from more than ten minutes in the future
	Limited   uint64 // records of an origin that speaks too often
	Full      uint64 // records that a limit of the store refused
	Signature uint64 // records with a wrong signature
	Unknown   uint64 // messages, sections and records of a newer version
	Malformed uint64 // messages and records that can't be read
	Stranger  uint64 // messages of somebody who isn't connected
	Elsewhere uint64 // records of members of other areas

	// Of signed networks only:
	Uncertified uint64 // records and claims without a credential that goes back to the admin
	NotYet      uint64 // records whose credential begins in the future
	Lapsed      uint64 // records whose credential is over
	Incomplete  uint64 // records whose credential lacks the receipt of a one-time invite
	Revoked     uint64 // records of revoked agents and of members by revoked invites
	Superseded  uint64 // records and claims of agents whose one-time invite is another's
	Memberless  uint64 // records of agents without a member record
}

// A Change tells that the newest record of an origin and kind is another one
// than before, or that there is none any more.
type Change struct {
	Origin overlay.AgentID
	Kind   Kind
	Gone   bool // the record expired, or Cause
	// Cause is not nil if the origin is no member of the signed network any more:
	// ErrRevoked, ErrSuperseded or ErrLapsed, wrapped. Its sessions and
	// connections must end.
	Cause error
}

// A Store holds the newest record of every agent and kind and replicates it
// with the neighbours' stores: new records are pushed along a tree that forms by
// itself (tree.go), and stores compare themselves on connecting and with a random
// neighbour from time to time. It is a state machine: it does nothing by itself, takes the
// time as an argument, and isn't safe for concurrent use. After each event the
// owner calls Tick, because what is due may have changed, then Flush and Changes.
//
// Records carry wall-clock times, so now must be close to the wall clock; it
// may jump.
type Store struct {
	self     overlay.AgentID
	contexts [][32]byte // what signatures are bound to, one a network key
	limits   Limits
	rand     *rand.Rand

	shelf  *shelf
	shared overlay.Instant          // when a shelf of its own was shared
	paces  map[overlay.AgentID]pace // of origins
	calmed overlay.Instant          // when paces were looked through
	bytes  int                      // length of all records
	hash   [32]byte                 // exclusive or of the sums of all records
	areas  areas
	own    uint64 // highest version that self ever used, as far as we know

	neighbours []*neighbour // ascending by id
	asked      table[overlay.Instant]
	missing    missing
	changes    []Change
	changed    table[int] // indices into changes
	nextExpiry overlay.Instant
	ticked     overlay.Instant // when Tick was called last
	nextGossip overlay.Instant
	rest       rest
	counters   Counters

	members *membership // nil in a simple network
	archive *Archive    // nil: the store verifies and keeps all by itself
}

// An entry is the newest record of a key, verified.
type entry struct {
	record Record
	sum    [32]byte // SHA-256 of the encoding
	member Member   // the body, if the kind is KindMember, or the part of it, if KindArea
	area   *Area    // the body, if the kind is KindArea
	links  *Links   // the body, if the kind is KindLinks or KindBackbone and somebody asked for it
	// credential is the member's, parsed, in a signed network.
	credential Credential
}

func newEntry(r Record) *entry {
	e := &entry{record: r, sum: sha256.Sum256(r.encoded)}
	switch r.Kind { // verified
	case KindMember:
		e.member, _ = ParseMember(r.Body)
	case KindArea:
		a, _ := ParseArea(r.Body)
		e.area, e.member = &a, a.Member
	}
	return e
}

func (e *entry) stamp(k key) stamp { return stamp{k, e.record.Version, [8]byte(e.sum[:8])} }

// A neighbour is a connected agent and what it is to be sent.
type neighbour struct {
	id       overlay.AgentID
	hash     bool     // our hash, so that it compares itself with us
	digest   bool     // all our stamps
	sums     bool     // our sums, to answer its hash
	differs  bool     // it has other records, as far as is known
	answered answer   // to its hashes
	offers   keySet   // stamps of these
	requests keySet   // requests for these
	records  keySet   // these records
	common            // what of areas is kept of it
	evidence []Serial // who has these invites, at most maxEvidence
	branches [scopes]branch
	later    keySet          // it is to be offered these, with the news
	speak    overlay.Instant // when, 0 not decided yet
	told     bool            // now
	refused  pace            // records refused for their credential
}

// NewStore returns an empty store of the agent self. seed makes its random
// choices; agents should use different ones.
func NewStore(self overlay.AgentID, network NetworkKey, seed uint64, limits Limits) *Store {
	limits.Origins = cmp.Or(limits.Origins, defaultOrigins)
	limits.Bytes = cmp.Or(limits.Bytes, defaultBytes)
	return &Store{
		self:       self,
		contexts:   [][32]byte{network.recordContext()},
		limits:     limits,
		rand:       rand.New(rand.NewPCG(seed, 0)),
		shelf:      new(shelf),
		paces:      make(map[overlay.AgentID]pace),
		nextExpiry: math.MaxInt64,
	}
}

// NextVersion returns the version that self's next record must have: now, or
// one more than the highest that self ever used as far as the network knows.
func (s *Store) NextVersion(now overlay.Instant) uint64 {
	return max(uint64(max(now, 0)), s.own+1)
}

// OwnVersion returns the highest version of self's own records that the store
// has seen, published here or returned by others who knew it from a life of the
// agent that this one has no memory of. When a Change of self's own records
// comes that the owner didn't make, it must publish again, above OwnVersion.
func (s *Store) OwnVersion() uint64 { return s.own }

// Publish makes r, signed by self, the newest record of its kind and sends it
// to all neighbours. A record of another agent or one that isn't newer than what
// is there changes nothing and is counted as stale. In a signed network self
// must be a member, too, by the same rules as everybody; else the refusal is
// counted. After another credential publish the member record first.
func (s *Store) Publish(now overlay.Instant, r Record) {
	k := key{r.Origin, r.Kind}
	if old := s.entry(k); r.Origin != s.self || r.encoded == nil || old != nil && !newer(r, old.record) {
		s.counters.Stale++
		return
	}
	if count := s.suspect(now, nil, k); count != nil {
		*count++
		return
	}
	if ok, _ := s.admit(now, nil, r); !ok {
		return
	}
	s.put(now, k, s.archive.add(newEntry(r)))
	s.spread(k, nil, false)
}

// Connected tells that peer is a neighbour from now on. The agent of smaller id
// begins the comparison.
func (s *Store) Connected(now overlay.Instant, peer overlay.AgentID) {
	i, ok := s.neighbourAt(peer)
	if ok {
		return
	}
	n := &neighbour{id: peer, common: common{areas: undivided, untold: !s.plain()}}
	if s.self.Compare(peer) < 0 {
		s.compareWith(n)
	}
	s.neighbours = slices.Insert(s.neighbours, i, n)
}

// Disconnected tells that peer isn't a neighbour any more.
func (s *Store) Disconnected(peer overlay.AgentID) {
	if i, ok := s.neighbourAt(peer); ok {
		s.neighbours = slices.Delete(s.neighbours, i, i+1)
	}
}

func (s *Store) neighbourAt(id overlay.AgentID) (int, bool) {
	return slices.BinarySearchFunc(s.neighbours, id, func(n *neighbour, id overlay.AgentID) int {
		return n.id.Compare(id)
	})
}

// Tick does what is due and returns the instant at which it wants to be called
// again, 0 for not before the next event.
func (s *Store) Tick(now overlay.Instant) (next overlay.Instant) {
	s.rewind(now)
	s.settle(now)
	s.settleShelf(now)
	s.calm(now)
	if now >= s.nextExpiry {
		s.expire(now)
	}
	next = min(s.nextExpiry, s.areas.settled())
	if len(s.neighbours) > 0 {
		next = min(next, s.gossip(now))
	}
	next = min(next, s.graft(now), s.gather(now))
	for _, n := range s.neighbours {
		if len(n.records) > 0 {
			next = min(next, now.Add(flushAgain))
		}
	}
	if next == math.MaxInt64 {
		return 0
	}
	return next
}

// Changes returns what changed since the last call, in order, each record once.
func (s *Store) Changes() []Change {
	c := s.changes
	s.changes = nil
	s.changed.clear()
	return c
}

// Record returns the newest record of an agent and kind.
func (s *Store) Record(origin overlay.AgentID, kind Kind) (Record, bool) {
	e := s.entry(key{origin, kind})
	if e == nil {
		return Record{}, false
	}
	return e.record, true
}

// Member returns what an agent tells about itself, also if it is a gateway of another area,
// or one that was sought there. Addrs must not be changed.
func (s *Store) Member(id overlay.AgentID) (Member, bool) {
	e := s.introduction(id)
	if e == nil {
		return Member{}, false
	}
	return e.member, true
}

// introduction returns the newest record in which an agent says who it is, nil if there is
// none.
func (s *Store) introduction(id overlay.AgentID) *entry {
	e := s.entry(key{id, KindMember})
	if e == nil {
		e = s.entry(key{id, KindArea})
	}
	if e == nil {
		e = s.areas.guests[BriefOf(id)]
	}
	if e == nil || e.record.Origin != id {
		return nil
	}
	return e
}

// Gateways returns the agents that tell of areas, ascending.
func (s *Store) Gateways() (all []overlay.AgentID) {
	for _, e := range s.shelf.entries {
		if e.area != nil && e.area.Number != 0 {
			all = append(all, e.record.Origin)
		}
	}
	return all
}

// Gateway returns what a gateway tells of its area, and when by its clock it did. It must
// not be changed. An agent of area 0 is none any more.
func (s *Store) Gateway(id overlay.AgentID) (a *Area, at overlay.Instant, ok bool) {
	e := s.entry(key{id, KindArea})
	if e == nil {
		return nil, 0, false
	}
	return e.area, e.record.made(), true
}

// Origins returns the agents of whom there is any record, self included if so,
// in ascending order. The admin of a signed network is none.
func (s *Store) Origins() []overlay.AgentID {
	out := make([]overlay.AgentID, 0, s.shelf.origins)
	for _, e := range s.shelf.entries {
		if id := e.record.Origin; !s.members.isAdmin(id) && (len(out) == 0 || out[len(out)-1] != id) {
			out = append(out, id)
		}
	}
	return out
}

// Hash returns a number that depends on all records: equal stores have equal
// hashes.
func (s *Store) Hash() [32]byte { return s.hash }

// LocalHash returns the same for those records alone that go by areas.
func (s *Store) LocalHash() (h [32]byte) {
	for i := range h {
		h[i] = s.hash[i] ^ s.areas.hash[i]
	}
	return h
}

// WideHash returns the same for those records alone that all of a divided network have.
func (s *Store) WideHash() [32]byte { return s.areas.hash }

// Counters returns what was refused so far.
func (s *Store) Counters() Counters { return s.counters }

// Dump returns the records of some kinds, of all if none is named, for remembering, in ascending order of origin and
// kind. The slices belong to the store and must not be changed.
func (s *Store) Dump(kinds ...Kind) [][]byte {
	out := make([][]byte, 0, s.shelf.len())
	for _, e := range s.shelf.entries {
		if len(kinds) == 0 || slices.Contains(kinds, e.record.Kind) {
			out = append(out, e.record.encoded)
		}
	}
	return out
}

// Load takes remembered records and returns how many of them are not records of
// this network. Those that expired meanwhile or don't fit are counted as if
// received; what is newer in the store stays. The slices are copied.
func (s *Store) Load(now overlay.Instant, raw [][]byte) (bad int) {
	for _, b := range raw {
		r, err := decodeRecord(b)
		if err != nil || !s.knows(r.Kind) {
			bad++
			continue
		}
		k := key{r.Origin, r.Kind}
		if old := s.entry(k); old != nil && !newer(r, old.record) {
			continue
		}
		count := s.suspect(now, nil, k)
		if count == nil {
			count = s.refusal(now, r, false)
		}
		if count != nil {
			*count++
			continue
		}
		e := s.archive.find(r, s.contexts)
		if e == nil {
			if r.setEncoded(bytes.Clone(b)); s.verify(&r) != nil {
				bad++
				continue
			}
			e = s.archive.add(newEntry(r))
		}
		if ok, err := s.admit(now, nil, e.record); !ok {
			if err != nil {
				bad++
			}
			continue
		}
		s.put(now, k, e)
		s.spread(k, nil, true)
	}
	return bad
}
