package reserve

import (
	"errors"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

// atFault returns a site with one reservation of 20 Mbit/s for a while, whose driver does
// something wrong from the beginning on.
func atFault(t *testing.T, external bool, bad func(s *site, c Call, r *Result)) *site {
	t.Helper()
	s := newSite(t)
	s.bad, s.drivers[0].External = bad, external
	if _, err := s.Request(s.now, Request{Flow: toPeer, Rate: 20 * Mbit, For: 5 * time.Minute, Owner: "ann"}); err != nil {
		t.Fatal(err)
	}
	s.turn()
	return s
}

func (s *site) is(t *testing.T, want State, ways int, why string) {
	t.Helper()
	rows := s.List()
	if len(rows) == 0 || rows[len(rows)-1].Whole != want || len(s.ways) != ways || !strings.Contains(rows[len(rows)-1].Reason, why) {
		t.Errorf("want %v by %d ways as %q: %d, %+v", want, ways, why, len(s.ways), rows)
	}
}

// What isn't confirmed to be given back is tried again and shown. Of an external driver it is over
// at its end, whatever that lists; of others when they don't list it any more.
func TestReleaseSticks(t *testing.T) {
	for _, external := range []bool{true, false} {
		tries := 0
		s := atFault(t, external, func(_ *site, c Call, r *Result) {
			if c.Verb == DoRelease || c.Verb == DoAbort {
				r.Err = errors.New("it sticks")
				tries++
			}
		})
		stuck := *s.f.held[0]
		s.Release(s.now, s.course[0].id)
		s.f.held = append(s.f.held, &stuck)
		s.turn()
		s.f.held = []*fakeGrant{&stuck}
		s.pass(30 * time.Second)
		s.is(t, Orphan, 0, "sticks")
		if free, _ := s.cfg.Quotas.room(100*Mbit, s.shares(nil), share{egress: "east", rate: 70 * Mbit}); free > 50*Mbit {
			t.Errorf("%v are free beside what isn't given back", free)
		}
		if tries < 4 || tries > 6 {
			t.Errorf("%d tries in half a minute", tries)
		}
		for range 5 * 60 {
			s.f.held = []*fakeGrant{&stuck}
			s.now = s.now.Add(time.Second)
			s.turn()
		}
		if is := s.order[0].state; external != is.Over() {
			t.Errorf("external %v: after its end it is %v", external, is)
		}
		s.f.held = nil
		s.pass(2 * time.Minute)
		if len(s.order) > 0 && !s.order[0].state.Over() {
			t.Errorf("external %v: when nothing is left it is %v", external, s.order[0].state)
		}
	}
}

// What a driver says is committed and doesn't work carries nothing, and is given back.
func TestConfirmedButDown(t *testing.T) {
	s := atFault(t, false, func(_ *site, _ Call, r *Result) { r.Grant.Up = false })
	s.is(t, Activating, 0, "")
	s.pass(phaseTime + 2*time.Second)
	s.is(t, Lost, 0, "doesn't work")
	if len(s.f.held) > 0 {
		t.Error("it is still held")
	}
}

// More than was asked for isn't used; less is refused, and asked for again.
func TestAnotherRateThanAsked(t *testing.T) {
	s := atFault(t, false, func(_ *site, _ Call, r *Result) { r.Grant.Rate *= 5 })
	s.is(t, Active, 1, "")
	if s.ways[0].Rate != Outer(20*Mbit, 0) {
		t.Errorf("%v", s.ways[0].Rate)
	}
	s = atFault(t, false, func(s *site, c Call, r *Result) {
		r.Grant.Rate = min(r.Grant.Rate, 15*Mbit)
		if g := s.f.find(r.Grant); g != nil {
			g.Rate = r.Grant.Rate
		}
	})
	s.is(t, Active, 1, "")
	if rows := s.List(); rows[0].Whole != Rejected || rows[1].Rate > 15*Mbit || rows[1].Rate < 13900 {
		t.Errorf("%+v", rows)
	}
}

// A commit that comes too late for the driver leaves nothing.
func TestLateCommit(t *testing.T) {
	s := atFault(t, false, func(s *site, c Call, r *Result) {
		if c.Verb == DoCommit {
			r.Err = ErrRefused
		}
	})
	s.is(t, Rejected, 0, "refused")
	if len(s.f.held) > 0 {
		t.Error("it is still held")
	}
}

// A call whose outcome nobody knows is asked about, never made again or taken for done.
func TestUnknownOutcome(t *testing.T) {
	for _, done := range []bool{true, false} {
		holds, once := 0, false
		s := atFault(t, false, func(s *site, c Call, r *Result) {
			if holds += int(flag(c.Verb == DoHold, 1)); c.Verb != DoHold || once {
				return
			}
			once, r.Grant, r.Err = true, Grant{}, errors.New("no answer")
			if !done {
				s.f.held = nil
			}
		})
		s.pass(8 * time.Second)
		if done {
			s.is(t, Active, 1, "")
		} else {
			s.is(t, Rejected, 0, "")
		}
		if holds != 1 {
			t.Errorf("it was asked for %d times", holds)
		}
	}
}

// While probes don't come back frames take the ordinary way; after half a minute of that there
// is no reservation any more.
func TestProbesAreLost(t *testing.T) {
	s := atFault(t, false, nil)
	s.is(t, Active, 1, "")
	s.mum = true
	s.pass(15 * time.Second)
	s.is(t, Degraded, 0, "probes")
	s.mum = false
	s.pass(2 * time.Second)
	s.is(t, Active, 1, "")
	s.mum = true
	s.pass(17*time.Second + mendFor)
	s.is(t, Lost, 0, "probes")
	if len(s.f.held) > 0 {
		t.Error("it is still held")
	}
}

// A way by which nothing is confirmed isn't taken until a probe comes back.
func TestUnanswered(t *testing.T) {
	s := atFault(t, false, nil)
	s.mum = true
	s.Unanswered(s.course[0].id)
	s.turn()
	s.is(t, Degraded, 0, "probes")
	s.mum = false
	s.pass(2 * time.Second)
	s.is(t, Active, 1, "")
}

// An event that comes before the answer to the call that it is of harms nothing.
func TestEventBeforeAnswer(t *testing.T) {
	s := atFault(t, false, nil)
	s.Release(s.now, s.course[0].id)
	s.turn()
	s.bad = func(s *site, c Call, r *Result) {
		if c.Verb == DoActivate {
			s.Notice(s.now, "tc", Event{c.Grant.ID, r.Grant})
			s.Tick(s.now)
		}
	}
	s.Request(s.now, Request{Flow: toPeer, Rate: Mbit, For: time.Minute})
	s.turn()
	s.is(t, Active, 1, "")
}

// A renewal that takes longer than the driver was to keep the grant leaves no way to send by what
// may be gone.
func TestRenewalTakesLong(t *testing.T) {
	s, peer := newSite(t), overlay.AgentID{2}
	s.bad = func(_ *site, c Call, r *Result) {
		if c.Verb == DoRenew {
			r.Number = 0 // it doesn't come back
		}
	}
	for n, k := range []kind{ask, commit, activate, renew} {
		if k == renew {
			s.pass(30 * time.Second)
		}
		s.Receive(s.now, peer, asks(1, func(m *message) { m.kind, m.number = k, uint32(n+1) }))
		s.turn()
	}
	until := simBeginning.Add(time.Minute) // what it granted, as far as is known
	s.pass(until.Sub(s.now) - early)
	if len(s.ways) != 1 {
		t.Error("there is no way, and it was leased")
	}
	s.turn()
	if seg := s.segments[ID{[16]byte{1}, 1}]; len(s.ways) > 0 || seg.call == 0 || seg.state != Degraded {
		t.Errorf("a second before its end it is %v, by %d ways", seg.state, len(s.ways))
	}
}

// A restart in the middle of giving back doesn't change what it was given back for.
func TestRestartWhileReleasing(t *testing.T) {
	for _, final := range []State{Released, Lost} {
		stuck := true
		bad := func(_ *site, c Call, r *Result) {
			if stuck && (c.Verb == DoRelease || c.Verb == DoAbort) {
				r.Err = ErrUnreachable
			}
		}
		s := atFault(t, false, bad)
		if r := s.course[0]; final == Lost {
			s.fail(s.now, r, Lost, Failed, "it doesn't work")
		} else if err := s.Release(s.now, r.id); err != nil {
			t.Fatal(err)
		}
		s.turn()
		journal, _ := s.Snapshot()
		stuck, s.Broker = false, brokerFor(overlay.AgentID{1}, ReadJournal(journal))
		s.pass(5 * time.Second)
		s.is(t, final, 0, "restarted")
	}
}
