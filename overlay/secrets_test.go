package overlay

import (
	"bytes"
	"testing"
	"time"
)

func testSecrets(n byte) Secrets { return Secrets{[32]byte{1 + 2*n}, [32]byte{2 + 2*n}} } // 0: newWorld's

// The network's secrets change while sessions go on: every agent always has a
// session with every other, whoever learns of the new ones first. Afterwards the
// old ones agree on nothing.
func TestChangeOfSecrets(t *testing.T) {
	older, newer := testSecrets(0), testSecrets(1)
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
		w := newWorld(t, 7, 3)
		w.introduce()
		w.run(5 * time.Second)
		always := func(d time.Duration) {
			t.Helper()
			for end := w.now.Add(d); w.now.Before(end); w.run(10 * time.Millisecond) {
				w.mustReach()
			}
		}
		for _, i := range order {
			w.agents[i].s.hs.SetSecrets(newer, older)
			w.agents[i].s.Refresh(w.now)
			always(5 * time.Second) // the others know the old ones only
		}
		for _, a := range w.agents {
			a.s.Refresh(w.now)
		}
		always(5 * time.Second)
		for _, a := range w.agents {
			for _, b := range w.agents {
				if s := a.with(b); a != b && s.secrets != newer {
					t.Errorf("%v still has a session with %v by the old secrets", a.id.Short(), b.id.Short())
				}
			}
		}
		for _, a := range w.agents {
			a.s.hs.SetSecrets(newer)
			a.s.Retire(w.now)
			w.after(a)
		}
		always(5 * time.Second)
		old := NewHandshaker(w.agents[0].id, w.agents[0].static, older.Door, older.PSK, true)
		_, d, err := old.Initiate(w.now, w.agents[1].id, w.agents[1].static.Public, 7, bytes.NewReader(make([]byte, 96)))
		if err != nil {
			t.Fatal(err)
		}
		if w.agents[1].s.hs.Genuine(d) || w.agents[1].s.Receive(w.now, Direct(w.agents[0].addr), d) == nil {
			t.Error("a handshake by the old secrets is taken")
		}
	}
}

// with returns the session that r sends with to another agent, nil if there is none.
func (r *resident) with(o *resident) (s *Session) {
	r.s.Live(func(l Live) {
		if l.Current && l.Session.Peer() == o.id {
			s = l.Session
		}
	})
	return s
}

// Who missed the change loses its sessions at its end, and gets none.
func TestRetire(t *testing.T) {
	older, newer := testSecrets(0), testSecrets(1)
	w := newWorld(t, 3, 2)
	w.introduce()
	w.run(5 * time.Second)
	a, b := w.agents[0], w.agents[1]
	a.s.hs.SetSecrets(newer, older)
	for range 5 {
		a.s.Refresh(w.now)
		w.run(2 * time.Second)
	}
	if s := a.with(b); s == nil || s.secrets != older {
		t.Fatalf("by what is the session with who knows the old ones only: %v", s)
	}
	a.s.hs.SetSecrets(newer)
	a.s.Retire(w.now)
	w.after(a)
	w.run(20 * time.Second)
	if a.with(b) != nil {
		t.Error("there is a session with who knows the old secrets only")
	}
	b.s.hs.SetSecrets(newer)
	w.run(40 * time.Second)
	if a.with(b) == nil || b.with(a) == nil {
		t.Error("no session though both know the new secrets")
	}
}
