package reserve

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

// brokerFor returns a broker with a driver tc and a circuit's, and egresses of 100 Mbit/s.
func brokerFor(self overlay.AgentID, j *Journal) *Broker {
	b := NewBroker(simBeginning, Config{
		Self: self, Rand: rand.New(rand.NewPCG(1, 1)), Automatic: true,
		Drivers: []Caps{{Name: "tc", Kinds: []Kind{Guarantee}}, {Name: "nsi", Kinds: []Kind{Circuit}}},
		Hop:     func(to overlay.AgentID, _ Kind) (Hop, bool) { return Hop{Egress: "east"}, to != overlay.AgentID{99} },
	}, j)
	b.SetCapacity("east", 100*Mbit)
	return b
}

// A site is a broker with its driver, as an agent runs it, but for the time that things take.
type site struct {
	*Broker
	f   fake
	now overlay.Instant
	out []Message
	bad func(s *site, c Call, r *Result) // what the driver does wrong
	mum bool                             // probes don't come back
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Broker: brokerFor(overlay.AgentID{1}, nil), now: simBeginning}
	s.f = fake{caps: Caps{Name: "tc", Kinds: []Kind{Guarantee}}, egress: func(overlay.AgentID) string { return "east" }, modify: true}
	s.turn()
	return s
}

// turn does what an agent does, until there is nothing more to do.
func (s *site) turn() {
	for range 100 {
		s.Tick(s.now)
		out := s.Flush()
		s.Written(out.Entry)
		s.out = append(s.out, out.Messages...)
		for _, c := range out.Calls {
			r := Do(context.Background(), faked{&s.f, s.now}, c)
			if s.bad != nil {
				s.bad(s, c, &r)
			}
			s.Result(s.now, r)
		}
		for _, p := range out.Probes {
			s.Probed(s.now, p.Reservation, !s.mum)
		}
		if len(out.Calls)+len(out.Probes) == 0 && len(out.Journal) == 0 {
			return
		}
	}
}

func (s *site) pass(d time.Duration) {
	for end := s.now.Add(d); s.now < end; s.now = s.now.Add(time.Second) {
		s.turn()
	}
}

var toPeer = Flow{From: overlay.AgentID{1}, To: overlay.AgentID{2}}

func TestRequest(t *testing.T) {
	s := newSite(t)
	id, err := s.Request(s.now, Request{Flow: toPeer, Rate: 20 * Mbit, For: time.Minute, Owner: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	s.turn()
	rows := s.List()
	if len(rows) != 1 || rows[0].Whole != Active || rows[0].ID.Reservation != id || rows[0].Rate != 20*Mbit || rows[0].Driver != "tc" {
		t.Fatalf("%+v", rows)
	}
	if len(s.ways) != 1 || s.ways[0].Flow != toPeer || s.ways[0].Mark.Priority == 0 {
		t.Errorf("%+v", s.ways)
	}
	if _, err := s.Request(s.now, Request{Flow: toPeer, Rate: Mbit, For: time.Minute}); !errors.Is(err, ErrRefused) {
		t.Errorf("a second one: %v", err)
	}
	s.pass(61 * time.Second)
	if rows := s.List(); rows[0].Whole != Released || len(s.f.held) > 0 || len(s.ways) > 0 {
		t.Errorf("after its time: %+v", rows)
	}
	for _, q := range []Request{
		{Flow: toPeer.back(), Rate: Mbit, For: time.Minute},
		{Flow: toPeer, For: time.Minute},
		{Flow: toPeer, Rate: Mbit},
		{Flow: toPeer, Rate: Mbit, For: time.Minute, Path: []overlay.AgentID{{2}}},
		{Flow: toPeer, Rate: Mbit, For: time.Minute, Path: []overlay.AgentID{{3}}, Circuit: true},
	} {
		if _, err := s.Request(s.now, q); err == nil {
			t.Errorf("%+v", q)
		}
	}
}

// A driver that can't give what it granted a later end has another one made at once, which takes
// the first one's place before that ends.
func TestReplacedInTime(t *testing.T) {
	s := newSite(t)
	s.bad = func(_ *site, c Call, r *Result) {
		if c.Verb == DoRenew {
			r.Err = ErrUnsupported
		}
	}
	s.cfg.Longest, s.cfg.LongestCircuit = 20*time.Second, 20*time.Second
	id, err := s.Request(s.now, Request{Flow: toPeer, Rate: 20 * Mbit, For: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for range 90 {
		s.Observe(s.now, nil)
		s.pass(time.Second)
		if len(s.ways) != 1 {
			t.Fatalf("%v after the start: %d ways: %+v", s.now.Sub(simBeginning), len(s.ways), s.List())
		}
	}
	if s.ways[0].ID.Reservation == id {
		t.Errorf("%+v", s.ways)
	}
}

// What isn't there is refused, with one try more if half of it is; of what is lost later another
// try follows after a minute, then two, then four.
func TestCounterOffer(t *testing.T) {
	s := newSite(t)
	s.Request(s.now, Request{Flow: toPeer, Rate: 90 * Mbit, For: time.Hour, Owner: "ann"})
	s.pass(3 * time.Second)
	rows := s.List()
	if len(rows) != 2 || rows[0].Whole != Rejected || rows[1].Whole != Active || rows[1].Rate < 60*Mbit || rows[1].Rate > 70*Mbit {
		t.Fatalf("%+v", rows)
	}
	if !strings.Contains(rows[0].Reason, "70Mbit of") {
		t.Errorf("%s", rows[0].Reason)
	}
	s.Request(s.now, Request{Flow: Flow{From: toPeer.From, To: overlay.AgentID{3}}, Rate: 20 * Mbit, For: time.Hour})
	s.pass(3 * time.Second)
	if rows = s.List(); len(rows) != 3 || rows[2].Whole != Rejected {
		t.Fatalf("less than half is free: %+v", rows)
	}
	s.bad = func(s *site, c Call, r *Result) {
		if c.Verb == DoHold {
			s.f.held = nil
			r.Grant, r.Err = Grant{}, Refusal{Mbit}
		}
	}
	s.f.held = nil
	s.Notice(s.now, "tc", Event{rows[1].ID, Grant{ID: rows[1].ID, State: Lost}})
	s.turn()
	var tries []time.Duration
	n := s.needs[toPeer]
	for at, id := s.now, n.id; s.now.Sub(at) < 8*time.Minute; s.now = s.now.Add(time.Second) {
		if s.turn(); n.id != id {
			tries, id = append(tries, s.now.Sub(at)), n.id
		}
	}
	if len(tries) != 3 || tries[0] < 52*time.Second || tries[0] > 75*time.Second || tries[1]-tries[0] < 105*time.Second || tries[2]-tries[1] < 210*time.Second {
		t.Errorf("tries after %v", tries)
	}
}

// asks returns a peer's ask.
func asks(n byte, change func(m *message)) []byte {
	m := message{
		kind: ask, declared: true, id: ID{[16]byte{n}, 1}, epoch: 5, number: 1, lease: time.Minute, rate: 10 * Mbit,
		flow: toPeer.back(), prev: overlay.AgentID{2}, next: overlay.AgentID{3},
	}
	if change != nil {
		change(&m)
	}
	return m.encode()
}

// last returns what was sent last.
func (s *site) last(t *testing.T) message {
	t.Helper()
	if len(s.out) == 0 {
		t.Fatal("nothing was sent")
	}
	m, _, err := parseMessage(s.out[len(s.out)-1].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What strangers to a line ask for is denied, and what older epochs, and who had enough.
func TestServe(t *testing.T) {
	s, peer := newSite(t), overlay.AgentID{2}
	says := func(from overlay.AgentID, b []byte) message {
		s.out = nil
		if err := s.Receive(s.now, from, b); err != nil {
			t.Fatal(err)
		}
		s.turn()
		return s.last(t)
	}
	if m := says(peer, asks(1, nil)); m.state != Held || m.rate != 10*Mbit || m.number != 1 {
		t.Errorf("%+v", m)
	}
	for name, c := range map[string]struct {
		from   overlay.AgentID
		change func(m *message)
		why    Why
	}{
		"a stranger":              {overlay.AgentID{7}, nil, Denied},
		"somebody else's":         {overlay.AgentID{7}, func(m *message) { m.id = ID{[16]byte{1}, 1} }, Denied},
		"a circuit":               {peer, func(m *message) { m.promise = Circuit }, Denied},
		"to this agent":           {peer, func(m *message) { m.next = s.cfg.Self }, Denied},
		"to who isn't there":      {peer, func(m *message) { m.next = overlay.AgentID{99} }, Busy},
		"with a circuit on it":    {peer, func(m *message) { m.stacked = true }, Denied},
		"from nobody":             {peer, func(m *message) { m.prev = overlay.AgentID{} }, Denied},
		"from this agent":         {peer, func(m *message) { m.prev = s.cfg.Self }, Denied},
		"of nothing":              {peer, func(m *message) { m.rate = 0 }, Denied},
		"an older epoch":          {peer, func(m *message) { m.epoch = 4 }, OldEpoch},
		"too much":                {peer, func(m *message) { m.rate = 61 * Mbit }, Full},
		"about what isn't there":  {peer, func(m *message) { m.kind = commit }, Ended},
		"the number of strangers": {peer, func(m *message) { m.id.Segment = stray }, Denied},
	} {
		if m := says(c.from, asks(2, c.change)); m.why != c.why || m.why == Full && m.free != 60*Mbit {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if len(s.f.held) != 1 {
		t.Errorf("%d are held", len(s.f.held))
	}
	s.cfg.Serves = func(overlay.AgentID) bool { return false }
	if m := says(peer, asks(2, nil)); m.why != Denied {
		t.Errorf("without the right to reserve: %+v", m)
	}
	s.cfg.Serves, s.cfg.NoTransit = nil, true
	if m := says(peer, asks(2, nil)); m.why != Denied {
		t.Errorf("by who passes nothing on: %+v", m)
	}
	s.cfg.NoTransit, s.cfg.Most = false, 1
	if m := says(peer, asks(2, nil)); m.why != Full || m.free != 0 {
		t.Errorf("beyond what the frame path tells apart: %+v", m)
	}
	s.cfg.Most = 0
	// A release that comes before the ask leaves nothing to ask for.
	says(peer, asks(3, func(m *message) { m.kind, m.number = release, 2 }))
	s.Receive(s.now, peer, asks(3, nil))
	s.turn()
	if len(s.f.held) != 1 {
		t.Error("a late ask is served")
	}
	for n := range byte(200) {
		s.Receive(s.now, peer, asks(n+10, func(m *message) { m.rate = 1; m.flow.Source = overlay.MAC{2, n} }))
	}
	s.turn()
	if n := len(s.f.held); n != defaultQuotas.Peer.Count {
		t.Errorf("a peer has %d", n)
	}
	s.pass(2 * time.Minute)
	if len(s.f.held) > 0 {
		t.Errorf("%d are held by who isn't heard", len(s.f.held))
	}
}

// Who takes over a line ends what the other end had by an older epoch, and that one is told.
func TestTakeOver(t *testing.T) {
	s, a, b := newSite(t), overlay.AgentID{2}, overlay.AgentID{3}
	of := func(n byte, change func(m *message)) []byte {
		return asks(n, func(m *message) {
			m.declared, m.flow, m.next = false, Flow{From: a, To: b}, b
			change(m)
		})
	}
	s.Receive(s.now, a, of(1, func(*message) {}))
	s.turn()
	s.Receive(s.now, b, of(2, func(m *message) { m.epoch, m.flow, m.next = 6, m.flow.back(), a }))
	s.turn()
	if len(s.f.held) != 1 || s.f.held[0].id.Reservation != [16]byte{2} {
		t.Fatalf("%+v", s.f.held)
	}
	s.out = nil
	s.Receive(s.now, a, of(1, func(m *message) { m.kind, m.number = renew, 2 }))
	s.turn()
	if m := s.last(t); m.why != OldEpoch || m.epoch != 6 || !m.state.Over() {
		t.Errorf("%+v", m)
	}
}

// Of two ends that claim a line one has it, whatever comes first.
func TestClaims(t *testing.T) {
	l := line{between: toPeer}
	for order := range 2 {
		a, b := brokerFor(toPeer.From, nil), brokerFor(toPeer.To, nil)
		all := []*Broker{a, b}
		for _, x := range all {
			x.leads(simBeginning, l, true, Mbit)
		}
		now := simBeginning
		for range 10 {
			now = now.Add(100 * time.Millisecond)
			for i := range 2 {
				from := all[(i+order)%2]
				from.Tick(now)
				out := from.Flush()
				from.Written(out.Entry)
				for _, m := range append(out.Messages, from.Flush().Messages...) {
					all[1-(i+order)%2].Receive(now, from.cfg.Self, m.Bytes)
				}
			}
		}
		if is, other := a.leads(now, l, false, 0), b.leads(now, l, false, 0); is == other {
			t.Errorf("order %d: %v and %v", order, is, other)
		}
		if later := now.Add(Lease + time.Second); a.leads(later, l, false, 0) || b.leads(later, l, false, 0) {
			t.Error("a tenure lasts without renewal")
		}
	}
}

// Whatever peers send, and whenever, a broker keeps its bounds, and nothing outlives its end.
func FuzzBroker(f *testing.F) {
	f.Add(asks(1, nil))
	f.Add(append(asks(1, nil), asks(1, func(m *message) { m.kind, m.number = commit, 2 })...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSite(t)
		for i := 0; len(b) > 0 && i < 200; i++ {
			n := min(len(b), messageLen)
			s.Receive(s.now, overlay.AgentID{1 + b[0]%4}, b[:n])
			m := asks(b[0], nil)
			for k := range n { // one that parses, with some of it changed
				if k > 0 && k < 56 {
					m[k] ^= b[k]
				}
			}
			s.Receive(s.now, overlay.AgentID{2}, m)
			b = b[n:]
			s.now = s.now.Add(time.Duration(i%7) * time.Second)
			s.turn()
			sum := Rate(0)
			for _, g := range s.f.held {
				sum += g.Rate
			}
			if sum > 70*Mbit || len(s.order) > maxSegments || len(s.lines) > maxLines {
				t.Fatalf("%v, %d segments", sum, len(s.order))
			}
		}
		s.now = s.now.Add(maxLease + time.Minute)
		s.pass(5 * time.Second)
		if len(s.f.held) > 0 {
			t.Fatalf("%d are left", len(s.f.held))
		}
	})
}

// A broker that leaves gives back what it asked for and what it serves, and takes on nothing.
func TestLeave(t *testing.T) {
	s, peer := newSite(t), overlay.AgentID{2}
	s.Request(s.now, Request{Flow: toPeer, Rate: 20 * Mbit, For: time.Hour})
	s.Receive(s.now, peer, asks(1, nil))
	s.turn()
	if s.Idle() || len(s.f.held) != 2 {
		t.Fatalf("%d are held", len(s.f.held))
	}
	s.Leave(s.now)
	s.turn()
	if !s.Idle() || len(s.f.held) != 0 || len(s.ways) != 0 {
		t.Errorf("%d are held, %d ways", len(s.f.held), len(s.ways))
	}
	if _, err := s.Request(s.now, Request{Flow: toPeer, Rate: Mbit, For: time.Hour}); !errors.Is(err, ErrRefused) {
		t.Errorf("asked: %v", err)
	}
	s.Receive(s.now, peer, asks(2, nil))
	if s.turn(); s.last(t).why != Denied {
		t.Errorf("%+v", s.last(t))
	}
}
