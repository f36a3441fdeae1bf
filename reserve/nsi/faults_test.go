package nsi

import (
	"context"
	"errors"
	"testing"
	"time"

	"farlan/reserve"
	"farlan/reserve/nsi/cs"
	"farlan/reserve/nsi/provider"
)

func faulty(t *testing.T, f provider.Faults) *lab {
	t.Parallel()
	l := newLab(t)
	l.srv.Fault(f)
	return l
}

func (l *lab) release(d *Driver, g reserve.Grant) {
	l.t.Helper()
	if err := d.Release(l.ctx(), g); err != nil {
		l.t.Fatal(err)
	}
	l.nothing(d)
}

func TestFault1PlaneDown(t *testing.T) {
	l := faulty(t, provider.Faults{PlaneDown: true})
	for _, d := range []*Driver{l.called(), l.asks()} {
		g := l.must(reserve.Held)(d.Hold(l.ctx(), l.want(1, reserve.Mbit)))
		g = l.down(d, l.must(reserve.Committed)(d.Commit(l.ctx(), g)))
		if s := l.must(reserve.Activating)(d.Status(l.ctx(), g)); g.Up || s.Up || g.Reason == "" {
			t.Fatalf("%+v, %+v", g, s)
		}
		l.release(d, g)
	}
}

func TestFault2MoreThanThePort(t *testing.T) {
	l := faulty(t, provider.Faults{NoAdmission: true})
	d := l.called()
	var free reserve.Refusal
	if g, err := d.Hold(l.ctx(), l.want(1, 5*reserve.Gbit)); !errors.As(err, &free) || free.Free != reserve.Gbit {
		t.Fatalf("%v, %v", g, err)
	}
	if list := l.srv.List(); len(list) > 0 {
		t.Fatalf("asked for: %v", list)
	}
	first := l.must(reserve.Held)(d.Hold(l.ctx(), l.want(1, 600*reserve.Mbit)))
	if _, err := d.Hold(l.ctx(), l.want(2, 600*reserve.Mbit)); !errors.As(err, &free) || free.Free != 400*reserve.Mbit {
		t.Fatal(err)
	}
	// The fault is there: somebody who doesn't look gets it.
	greedy := l.asks(func(c *Config) {
		for id, e := range c.Ends {
			e.Capacity *= 10
			c.Ends[id] = e
		}
	})
	if err := greedy.Release(l.ctx(), l.must(reserve.Held)(greedy.Hold(l.ctx(), l.want(3, 5*reserve.Gbit)))); err != nil {
		t.Fatal(err)
	}
	l.release(d, first)
}

func TestFault3HeldForEver(t *testing.T) {
	l := faulty(t, provider.Faults{HeldForEver: true})
	d := l.called()
	g := l.must(reserve.Held)(d.Hold(l.ctx(), l.want(1, reserve.Mbit)))
	l.later(121 * time.Second)
	if held := l.srv.Held(); len(held) > 0 {
		t.Fatalf("still held: %v", held)
	}
	if list := l.srv.List(); list[0].States.Reservation != cs.StateHeld {
		t.Fatalf("no fault: %+v", list)
	}
	l.must(reserve.Rejected)(d.Status(l.ctx(), g))
	forgotten := l.must(reserve.Held)(d.Hold(l.ctx(), l.want(3, reserve.Mbit)))
	l.later(121 * time.Second)
	l.must(reserve.Rejected)(d.Status(l.ctx(), forgotten))
	if g, err := d.Commit(l.ctx(), g); !errors.Is(err, reserve.ErrRefused) || code(err) != "" || g.State != reserve.Rejected {
		t.Fatalf("%+v, %v", g, err)
	}
	if err := d.Reap(l.ctx(), l.now()); err != nil {
		t.Fatal(err)
	}
	l.nothing(d)

	// One that doesn't know for how long asks, and is told.
	g = l.must(reserve.Held)(d.Hold(l.ctx(), l.want(2, reserve.Mbit)))
	l.later(121 * time.Second)
	d = l.asks()
	l.must(reserve.Held)(d.Status(l.ctx(), g))
	if g, err := d.Commit(l.ctx(), g); !errors.Is(err, reserve.ErrRefused) || code(err) != cs.InvalidTransition || g.State != reserve.Rejected {
		t.Fatalf("%+v, %v", g, err)
	}
	l.nothing(d)
}

func TestFault4Poisoned(t *testing.T) {
	l := faulty(t, provider.Faults{PoisonedByPast: true})
	d := l.called()
	w := l.want(1, reserve.Mbit)
	w.End = l.now().Add(-time.Minute)
	if _, err := d.Hold(l.ctx(), w); !errors.Is(err, reserve.ErrRefused) {
		t.Fatal(err)
	}
	l.release(d, l.must(reserve.Held)(d.Hold(l.ctx(), l.want(2, reserve.Mbit)))) // it still answers

	// Somebody else poisons it: what we ask for then has no known outcome, until asked.
	asked := d.wanted(w)
	if _, err := d.client.do(l.briefly(), cs.Message{Op: cs.Reserve, Criteria: &asked}); err == nil {
		t.Fatal("no fault")
	}
	w = l.want(3, reserve.Gbit)
	g, err := d.Hold(l.briefly(), w)
	if err == nil || denied(err) || g.State != reserve.Unknown {
		t.Fatalf("%+v, %v", g, err)
	}
	if _, err = d.Status(l.ctx(), reserve.Grant{ID: w.ID}); !errors.Is(err, reserve.ErrGone) {
		t.Fatal(err)
	}
	if o, err := d.Offer(l.ctx(), l.want(4, reserve.Gbit)); err != nil || o.Rate != reserve.Gbit {
		t.Fatalf("%+v, %v", o, err)
	}
	l.nothing(d)
}

func TestFault5NoModify(t *testing.T) {
	l := faulty(t, provider.Faults{NoModify: true})
	d := l.called()
	old := l.active(d, l.want(1, 100*reserve.Mbit))
	if _, err := d.Renew(l.ctx(), old, l.now().Add(30*time.Minute)); !errors.Is(err, reserve.ErrUnsupported) || d.Caps().Modify {
		t.Fatal(err)
	}
	l.must(reserve.Active)(d.Status(l.ctx(), old))
	w := l.want(2, 200*reserve.Mbit) // make before break
	w.End = l.now().Add(30 * time.Minute)
	next := l.active(d, w)
	if old.Mark == next.Mark {
		t.Fatalf("both are %+v", next.Mark)
	}
	if err := d.Release(l.ctx(), old); err != nil {
		t.Fatal(err)
	}
	l.must(reserve.Active)(d.Status(l.ctx(), next))
	l.release(d, next)
}

func TestFault6TerminatedOnce(t *testing.T) {
	l := faulty(t, provider.Faults{TerminateOnce: true})
	d := l.called(func(c *Config) { c.Poll = soon })
	g := l.active(d, l.want(1, reserve.Mbit))
	for range 2 {
		if err := d.Release(l.ctx(), g); err != nil {
			t.Fatal(err)
		}
	}
	l.release(l.asks(), g)
	l.release(l.asks(), reserve.Grant{ID: g.ID})
	if _, err := d.summary(l.ctx(), cs.Query{Globals: []string{"urn:uuid:" + uuid(g.ID.Reservation)}}); code(err) != cs.InternalError {
		t.Fatalf("no fault: %v", err)
	}
}

func TestFault7EventsFirst(t *testing.T) {
	l := faulty(t, provider.Faults{EventsFirst: true})
	d := l.called()
	g := l.active(d, l.want(1, reserve.Mbit))
	g = l.must(reserve.Committed)(d.Deactivate(l.ctx(), g))
	g = l.must(reserve.Active)(d.Activate(l.ctx(), g))
	g = l.must(reserve.Active)(d.Modify(l.ctx(), g, 2*reserve.Mbit))
	l.release(d, g)
}

func TestFault7OtherCriteria(t *testing.T) {
	l := faulty(t, provider.Faults{OtherCriteria: true, EventsFirst: true})
	for _, d := range []*Driver{l.called(), l.asks()} {
		if g, err := d.Hold(l.ctx(), l.want(1, reserve.Mbit)); !errors.Is(err, reserve.ErrRefused) {
			t.Fatalf("%+v, %v", g, err)
		}
		if list := l.srv.List(); list[len(list)-1].States.Lifecycle != cs.StateTerminated {
			t.Fatalf("%+v", list)
		}
		l.nothing(d)
	}
}

func TestFault8KeepsCreated(t *testing.T) {
	l := faulty(t, provider.Faults{KeepsCreated: true})
	d := l.called()
	g := l.active(d, l.want(1, reserve.Mbit))
	l.later(11 * time.Minute)
	if list := l.srv.List(); list[0].States.Lifecycle != cs.StateCreated {
		t.Fatalf("no fault: %+v", list)
	}
	for _, d := range []*Driver{d, l.asks()} {
		l.must(reserve.Released)(d.Status(l.ctx(), g))
		l.release(d, g)
	}
}

func TestFault9DeadDomain(t *testing.T) {
	l := faulty(t, provider.Faults{DeadDomain: true})
	for _, d := range []*Driver{l.called(), l.asks()} {
		g := l.active(d, l.want(1, reserve.Mbit))
		if g, err := d.Deactivate(l.briefly(), g); !errors.Is(err, context.DeadlineExceeded) || g.State != reserve.Unknown {
			t.Fatalf("%+v, %v", g, err)
		}
		l.must(reserve.Releasing)(d.Status(l.ctx(), g))
		for range 2 {
			if err := d.Release(l.briefly(), g); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		s := l.must(reserve.Releasing)(d.Status(l.ctx(), g))
		if list, err := d.List(l.ctx()); err != nil || len(list) != 1 || s.Reason == "" {
			t.Fatalf("%v, %v, %+v", list, err, s)
		}
		l.later(11 * time.Minute)
		if err := d.Reap(l.ctx(), l.now()); err != nil {
			t.Fatal(err)
		}
		l.release(d, g)
	}
}

// TestFaultsTogether: with all of them nothing is granted and nothing stays; with all but the
// wrong VLAN it is shown as it is, and goes at its end.
func TestFaultsTogether(t *testing.T) {
	all := provider.Faults{
		PlaneDown: true, NoAdmission: true, HeldForEver: true, PoisonedByPast: true, NoModify: true,
		TerminateOnce: true, EventsFirst: true, OtherCriteria: true, KeepsCreated: true, DeadDomain: true,
	}
	l := faulty(t, all)
	d := l.called(func(c *Config) { c.Patience = 1500 * time.Millisecond })
	g, err := d.Hold(l.ctx(), l.want(1, reserve.Mbit))
	if !errors.Is(err, reserve.ErrRefused) || g.State != reserve.Orphan {
		t.Fatalf("%+v, %v", g, err)
	}
	all.OtherCriteria = false
	l.srv.Fault(all)
	if _, err := d.Hold(l.ctx(), l.want(2, 5*reserve.Gbit)); !errors.Is(err, reserve.ErrFull) {
		t.Fatal(err)
	}
	g = l.must(reserve.Held)(d.Hold(l.ctx(), l.want(2, reserve.Mbit)))
	g = l.must(reserve.Committed)(d.Commit(l.ctx(), g))
	g = l.down(d, g)
	if _, err := d.Modify(l.ctx(), g, 2*reserve.Mbit); !errors.Is(err, reserve.ErrUnsupported) {
		t.Fatal(err)
	}
	if err := d.Release(l.briefly(), g); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if list, err := d.List(l.ctx()); err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	l.later(11 * time.Minute)
	if err := d.Reap(l.ctx(), l.now()); err != nil {
		t.Fatal(err)
	}
	l.release(d, g)
}

// TestDeadProvider: nothing answers. Nothing is held, and calls end.
func TestDeadProvider(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	gone := listen(t)
	gone.Close()
	d := l.asks(func(c *Config) { c.URL = "https://" + gone.Addr().String() })
	if _, err := d.Hold(l.ctx(), l.want(1, reserve.Mbit)); !errors.Is(err, reserve.ErrRefused) {
		t.Fatal(err)
	}
	g := reserve.Grant{ID: reserve.ID{Segment: 1}, Handle: "c", End: l.now().Add(time.Minute)}
	if err := d.Release(l.ctx(), g); err == nil || denied(err) {
		t.Fatal(err)
	}
	if g, err := d.Commit(l.ctx(), g); err == nil || denied(err) || g.State != reserve.Unknown {
		t.Fatalf("%+v, %v", g, err)
	}
	l.later(time.Hour)
	if err := d.Release(l.ctx(), g); err != nil {
		t.Fatal(err)
	}
}
