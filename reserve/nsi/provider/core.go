// Package provider is an NSI Connection Service 2.1 provider for tests and labs: one domain that
// grants point-to-point Ethernet circuits between its ports, a VLAN at each end, and can show
// what real providers do wrong.
//
// Core decides and is pure: time is handed in, what is to be sent and done comes out of Flush.
// Server puts it behind HTTPS.
package provider

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"farlan/overlay"
	"farlan/reserve/nsi/cs"
)

const (
	maxConnections = 4096
	maxNotices     = 64 // of one connection; the oldest are forgotten
	maxWork        = 4096
	remembered     = time.Hour // how long a connection that is over is shown
	defaultHold    = 120 * time.Second
)

// A Port is where circuits end.
type Port struct {
	Capacity int64 // Mbit/s, of all circuits together
	VLANs    cs.VLANs
}

// Config says what a provider has.
type Config struct {
	NSA     string          // its own identifier
	Ports   map[string]Port // by STPs without VLANs
	HoldFor time.Duration   // how long it waits for a commit; 0 means 120 s
	Delay   time.Duration   // how long each thing takes that is confirmed later
}

// A Circuit is what must be there in the data plane.
type Circuit struct {
	Connection           string
	Source, Dest         string // ports
	SourceVLAN, DestVLAN uint16
	Capacity             int64 // Mbit/s
}

// An Output is something to do.
type Output struct {
	To      string      // a requester's replyTo; "" if Circuit is meant
	Message *cs.Message // what to send there
	First   bool        // it must be sent before the reply to what was received
	Circuit *Circuit    // what must appear, or go; Planed tells the outcome
	Up      bool
}

// A connection is one reservation. Its fields are what is kept of it, too.
type connection struct {
	ID, Requester, ReplyTo string
	Global, Description    string
	Criteria               cs.Criteria  // as confirmed
	Ends                   Circuit      // ports and VLANs in it
	Next                   *cs.Criteria // a modification that is held or checked
	States                 cs.States
	Committed              bool
	Holds                  bool // it occupies VLANs and capacity
	Up                     bool // the data plane was asked to have it
	HeldUntil              overlay.Instant
	Notices                []cs.Notice
	Noticed                int64
	Over                   overlay.Instant // when it came to its end
}

// A job is work that a request has caused.
type job struct {
	At     overlay.Instant
	ID     string
	Op     cs.Op
	Header cs.Header
}

// A Core is the provider's state. It isn't safe for concurrent use.
type Core struct {
	cfg      Config
	faults   Faults
	now      overlay.Instant
	next     int // of connections' names
	poisoned bool
	byID     map[string]*connection
	jobs     []job
	out      []Output
	first    bool // what is put out now goes before the reply
}

// New returns a provider without connections.
func New(cfg Config) *Core {
	if cfg.HoldFor == 0 {
		cfg.HoldFor = defaultHold
	}
	return &Core{cfg: cfg, byID: make(map[string]*connection)}
}

// Fault switches faults.
func (p *Core) Fault(f Faults) { p.faults = f }

// Receive takes a request and returns the reply, or false if there won't be one.
func (p *Core) Receive(now overlay.Instant, m cs.Message) (cs.Message, bool) {
	p.Tick(now) // what is due was before it
	switch {
	case m.Provider != p.cfg.NSA:
		return p.fault(m, cs.MissingParameter, "this is "+p.cfg.NSA), true
	case m.Protocol != cs.ToProvider:
		return p.fault(m, cs.VersionNotSupported, cs.ToProvider+" is spoken here"), true
	}
	p.first = p.faults.EventsFirst
	defer func() { p.first = false }()
	switch m.Op {
	case cs.Reserve:
		return p.reserve(m)
	case cs.QuerySummarySync, cs.QuerySummary, cs.QueryNotificationSync:
		return p.query(m), true
	case cs.ReserveCommit, cs.ReserveAbort, cs.Provision, cs.Release, cs.Terminate:
		return p.step(m), true
	}
	return p.fault(m, cs.NotImplemented, string(m.Op)), true
}

// Tick does what is due and returns when it wants to be called again; 0 if it needn't.
func (p *Core) Tick(now overlay.Instant) overlay.Instant {
	p.now = now
	for len(p.jobs) > 0 && !now.Before(p.jobs[0].At) {
		j := p.jobs[0]
		p.jobs = p.jobs[1:]
		if c := p.byID[j.ID]; c != nil {
			p.work(c, j.Op, j.Header)
		}
	}
	var next overlay.Instant
	soon := func(t overlay.Instant) {
		if t > now && (next == 0 || t < next) {
			next = t
		}
	}
	if len(p.jobs) > 0 {
		soon(p.jobs[0].At)
	}
	for _, id := range slices.Sorted(maps.Keys(p.byID)) {
		c := p.byID[id]
		p.lapse(c)
		p.end(c)
		if c.Over != 0 && now.Sub(c.Over) > remembered {
			delete(p.byID, id)
			continue
		}
		soon(c.HeldUntil)
		soon(c.Criteria.End)
	}
	return next
}

// Flush hands out what is to be done, in order.
func (p *Core) Flush(do func(Output)) {
	out := p.out
	p.out = nil
	for _, o := range out {
		do(o)
	}
}

// lapse gives back what wasn't committed in time.
func (p *Core) lapse(c *connection) {
	if c.HeldUntil == 0 || p.now.Before(c.HeldUntil) {
		return
	}
	c.HeldUntil = 0
	if c.Next != nil {
		c.Next = nil
	} else {
		c.Holds = false
	}
	if p.faults.HeldForEver {
		return
	}
	c.States.Reservation = cs.StateTimeout
	p.tell(c, cs.Notice{Op: cs.ReserveTimeout, Timeout: int(p.cfg.HoldFor / time.Second), Origin: c.ID, OriginNSA: p.cfg.NSA})
}

// end gives everything back at the end that was asked for.
func (p *Core) end(c *connection) {
	if c.Over != 0 || c.Criteria.End == 0 || p.now.Before(c.Criteria.End) {
		return
	}
	if !p.faults.KeepsCreated {
		c.States.Lifecycle = cs.StatePassedEndTime
	}
	p.giveBack(c)
}

// giveBack frees what a connection occupies and takes its circuit down.
func (p *Core) giveBack(c *connection) {
	p.plane(c, false)
	c.Holds, c.Next, c.HeldUntil, c.Over = false, nil, 0, p.now
}

// plane asks for the circuit to be there or not.
func (p *Core) plane(c *connection, up bool) {
	if c.Up == up {
		return
	}
	c.Up = up
	circuit := c.circuit()
	p.out = append(p.out, Output{Circuit: &circuit, Up: up})
}

// circuit is what the connection needs in the data plane, with the VLANs that it was given.
func (c *connection) circuit() Circuit {
	k := c.Ends
	k.Connection, k.Capacity = c.ID, c.Criteria.Capacity
	return k
}

// Planed tells what became of a circuit that was to appear or go; err is the data plane's.
func (p *Core) Planed(now overlay.Instant, id string, up bool, err error) {
	p.now = now
	c := p.byID[id]
	if c == nil || c.Up != up {
		return // the opposite was asked meanwhile
	}
	if err != nil {
		event := cs.ActivateFailed
		if !up {
			event = cs.DeactivateFailed
		}
		p.tell(c, cs.Notice{Op: cs.ErrorEvent, Event: event, Origin: c.ID, OriginNSA: p.cfg.NSA, Exception: p.exception(c.ID, cs.InternalError, err.Error())})
		return
	}
	p.planeIs(c, up, true)
}

// Break has the data plane of a circuit fail, or work again, by itself.
func (p *Core) Break(now overlay.Instant, id string, up bool) {
	p.now = now
	if c := p.byID[id]; c != nil && c.Up {
		p.planeIs(c, up, true)
	}
}

func (p *Core) planeIs(c *connection, active, consistent bool) {
	c.States.Plane = cs.Plane{Active: active, Version: c.Criteria.Version, Consistent: consistent}
	p.tell(c, cs.Notice{Op: cs.DataPlaneStateChange, Plane: c.States.Plane})
}

// tell sends a notice and keeps it for those who ask.
func (p *Core) tell(c *connection, n cs.Notice) {
	c.Noticed++
	n.Connection, n.ID, n.At = c.ID, c.Noticed, p.now
	c.Notices = append(c.Notices, n)
	c.Notices = c.Notices[max(0, len(c.Notices)-maxNotices):]
	id := fmt.Sprintf("urn:uuid:00000000-0000-0000-%04x-%012x", c.Noticed&0xffff, uint64(p.now)&0xffffffffffff)
	h := cs.Header{Protocol: cs.ToRequester, Correlation: id, Requester: c.Requester, Provider: p.cfg.NSA}
	p.put(c.ReplyTo, cs.Message{Header: h, Op: n.Op, Connection: c.ID, Notices: []cs.Notice{n}})
}

// put sends a message to a requester that wants any.
func (p *Core) put(to string, m cs.Message) {
	if to != "" {
		p.out = append(p.out, Output{To: to, Message: &m, First: p.first})
	}
}

// later does what a request is for when the delay has passed, or before the reply if events come
// first.
func (p *Core) later(c *connection, m cs.Message) {
	if p.first {
		p.work(c, m.Op, m.Header)
		return
	}
	if len(p.jobs) < maxWork {
		p.jobs = append(p.jobs, job{p.now.Add(p.cfg.Delay), c.ID, m.Op, m.Header})
	}
}

// work does what a request is for.
func (p *Core) work(c *connection, op cs.Op, h cs.Header) {
	switch op {
	case cs.Reserve:
		if c.Committed {
			p.checkNext(c, h)
		} else {
			p.check(c, h)
		}
	case cs.ReserveCommit:
		p.commit(c, h)
	case cs.ReserveAbort:
		p.abort(c, h)
	case cs.Provision:
		p.provision(c, h)
	case cs.Release:
		p.release(c, h)
	case cs.Terminate:
		p.terminate(c, h)
	}
}

// answer sends what a request has come to.
func (p *Core) answer(h cs.Header, m cs.Message) {
	to := h.ReplyTo
	m.Header = cs.Header{Protocol: cs.ToRequester, Correlation: h.Correlation, Requester: h.Requester, Provider: p.cfg.NSA}
	p.put(to, m)
}

// reply answers at once.
func (p *Core) reply(to cs.Message, m cs.Message) cs.Message {
	m.Header = to.Header
	m.ReplyTo = ""
	return m
}

func (p *Core) fault(to cs.Message, id, text string) cs.Message {
	m := p.reply(to, cs.Message{Op: cs.Fault, Exception: p.exception(to.Connection, id, text)})
	m.Protocol = cs.ToProvider
	return m
}

func (p *Core) exception(connection, id, text string) *cs.Exception {
	return &cs.Exception{NSA: p.cfg.NSA, Connection: connection, ID: id, Text: text}
}
