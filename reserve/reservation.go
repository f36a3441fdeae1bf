package reserve

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"farlan/overlay"
)

// A Request asks for a reservation.
type Request struct {
	Flow     Flow
	Path     []overlay.AgentID // the relays from Flow.From to Flow.To, in their order
	Back     []overlay.AgentID // those of the other direction, from Flow.To
	Rate     Rate              // inner Ethernet bits
	BackRate Rate              // of the other direction; 0: nothing is reserved for it
	For      time.Duration     // how long it is wanted; what is longer than one lease is renewed
	Kind     Kind              // the weakest that will do; NoKind: any
	Circuit  bool              // an outside circuit between the two agents, and no relays
	Owner    string            // who asks
}

// maxRelays is how many relays a path has at most.
const maxRelays = overlay.MaxLabels - 2

var (
	errFrom    = errors.New("a reservation begins at this agent")
	errRequest = errors.New("the request makes no sense")
)

func (q *Request) validate(self overlay.AgentID) error {
	if q.Flow.From != self {
		return errFrom
	}
	m := message{kind: ask, flow: q.Flow, rate: q.Rate}
	all := slices.Concat([]overlay.AgentID{q.Flow.From, q.Flow.To}, q.Path)
	other := slices.Concat([]overlay.AgentID{q.Flow.From, q.Flow.To}, q.Back)
	switch {
	case !m.sensible() || q.Rate <= 0 || q.BackRate < 0 || q.BackRate > maxRate || q.Kind > Priority:
		return errRequest
	case len(q.Path) > maxRelays || len(q.Back) > maxRelays || twice(all) || twice(other):
		return fmt.Errorf("%w: no such path", errRequest)
	case q.Circuit && len(q.Path)+len(q.Back) > 0:
		return fmt.Errorf("%w: a circuit has no relays", errRequest)
	case q.For <= 0:
		return fmt.Errorf("%w: for how long?", errRequest)
	}
	return nil
}

func twice(all []overlay.AgentID) bool {
	for i, a := range all {
		if a.IsZero() || slices.Contains(all[:i], a) {
			return true
		}
	}
	return false
}

// The stages in which segments are held; they are committed the other way round.
const (
	here    = iota // this agent's own egress
	there          // relays and the peer
	outside        // the circuit
	stages
)

// A part is what a coordinator knows of a segment of its reservation.
type part struct {
	agent, next overlay.AgentID
	prev        overlay.AgentID
	label       byte // that the agent gave; 0: none, or not known
	stacked     bool
	flow        Flow // the reservation's, or back
	promise     Kind
	rate        Rate // that is wanted of underlay packets
	stage       int

	number  uint32 // of the request that was sent last
	sent    kind   // its kind
	pending bool   // it isn't answered
	tries   int
	due     overlay.Instant // when it is sent again, or a status is
	heard   overlay.Instant
	state   State
	up      bool
	granted Rate
	end     overlay.Instant // of its lease
	kind    Kind            // what it promises
	why     Why
	free    Rate
	text    string
}

// A reservation is what this agent coordinates.
type reservation struct {
	id       [16]byte
	req      Request
	declared bool
	epoch    uint64
	parts    []part
	state    State
	stage    int
	rate     Rate            // of inner bits that all parts have granted
	back     Rate            // the same of the other direction
	end      overlay.Instant // when all is over unless it is renewed
	until    overlay.Instant // when it is over in any case
	began    overlay.Instant
	deadline overlay.Instant // of what the state waits for
	life     time.Duration   // of the lease that runs

	asking  Rate // that is being asked of all parts, 0: nothing is
	askBack Rate
	asked   overlay.Instant
	askEnd  overlay.Instant
	refused overlay.Instant // when more was refused last
	fixed   bool            // a driver can't change or renew it: it is replaced instead

	ask     bool // a probe is to be sent
	probed  overlay.Instant
	misses  int
	proven  overlay.Instant // when a probe came back last
	firm    bool            // it was committed everywhere
	worked  bool            // it was Active
	final   State
	why     Why
	share   int64 // how many thousandths of what was wanted could be had
	reason  string
	over    overlay.Instant
	release overlay.Instant // since when it is given back
}

func (r *reservation) line() line {
	l := line{between: r.req.Flow.between(), declared: r.declared}
	if r.declared {
		l.by = r.req.Flow.From
	}
	return l
}

// newParts returns what a request has to ask of whom.
func newParts(q *Request) (all []part) {
	way := func(f Flow, relays []overlay.AgentID, rate Rate, first int) {
		agents := slices.Concat([]overlay.AgentID{f.From}, relays, []overlay.AgentID{f.To})
		for i, a := range agents[:len(agents)-1] {
			p := part{agent: a, next: agents[i+1], flow: f, promise: q.Kind, rate: Outer(rate, len(relays)), stage: there}
			if p.promise == Circuit {
				p.promise = Guarantee
			}
			if i == 0 {
				p.stage = first
			} else {
				p.prev = agents[i-1]
			}
			p.stacked = q.Circuit && first == here && i == 0
			all = append(all, p)
		}
	}
	way(q.Flow, q.Path, q.Rate, here)
	if q.BackRate > 0 {
		way(q.Flow.back(), q.Back, q.BackRate, there)
	}
	if q.Circuit {
		all = append(all, part{agent: q.Flow.From, next: q.Flow.To, flow: q.Flow, promise: Circuit, rate: Outer(max(q.Rate, q.BackRate), 0), stage: outside})
	}
	return all
}

// start begins a reservation.
func (b *Broker) start(now overlay.Instant, q Request, declared bool) *reservation {
	r := &reservation{id: b.newID(), req: q, declared: declared, parts: newParts(&q), rate: q.Rate, back: q.BackRate, began: now}
	r.life = min(q.For, b.longestOf(&q))
	r.end, r.until = now.Add(r.life), now.Add(q.For)
	t := b.lineOf(now, b.cfg.Self, r.line())
	if declared && t.holder != b.cfg.Self { // the first since this agent runs: older ones count no more
		t.epoch, t.holder = max(t.epoch+1, uint64(max(now, 0)/overlay.Instant(time.Millisecond))), b.cfg.Self
	}
	r.epoch = t.epoch
	r.deadline = now.Add(b.holdTime(r))
	b.reservations[r.id] = r
	b.course = append(b.course, r)
	b.enterReservation(r)
	b.again = true
	return r
}

// holdTime is how long all parts may take to hold, or to commit, or to work.
func (b *Broker) holdTime(r *reservation) time.Duration {
	d := phaseTime
	if r.req.Circuit {
		for _, x := range b.drivers {
			if slices.Contains(x.Kinds, Circuit) {
				d += time.Duration(x.Setup) * time.Second
			}
		}
	}
	return d
}

func (b *Broker) become(now overlay.Instant, r *reservation, to State) {
	if r.state == to {
		return
	}
	if b.moved != nil {
		b.moved(ID{Reservation: r.id, Segment: stray}, r.state, to)
	}
	r.state = to
	if to.Over() {
		r.over = now
	}
	b.enterReservation(r)
	b.again = true
}

// fail gives a reservation up: its flow goes the ordinary way from now on, and what parts hold
// is given back.
func (b *Broker) fail(now overlay.Instant, r *reservation, final State, why Why, reason string) {
	if r.state == Releasing || r.state == Orphan || r.state.Over() {
		return
	}
	r.final, r.why, r.reason, r.release = final, why, reason, now
	for i := range r.parts {
		p := &r.parts[i]
		if b.mutant == noAbort && final == Rejected {
			p.state = Released
			continue
		}
		if p.number == 0 { // it was never asked
			p.state = Released
			continue
		}
		b.send1(now, r, i, release)
	}
	b.become(now, r, Releasing)
}

// Release gives back a reservation that this agent coordinates, and wants none for its flow.
func (b *Broker) Release(now overlay.Instant, id [16]byte) error {
	r := b.reservations[id]
	if r == nil {
		return ErrGone
	}
	if n := b.needs[r.req.Flow]; n != nil {
		n.give(now)
		if other := b.reservations[n.id]; other != nil {
			b.fail(now, other, Released, Nothing, "its owner gave it back")
		}
	}
	b.fail(now, r, Released, Nothing, "its owner gave it back")
	return nil
}

// Leave gives back what there is, as the agent is about to go: its reservations, and what it
// serves of others'. Nothing is asked for any more.
func (b *Broker) Leave(now overlay.Instant) {
	b.leaving = true
	for _, n := range b.wishes {
		n.give(now)
	}
	for _, r := range b.course {
		b.fail(now, r, Released, Nothing, "the agent leaves")
	}
	for _, s := range b.order {
		if s.peer != b.cfg.Self && !s.state.Over() {
			s.refuse(Ended, 0, "the agent leaves")
			b.end(s)
		}
	}
	b.again = true
}

// Idle says whether nothing is held for anybody, and nobody holds anything for this agent.
func (b *Broker) Idle() bool {
	for _, s := range b.order {
		if !s.state.Over() {
			return false
		}
	}
	for _, r := range b.course {
		if !r.state.Over() {
			return false
		}
	}
	return true
}

// Request begins a reservation on an owner's word. It is repeated by itself if it is lost before
// its time is over; if it is refused it isn't, but once with what all could grant, if that is
// half of what was wanted at least. List tells what became of it.
func (b *Broker) Request(now overlay.Instant, q Request) (id [16]byte, err error) {
	if err = q.validate(b.cfg.Self); err != nil {
		return id, err
	}
	if b.leaving {
		return id, fmt.Errorf("the agent leaves: %w", ErrRefused)
	}
	n := b.needOf(now, q.Flow)
	if n == nil || len(b.course) >= maxReservations {
		return id, fmt.Errorf("there are %d reservations: %w", len(b.course), ErrFull)
	}
	if r := b.reservations[n.id]; r != nil && !r.state.Over() {
		if n.declared {
			return id, fmt.Errorf("there is one for these two already: %x: %w", n.id, ErrRefused)
		}
		b.fail(now, r, Released, Nothing, "its owner's word takes its place")
		n.before = n.id
	}
	n.declare(now, q)
	n.id = b.start(now, q, true).id
	id = n.id
	return id, nil
}
