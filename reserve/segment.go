package reserve

import (
	"errors"
	"time"

	"farlan/overlay"
)

const (
	// callWithin is how long a driver may take; circuits take their Setup more.
	callWithin = 10 * time.Second
	// quietFor is after how long without a word of its coordinator a segment is given up that
	// isn't active yet.
	quietFor = time.Minute
	// upEvery is how often a driver is asked whether what it activated works.
	upEvery = time.Second
	// early is how long before its end nothing is sent by a reservation any more: the underlay
	// takes it away by itself then.
	early = time.Second
)

// A segment is what this agent's drivers hold of a reservation, for whoever coordinates it. It
// is driven by its goal: what its coordinator wants is what the next call is made for.
type segment struct {
	id       ID
	flow     Flow
	declared bool
	next     overlay.AgentID // to whom this agent sends
	prev     overlay.AgentID // from whom it comes; zero where the flow begins
	label    byte            // by which the one before asks for it, 0: none
	onward   byte            // what the next one calls it, 0: nothing, or not known
	stacked  bool            // a circuit is stacked on it: it is of the way out where that begins
	promise  Kind            // the weakest that will do
	owner    string
	peer     overlay.AgentID // its coordinator
	epoch    uint64
	number   uint32 // of the request that came last
	driver   string
	egress   string
	rate     Rate            // that is wanted
	end      overlay.Instant // when it must be gone
	goal     State           // Held, Committed, Active or Released
	state    State
	grant    Grant
	asked    Rate            // what the driver was asked for last, and granted something
	until    overlay.Instant // the same of its end

	heard overlay.Instant // when its coordinator was heard last
	call  uint64          // the call under way, 0: none
	verb  Verb            // what it does
	try   Rate            // the rate that it asks for
	last  overlay.Instant // and the end
	tries int             // of the call that failed last
	due   overlay.Instant
	why   Why
	free  Rate
	text  string
	owed  bool // a request waits for its answer
	told  told // what was answered last
	over  overlay.Instant
	usage meter
	entry []byte // the journal's last
}

type told struct {
	state State
	up    bool
	rate  Rate
}

// takes returns what a segment takes of its egress, or may take when the call under way is over.
func (s *segment) takes() Rate { return max(s.rate, s.asked, s.grant.Rate) }

// countable says whether a segment takes something of an egress: circuits take it by the segment
// that they are stacked on.
func (s *segment) countable() bool { return s.promise != Circuit }

func (s *segment) share() share {
	return share{s.egress, s.peer, s.owner, [2]overlay.MAC{s.flow.Source, s.flow.Dest}, s.takes()}
}

// shares returns what is held of egresses by a driver's segments, without one of them.
func (b *Broker) shares(but *segment) (all []share) {
	for _, s := range b.order {
		if s != but && !s.state.Over() && s.countable() {
			all = append(all, s.share())
		}
	}
	return all
}

// hop returns the kind of way out that a segment is of, as Config.Hop has it.
func (s *segment) hop() Kind {
	if s.stacked {
		return Circuit
	}
	return s.promise
}

// refuse notes why there isn't what was wanted.
func (s *segment) refuse(why Why, free Rate, text string) { s.why, s.free, s.text = why, free, text }

// end gives a segment back.
func (b *Broker) end(s *segment) {
	if s.goal != Released {
		s.goal, s.due, s.tries = Released, 0, 0
		b.enter(s)
	}
}

func (b *Broker) set(now overlay.Instant, s *segment, to State) {
	if s.state == to {
		return
	}
	if b.moved != nil {
		b.moved(s.id, s.state, to)
	}
	s.state = to
	if to.Over() {
		s.over = now
	}
}

// wants returns what a driver is to be asked next for a segment.
func (s *segment) wants() Verb {
	switch {
	case s.state.Over():
		return NoVerb
	case s.goal == Released && s.state == Held:
		return DoAbort
	case s.goal == Released:
		return DoRelease
	case s.state == Unknown:
		return DoStatus
	case s.state == Requested:
		return DoHold
	case s.state == Held && s.goal >= Committed:
		return DoCommit
	case s.state == Committed && s.goal >= Active:
		return DoActivate
	case s.state < Committed:
		return NoVerb
	case s.rate != s.asked:
		return DoModify
	case s.until < s.end:
		return DoRenew
	case s.state == Activating || s.state == Degraded:
		return DoStatus
	}
	return NoVerb
}

// advance makes the next call for a segment, if one is due, and tells its coordinator what
// became of it. It returns when it wants to be called again, 0 never.
func (b *Broker) advance(now overlay.Instant, s *segment) (next overlay.Instant) {
	if s.state.Over() {
		b.tell(now, s)
		return s.over.Add(remembered)
	}
	next = earlier(b.expire(now, s), b.outlived(now, s))
	if s.call != 0 {
		return next
	}
	if s.state == Orphan && now < s.end {
		next = earlier(next, s.end)
	}
	v := s.wants()
	switch {
	case s.state == Orphan && b.external(s) && now >= s.end: // whoever confirms that or not
		s.refuse(Ended, 0, "its end has passed; its release was never confirmed: "+s.text)
		b.set(now, s, s.final())
		b.enter(s)
	case b.unseen(now, s):
	case s.goal == Released && s.state == Requested: // no driver knows of it
		b.set(now, s, Released)
		b.enter(s)
	case v == NoVerb:
	case now < s.due:
		next = earlier(next, s.due)
	case v == DoHold && !b.opened(s.driver):
	default:
		b.ask(now, s, v)
		return earlier(next, s.due)
	}
	b.tell(now, s)
	return next
}

// unseen says that a hold came to nobody knows what, so that there isn't even a handle to ask by.
// Then its driver is to list what it holds, as it may have no room for an ID to ask by.
func (b *Broker) unseen(now overlay.Instant, s *segment) bool {
	d := b.driverNamed(s.driver)
	if s.grant.Handle != "" || s.state != Unknown && s.state != Orphan || d == nil || d.mute {
		return false
	}
	d.list = min(d.list, max(now, d.asked.Add(listAgain)))
	return true
}

func (b *Broker) external(s *segment) bool {
	d := b.driverNamed(s.driver)
	return d != nil && d.External
}

func (b *Broker) opened(driver string) bool {
	d := b.driverNamed(driver)
	return d != nil && d.opened
}

// expire gives up what nobody wants any more.
func (b *Broker) expire(now overlay.Instant, s *segment) (next overlay.Instant) {
	if s.goal == Released {
		return 0
	}
	until := s.end.Add(-early)
	if s.goal < Active {
		until = min(until, s.heard.Add(quietFor))
	}
	if now < until {
		return until
	}
	s.refuse(Ended, 0, "its lease ended")
	b.end(s)
	return 0
}

// outlived takes packets off what the driver may have ended by itself, as a renewal that is under
// way hasn't been confirmed in time.
func (b *Broker) outlived(now overlay.Instant, s *segment) (next overlay.Instant) {
	if s.state != Active {
		return 0
	}
	if until := s.until.Add(-early); now < until {
		return until
	}
	s.text = "its renewal isn't confirmed"
	b.set(now, s, Degraded)
	return 0
}

// ask calls a segment's driver. The journal has it first.
func (b *Broker) ask(now overlay.Instant, s *segment, v Verb) {
	d := b.driverNamed(s.driver)
	if d == nil { // the config no longer has it: what it holds is seen when it has
		s.due = now.Add(retryMost)
		s.text = "driver " + s.driver + " isn't there any more"
		return
	}
	if s.goal == Released && s.state != Orphan {
		b.set(now, s, Releasing)
	}
	s.verb = v
	if v.journaled() {
		b.enter(s)
	}
	c := Call{Verb: v, Grant: s.grant, Rate: s.rate, End: s.end, Within: callWithin}
	if s.id.Segment != stray {
		c.Grant.ID = s.id
	}
	if s.promise == Circuit {
		c.Within += time.Duration(d.Setup) * time.Second
	}
	if v == DoHold {
		hop, _ := b.cfg.Hop(s.next, s.hop())
		c.Want = Want{ID: s.id, Kind: s.promise, Rate: s.rate, From: b.cfg.Self, To: s.next, Via: hop.Via, End: s.end, Owner: s.owner}
	}
	s.try, s.last = s.rate, s.end
	s.call = b.call(d, s, c)
}

// Result takes what a call came to.
func (b *Broker) Result(now overlay.Instant, r Result) {
	c, ok := b.calls[r.Number]
	if !ok {
		return
	}
	delete(b.calls, r.Number)
	switch s := c.segment; c.verb {
	case DoList:
		b.reconcile(now, c.driver, r.Grants, r.Err)
	case DoUsage:
		if r.Err == nil {
			s.usage.read(now, r.Usage)
		} else if errors.Is(r.Err, ErrGone) && s.call == 0 && s.goal != Released && !s.state.Over() {
			b.set(now, s, Unknown)
		}
	default:
		s.call, s.verb = 0, NoVerb
		b.came(now, s, c.verb, r)
	}
}
