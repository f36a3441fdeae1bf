package sim

import (
	"hash/crc32"
	"math/rand/v2"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
)

// beginning is when simulations begin by true time, on a round epoch.
const beginning = overlay.Instant(1_800_000_000 * int64(time.Second))

// headers is what carries a message of a control connection, in bytes: IPv4, UDP, a short
// QUIC header with its tag (RFC 9000 § 17.3), a stream frame, and the message's length.
const headers = 20 + 8 + 12 + 16 + 6 + 4

// A Setting says what is simulated.
type Setting struct {
	Seed   uint64
	Agents int
	Faults Faults
	// RTT are the round trips between agents, from each to each, in µs, 0 where no
	// datagrams pass; nil: the seed makes them up.
	RTT []int32
	// Calm is how long agents are left alone after the start, Trouble how long there are
	// faults then.
	Calm, Trouble time.Duration
	// Noise is by how many thousandths what agents measure in an epoch is off at most.
	Noise int
	// Plant is a network of fixed links with flows; nil: agents choose their links.
	Plant *Plant
	// Talk lets agents' stations send to each other, by which links are chosen, too.
	Talk bool
	// Sizes say when the network is divided into areas; zero: never. Settled agents start in
	// areas as if they remembered them.
	Sizes   decide.Sizes
	Settled bool

	mutant mutant
}

// A mutant has one rule taken out, to show that checks notice.
type mutant uint8

const (
	sane         mutant = iota
	noNumbers           // former places in trees, and numbers of broadcasts, don't count
	noCheck             // nor is there a reverse-path check: broadcasts are taken from anybody
	noTurns             // agents move to better links, and flows to better ways, as soon as they see them
	noHysteresis        // agents move to better links however little better
	asRoutes            // flows choose as without turns, but with them
	noSides             // as noNumbers, and broadcasts that come into an area are taken from its members, too
)

// A Sim is a simulation. It is not safe for concurrent use.
type Sim struct {
	set     Setting
	now     overlay.Instant
	queue   queue
	number  uint64
	rand    *rand.Rand
	network discovery.NetworkKey
	archive discovery.Archive
	world   *world
	agents  []*agent
	index   map[overlay.AgentID]int32
	plan    []fault
	faults  Faults // of now
	album   album
	atlas   atlas
	regions regions
	optimum float64 // see best, 0: not yet
	frames  []frame
	counted Traffic // frames
	fluid   *fluid  // nil: no data flows
	talk    *talk   // nil: nobody talks

	lives, connections uint64
	counters
	ledger ledger
}

// counters count what happened.
type counters struct {
	events       uint64
	messages     uint64
	bytes        uint64 // of messages, with their headers
	told         uint64 // records of links
	drawn        uint64 // pictures
	moves        uint64 // to other areas
	backboneTold uint64 // records of gateways' links
	areasTold    uint64 // records of areas
	refused      uint64 // messages that stores found bad
	trace        uint64
}

// New returns the simulation of a setting, at its beginning.
func New(set Setting) *Sim {
	s := &Sim{
		set: set, now: beginning, rand: rand.New(rand.NewPCG(set.Seed, 1)), network: discovery.NetworkKey{1},
		index:   make(map[overlay.AgentID]int32, set.Agents),
		regions: regions{briefs: make(map[discovery.Brief]int32, set.Agents)},
	}
	s.world = newWorld(set.Agents, s.draw)
	s.world.rtt = set.RTT
	for n := range int32(set.Agents) {
		a := newAgent(s, n)
		if set.Faults&Skew != 0 {
			a.clock.drift = int64(s.draw(401)) - 200
		}
		s.agents = append(s.agents, a)
		s.index[a.id], s.regions.briefs[discovery.BriefOf(a.id)] = n, n
		if !set.Settled {
			s.push(event{at: s.now.Add(time.Duration(s.draw(uint64(5 * time.Second)))), what: starts, to: n})
		}
	}
	if set.Plant != nil {
		s.fluid = newFluid(set.Plant, set.Agents)
		s.push(event{at: s.now.Add(set.Calm), what: flows})
	}
	if set.Talk {
		s.talk = newTalk(set.Seed, set.Agents)
		s.push(event{at: s.now.Add(decide.Epoch / 2), what: talks})
	}
	if set.Settled {
		s.populate()
		s.warm()
	}
	s.conspire()
	return s
}

// draw returns a number below n by chance.
func (s *Sim) draw(n uint64) uint64 { return s.rand.Uint64N(n) }

// one says whether something happens that is one of so many.
func (s *Sim) one(of uint64) bool { return s.draw(of) == 0 }

func (s *Sim) push(e event) {
	s.number++
	e.number = s.number
	s.queue.push(e)
}

// Run goes on until an instant of true time after the beginning.
func (s *Sim) Run(until time.Duration) {
	end := beginning.Add(until)
	for len(s.queue) > 0 && s.queue[0].at <= end {
		e := s.queue.pop()
		s.now = e.at
		s.happen(e)
	}
	s.now = end
}

// happen hands an event to whom it happens, if he is who he was.
func (s *Sim) happen(e event) {
	switch e.what {
	case strikes:
		s.note(e)
		s.strike(e)
		return
	case flows:
		s.note(e)
		s.flow()
		e.at = e.at.Add(flowEvery)
		s.push(e)
		return
	case talks:
		s.note(e)
		s.talks(e)
		return
	}
	a := s.agents[e.to]
	switch {
	case e.what == starts:
		s.note(e)
		if !a.runs() {
			a.start()
		}
	case !a.runs() || (e.what == ticks || e.what == steers || e.what == decides) && e.id != a.life:
	case s.now < a.awake:
		e.at = a.awake
		s.push(e)
	default:
		s.note(e)
		a.happen(e)
	}
}

// note makes an event part of the trace, by which runs are compared.
func (s *Sim) note(e event) {
	s.events++
	for _, x := range [...]uint64{uint64(e.at), uint64(e.what)<<56 ^ uint64(e.to)<<28 ^ uint64(e.from), e.id, uint64(crc32.Checksum(e.msg, castagnoli))} {
		s.trace = mix(s.trace, x)
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Trace returns a hash of all that has happened: equal settings give equal traces.
func (s *Sim) Trace() uint64 { return s.trace }

// datagram sends a message as a datagram: it may be lost, late, or come twice.
func (s *Sim) datagram(from, to int32, msg []byte) {
	s.count(from, msg, true)
	if !s.world.passes(s.now, from, to) || s.faults&Loss != 0 && s.one(20) {
		return
	}
	e := event{at: s.now.Add(s.world.delay(from, to) + s.late()), what: requests, to: to, from: from, msg: msg}
	s.push(e)
	if s.faults&Duplicate != 0 && s.one(20) {
		e.at = e.at.Add(s.late())
		s.push(e)
	}
}

// late is how much later than others a datagram comes.
func (s *Sim) late() time.Duration {
	if s.faults&Reorder == 0 || !s.one(5) {
		return 0
	}
	return time.Duration(s.draw(uint64(300 * time.Millisecond)))
}

// stream sends a message by a connection, of which this is the sender's end: in order, and
// later if datagrams are lost (after 9/8 of a round trip: RFC 9002 § 6.1.2) or late.
func (s *Sim) stream(from int32, x *conn, msg []byte) {
	s.count(from, msg, false)
	at := s.now.Add(s.world.delay(from, x.peer) + s.late())
	for s.faults&Loss != 0 && s.one(20) {
		at = at.Add(s.world.delay(from, x.peer)*9/4 + 25*time.Millisecond)
	}
	x.last = max(x.last, at)
	s.push(event{at: x.last, what: arrives, to: x.peer, from: from, id: x.id, msg: msg})
}

func (s *Sim) count(from int32, msg []byte, request bool) {
	s.ledger.note(from, msg, request)
	s.messages++
	s.bytes += uint64(len(msg) + headers)
}
