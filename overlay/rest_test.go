package overlay

import (
	"testing"
	"time"
)

// agreed says whether two residents have the same current session, and whether both have one.
func agreed(a, b *resident) (same, both bool) {
	of := func(r, o *resident) (s *Session) {
		r.s.Live(func(l Live) {
			if l.Current && l.Session.Peer() == o.id {
				s = l.Session
			}
		})
		return s
	}
	x, y := of(a, b), of(b, a)
	if x == nil || y == nil {
		return x == nil && y == nil, false
	}
	return x.LocalIndex() == y.RemoteIndex(), true
}

// A session that neither of two wants ends with its keys at both. As long as one of them
// wants it, whichever, both go on to have it.
func TestSessionsRest(t *testing.T) {
	for _, wants := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
		w := newWorld(t, 1, 2)
		w.introduce()
		w.run(5 * time.Second)
		a, b := w.agents[0], w.agents[1]
		if _, both := agreed(a, b); !both {
			t.Fatal("no session to begin with")
		}
		a.s.Rest(w.now, b.id, !wants[0])
		b.s.Rest(w.now, a.id, !wants[1])
		w.run(RejectAfter - 10*time.Second)
		if _, both := agreed(a, b); !both {
			t.Errorf("%v: the session is over before its keys are", wants)
		}
		w.run(2 * RejectAfter)
		same, both := agreed(a, b)
		if !same || both != (wants[0] || wants[1]) {
			t.Errorf("%v: afterwards there is a session: %v, the same: %v", wants, both, same)
		}
	}
}

// Who is wanted again is met again, also by one that doesn't want it; one that was to be met,
// and isn't wanted any more, is left alone.
func TestSessionsWakeUp(t *testing.T) {
	w := newWorld(t, 2, 2)
	w.introduce()
	a, b := w.agents[0], w.agents[1]
	a.s.Rest(w.now, b.id, true)
	b.s.Rest(w.now, a.id, true)
	w.run(time.Minute)
	if same, both := agreed(a, b); !same || both {
		t.Fatalf("met though neither wants it")
	}
	b.s.Rest(w.now, a.id, false)
	b.s.Renew(w.now, a.id)
	w.run(6 * w.delay)
	if same, both := agreed(a, b); !same || !both {
		t.Errorf("no session three flights after it was wanted")
	}
	w.run(3*RejectAfter + RekeyAfter/2)
	if same, both := agreed(a, b); !same || !both {
		t.Errorf("it isn't kept")
	}
	b.s.Rest(w.now, a.id, true)
	w.run(2 * RejectAfter)
	if same, both := agreed(a, b); !same || both {
		t.Errorf("it didn't end")
	}
	a.s.Rest(w.now, b.id, false)
	a.s.Rest(w.now, b.id, true)
	w.run(time.Minute)
	if _, both := agreed(a, b); both {
		t.Errorf("met though it isn't wanted any more")
	}
}

// A member that begins handshakes again and again with one that doesn't want it has few
// sessions with it at a time, and none when it stops.
func TestRestingIsBounded(t *testing.T) {
	w := newWorld(t, 3, 2)
	w.introduce()
	w.run(5 * time.Second)
	a, b := w.agents[0], w.agents[1]
	a.s.Rest(w.now, b.id, true)
	b.s.Rest(w.now, a.id, true)
	count := func() (all int) {
		a.s.Live(func(Live) { all++ })
		return all
	}
	most := 0
	for range 300 {
		b.s.Renew(w.now, a.id)
		w.run(time.Second)
		most = max(most, count())
	}
	if t.Logf("%d sessions at most", most); most < 2 || most > 1+maxOlder+maxPending {
		t.Errorf("%d sessions with one member", most)
	}
	w.run(RejectAfter + time.Minute)
	if left := count(); left > 0 {
		t.Errorf("%d sessions are left", left)
	}
}
