package reserve

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"farlan/overlay"
)

// A Config is what a Broker is told once.
type Config struct {
	Self    overlay.AgentID
	Drivers []Caps // in the order in which they are tried
	Quotas  Quotas // zero counts: defaults
	// Longest is for how long an egress is leased at most before it must be renewed, and
	// LongestCircuit a circuit; 0: 10 minutes, and 1 hour.
	Longest, LongestCircuit time.Duration
	// Automatic lets flows be reserved for that no owner declared, up to Cap each (0: no less
	// than there is); Circuits lets them have circuits, where nothing else helps.
	Automatic, Circuits bool
	Cap                 Rate
	// Hop says how this agent sends to another one directly: by its ordinary way out, or, if k
	// is Circuit, by the circuit that there would be. ok is false if it doesn't.
	Hop func(to overlay.AgentID, k Kind) (h Hop, ok bool)
	// Rand draws numbers of reservations and jitter. It is the broker's alone.
	Rand *rand.Rand
	// Most is how many flows the frame path can tell apart, as their sender or on their way; 0:
	// any number.
	Most int
	// Serves says whether another agent may reserve here; nil: all may. NoTransit says that
	// nothing is passed on for others, so nothing is reserved for that.
	Serves    func(peer overlay.AgentID) bool
	NoTransit bool
}

// A Hop is the way to another agent.
type Hop struct {
	Egress string         // the name of what limits it, as SetCapacity has it
	Via    netip.AddrPort // see Want
}

const (
	defaultLongest        = 10 * time.Minute
	defaultLongestCircuit = time.Hour

	// What a broker remembers. Beyond that it refuses, as Busy.
	maxSegments     = 1024
	maxPeerSegments = 96 // of one peer, those over a while ago included
	maxReservations = 256
	maxLines        = 16384
	maxPeerLines    = 512
	maxNeeds        = 1024
	// maxWaiting is how much waits for the journal: then messages are dropped, which their
	// senders repeat.
	maxWaiting = 4096

	// remembered is for how long what is over isn't forgotten: late copies of requests find it.
	remembered = 2 * time.Minute
	// listEvery is how often what drivers hold is compared with what they should.
	listEvery = time.Minute
	listAgain = 5 * time.Second
	// retryFirst and retryMost bound the time between two tries of one call.
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// A Broker reserves for one agent and at it: it coordinates reservations that begin at it, and
// has its drivers serve the segments that others, or itself, ask for. See the package comment
// for how an agent runs one. It is not safe for concurrent use.
type Broker struct {
	cfg Config

	segments     map[ID]*segment
	order        []*segment // the same, oldest first
	reservations map[[16]byte]*reservation
	course       []*reservation // the same
	needs        map[Flow]*need
	wishes       []*need // the same
	lines        map[line]*tenure
	labels       byte // that was given last
	leaving      bool
	claimants    map[string]int          // flows that need a part, by egress
	linesBy      map[overlay.AgentID]int // how many an agent made this one remember
	capacity     map[string]Rate
	drivers      []*driver

	calls  map[uint64]callee
	called uint64

	journal       []byte // entries that aren't out yet
	made, written uint64 // entries
	waiting       []effect
	local         []message // to this agent
	again         bool      // what was looked at already has something to do
	ways          []Way     // as they are out
	shown         bool
	swept         overlay.Instant // when lines were forgotten last

	mutant mutant
	moved  func(id ID, from, to State) // for tests
}

// A mutant is a broker with one rule taken out, to show that tests notice.
type mutant uint8

const (
	sane      mutant = iota
	noJournal        // calls don't wait for their entries
	noEpochs         // older epochs are served
	noAbort          // what is refused isn't aborted
	noSum            // an egress admits whatever fits it alone
	noProof          // packets are sent by what no driver has seen work
)

// A driver is what a Broker knows of one.
type driver struct {
	Caps
	opened  bool // what it held at the start is known
	mute    bool // it can't list
	listing bool
	list    overlay.Instant // when it is to be listed
	asked   overlay.Instant // when it was last
}

// callee is for whom a call was made: a segment, or a driver.
type callee struct {
	verb    Verb
	segment *segment
	driver  *driver
}

// An effect waits until an entry is in the journal.
type effect struct {
	after   uint64
	call    *Call
	message *Message
}

// A Message is for another agent, by its session.
type Message struct {
	To    overlay.AgentID
	Bytes []byte
}

// A Probe asks whether the overlay's datagrams come through, there and back, when they take the
// way of a reservation: its relays, and at this agent its Mark. Probed has the answer.
type Probe struct {
	Reservation [16]byte
	Flow        Flow
	Path        []overlay.AgentID // the relays
	Label       byte              // by which the first of them knows the flow; 0: it doesn't
	Mark        Mark
	Rate        Rate // of underlay packets
}

// An Output is what an agent is to do, in the order of the fields. Slices are the agent's.
type Output struct {
	Ways     []Way  // all there are, if Changed: frames go by them from now on, and by no others
	Changed  bool   // see Ways
	Journal  []byte // to be appended to the journal, and when that is safe, Written(Entry)
	Entry    uint64
	Calls    []Call
	Messages []Message
	Probes   []Probe
}

// NewBroker returns a broker that knows what a journal says, which may be empty. It has drivers
// list what they hold, and admits nothing to them before.
func NewBroker(now overlay.Instant, cfg Config, journal *Journal) *Broker {
	cfg.Quotas = cfg.Quotas.orDefault()
	if cfg.Longest <= 0 {
		cfg.Longest = defaultLongest
	}
	if cfg.LongestCircuit <= 0 {
		cfg.LongestCircuit = defaultLongestCircuit
	}
	cfg.Longest, cfg.LongestCircuit = min(cfg.Longest, maxLease), min(cfg.LongestCircuit, maxLease)
	b := &Broker{
		cfg: cfg, segments: make(map[ID]*segment), reservations: make(map[[16]byte]*reservation), needs: make(map[Flow]*need),
		lines: make(map[line]*tenure), linesBy: make(map[overlay.AgentID]int), capacity: make(map[string]Rate), calls: make(map[uint64]callee),
	}
	for _, c := range cfg.Drivers {
		b.drivers = append(b.drivers, &driver{Caps: c, list: now})
	}
	if journal != nil {
		b.recall(now, journal)
	}
	return b
}

// SetCapacity says what an egress carries, by the owner's word or as measured; 0: that isn't
// known, and nothing more is reserved there. What there is too much of is given back, the
// newest first.
func (b *Broker) SetCapacity(egress string, r Rate) {
	b.capacity[egress] = r
	if r > 0 {
		b.shed(egress, r*mostShare/1000)
	}
}

// shed gives back the newest segments at an egress until the others take so much at most.
func (b *Broker) shed(egress string, most Rate) {
	sum := Rate(0)
	for _, s := range b.order {
		if s.egress != egress || s.state.Over() || !s.countable() {
			continue
		}
		if sum += s.takes(); sum > most && s.goal != Released {
			s.refuse(Full, most, "the egress carries less than it did")
			b.end(s)
		}
	}
}

// Written says that the journal has all entries up to one.
func (b *Broker) Written(entry uint64) { b.written = max(b.written, min(entry, b.made)) }

// Receive takes a message of another agent, which the caller knows to be from. An error says
// that it made no sense.
func (b *Broker) Receive(now overlay.Instant, from overlay.AgentID, msg []byte) error {
	m, known, err := parseMessage(msg)
	if err != nil || !known || from == b.cfg.Self {
		return err
	}
	b.hear(now, from, &m)
	return nil
}

func (b *Broker) hear(now overlay.Instant, from overlay.AgentID, m *message) {
	switch m.kind {
	case answer:
		b.answered(now, from, m)
	case claim:
		b.claimed(now, from, m)
	case yield:
		b.yielded(now, from, m)
	default:
		b.serve(now, from, m)
	}
}

// Tick does what is due, and what follows from all that was told since the last Tick, and returns
// when it wants to be called again. What is to be done then Flush says.
func (b *Broker) Tick(now overlay.Instant) (next overlay.Instant) {
	b.forget(now)
	return b.settle(now)
}

// settle goes on with everything until nothing more can be done now.
func (b *Broker) settle(now overlay.Instant) (next overlay.Instant) {
	for {
		next = 0
		for _, s := range b.order {
			next = earlier(next, b.advance(now, s))
		}
		next = earlier(next, b.listings(now))
		for _, n := range b.wishes {
			next = earlier(next, b.pursue(now, n))
		}
		for _, r := range b.course {
			next = earlier(next, b.drive(now, r))
		}
		if len(b.local) == 0 && !b.again {
			break
		}
		b.again = false
		for len(b.local) > 0 {
			m := b.local[0]
			b.local = b.local[1:]
			b.hear(now, b.cfg.Self, &m)
		}
	}
	return next
}

// earlier returns the earlier of two instants that may be 0, never.
func earlier(a, b overlay.Instant) overlay.Instant {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// forget drops what has been over for long.
func (b *Broker) forget(now overlay.Instant) {
	b.order = slices.DeleteFunc(b.order, func(s *segment) bool {
		gone := s.state.Over() && s.call == 0 && now.Sub(s.over) >= remembered
		if gone {
			delete(b.segments, s.id)
		}
		return gone
	})
	b.course = slices.DeleteFunc(b.course, func(r *reservation) bool {
		gone := r.state.Over() && now.Sub(r.over) >= remembered
		if gone {
			delete(b.reservations, r.id)
		}
		return gone
	})
	b.wishes = slices.DeleteFunc(b.wishes, func(n *need) bool {
		gone := n.idle(now) && b.reservations[n.id] == nil
		if gone {
			delete(b.needs, n.flow)
		}
		return gone
	})
	b.forgetLines(now)
}

// send sends a message, to this agent itself, too, when the journal has all there is to say by
// now.
func (b *Broker) send(to overlay.AgentID, m *message) {
	if to == b.cfg.Self {
		b.local = append(b.local, *m)
		return
	}
	if len(b.waiting) < maxWaiting {
		b.waiting = append(b.waiting, effect{after: b.made, message: &Message{to, m.encode()}})
	}
}

// call has a driver do something, when the journal has all there is to say by now.
func (b *Broker) call(d *driver, s *segment, c Call) uint64 {
	b.called++
	c.Number, c.Driver = b.called, d.Name
	b.calls[c.Number] = callee{c.Verb, s, d}
	b.waiting = append(b.waiting, effect{after: b.made, call: &c})
	return c.Number
}

// Flush returns what is to be done.
func (b *Broker) Flush() Output {
	out := Output{Journal: b.journal, Entry: b.made}
	b.journal = nil
	if ways := b.currentWays(b.mutant == noProof); !b.shown || !slices.EqualFunc(ways, b.ways, Way.same) {
		b.ways, b.shown = ways, true
		out.Ways, out.Changed = slices.Clone(ways), true
	}
	n := 0
	for ; n < len(b.waiting) && (b.waiting[n].after <= b.written || b.mutant == noJournal); n++ {
		if e := b.waiting[n]; e.call != nil {
			out.Calls = append(out.Calls, *e.call)
		} else {
			out.Messages = append(out.Messages, *e.message)
		}
	}
	b.waiting = slices.Delete(b.waiting, 0, n)
	for _, r := range b.course {
		if r.ask {
			r.ask = false
			out.Probes = append(out.Probes, Probe{r.id, r.req.Flow, r.req.Path, r.labelAfter(0), b.markOf(r), r.parts[0].rate})
		}
	}
	return out
}

// driverNamed returns a driver, nil if there is none of this name any more.
func (b *Broker) driverNamed(name string) *driver {
	for _, d := range b.drivers {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// backoff returns how long to wait after so many tries in vain, with jitter of a quarter.
func (b *Broker) backoff(tries int, first, most time.Duration) time.Duration {
	d := most
	if tries < 16 {
		d = min(first<<tries, most)
	}
	return d - d/8 + time.Duration(b.cfg.Rand.Int64N(int64(d)/4))
}

func (b *Broker) newID() (id [16]byte) {
	for id == [16]byte{} || b.reservations[id] != nil {
		for i := range id {
			id[i] = byte(b.cfg.Rand.Uint32())
		}
	}
	return id
}
