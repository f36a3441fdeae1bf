package nsi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// entered returns what is booked of a grant with the grant as the caller knows it, found by its
// ID if need be.
func (d *Driver) entered(ctx context.Context, g reserve.Grant) (entry, error) {
	g, err := d.found(ctx, g)
	if err != nil {
		return entry{}, err
	}
	e, booked := d.book.get(g.ID)
	if !booked || e.grant.Handle == "" {
		e.capacity = megabits(g.Rate)
	}
	e.grant, e.news = g, false
	return e, nil
}

// is books a state and returns the grant in it.
func (d *Driver) is(e entry, s reserve.State, reason string) reserve.Grant {
	e.grant.State, e.grant.Reason = s, reason
	if s != reserve.Active {
		e.grant.Up = false
	}
	d.book.put(e, false)
	return e.grant
}

// wrongState says that a request came in a state that it doesn't fit, as one does that was sent
// before a crash and again after it.
func wrongState(err error) bool { return code(err) == cs.InvalidTransition }

// Commit must come within CommitWithin after Hold: later the provider has given the circuit to
// others, even if it says that it is held. What can't be committed is terminated.
func (d *Driver) Commit(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	e, err := d.entered(ctx, g)
	if err != nil {
		return g, err
	}
	if now := d.cfg.Now(); e.held != 0 && now.Sub(e.held) > d.cfg.CommitWithin {
		return d.notCommitted(ctx, e, fmt.Errorf("nsi: %w: %s", reserve.ErrRefused, lapsed))
	}
	err = d.commit(ctx, e.grant.Handle)
	switch {
	case denied(err):
		return d.notCommitted(ctx, e, err)
	case err != nil:
		return d.is(e, reserve.Unknown, err.Error()), err
	}
	return d.is(e, reserve.Committed, ""), nil
}

func (d *Driver) notCommitted(ctx context.Context, e entry, err error) (reserve.Grant, error) {
	if bad := d.terminate(ctx, e.grant); bad != nil {
		return d.is(e, reserve.Orphan, bad.Error()), err
	}
	g := d.is(e, reserve.Rejected, err.Error())
	d.book.leave(g.ID)
	return g, err
}

// commit makes firm what is held of a connection: it, or a modification.
func (d *Driver) commit(ctx context.Context, handle string) error {
	err := d.ask(ctx, cs.Message{Op: cs.ReserveCommit, Connection: handle}, nil, func(t told) (bool, error) {
		return t.m != nil && t.m.Op == cs.ReserveCommitConfirmed || t.q != nil && t.q.States.Reservation == cs.StateStart, committing(t.q)
	})
	if !wrongState(err) {
		return err
	}
	q, bad := d.query(ctx, handle)
	if bad == nil && q.States.Reservation == cs.StateStart && committing(q) == nil {
		return nil
	}
	return errors.Join(err, bad)
}

// committing says if the answer to a query means that a commit won't come to a good end.
func committing(q *cs.Reservation) error {
	if q == nil {
		return nil
	}
	s := q.States
	if s.Lifecycle != cs.StateCreated || s.Reservation == cs.StateTimeout || s.Reservation == cs.StateFailed {
		return fmt.Errorf("nsi: %w: the provider says %s, %s", reserve.ErrRefused, s.Reservation, s.Lifecycle)
	}
	return nil
}

// Abort gives back what is held.
func (d *Driver) Abort(ctx context.Context, g reserve.Grant) error {
	g, err := d.found(ctx, g)
	if errors.Is(err, reserve.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	_ = d.revert(ctx, g.Handle) // terminating does the same, but not with every provider at once
	return d.Release(ctx, g)
}

// revert takes back a reserve that isn't committed; of one that is, the modification.
func (d *Driver) revert(ctx context.Context, handle string) error {
	return d.ask(ctx, cs.Message{Op: cs.ReserveAbort, Connection: handle}, nil, func(t told) (bool, error) {
		return t.m != nil && t.m.Op == cs.ReserveAbortConfirmed || t.q != nil && t.q.States.Reservation == cs.StateStart, nil
	})
}

const (
	// planePatience is how long a provision that is confirmed has its call wait for the data
	// plane, and endPatience how long a termination waits to be confirmed: the agent's other
	// circuits wait for either, and what comes later Events and Status tell, and another Release.
	planePatience = 3 * time.Second
	endPatience   = 10 * time.Second
)

// Activate provisions and waits for the data plane, a little. A confirmation alone says nothing of
// it: if the data plane isn't up when the time is over, the grant is Activating and not Up,
// without an error, and Events tells when it comes up.
func (d *Driver) Activate(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	e, err := d.entered(ctx, g)
	if err != nil {
		return g, err
	}
	g = d.is(e, reserve.Activating, "")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := activation{d: d, id: g.ID, give: cancel}
	err = d.ask(ctx, cs.Message{Op: cs.Provision, Connection: g.Handle}, nil, a.step)
	if wrongState(err) {
		err = a.resume(ctx, g.Handle, err)
	}
	if now, booked := d.book.get(g.ID); booked {
		e = now
	} else {
		e.grant = g
	}
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	switch {
	case err == nil:
		e.grant.Up = true
		return d.is(e, reserve.Active, ""), nil
	case e.grant.State == reserve.Lost:
		return e.grant, err
	case a.confirmed && late:
		return d.is(e, reserve.Activating, "the provider has confirmed it, but doesn't say that the data plane is up"), nil
	case denied(err):
		return d.is(e, reserve.Committed, err.Error()), err
	}
	return d.is(e, reserve.Unknown, err.Error()), err
}

// An activation is what was heard of a provision so far.
type activation struct {
	d             *Driver
	id            reserve.ID
	give          context.CancelFunc // ends the wait
	confirmed, up bool
	last          *time.Timer // after which it isn't waited any more
}

func (a *activation) step(t told) (bool, error) {
	switch {
	case t.q != nil && t.q.States.Lifecycle != cs.StateCreated:
		return false, fmt.Errorf("nsi: %w: the provider says %s", reserve.ErrRefused, t.q.States.Lifecycle)
	case t.q != nil:
		a.confirmed = a.confirmed || t.q.States.Provision == cs.StateProvisioned
		a.up = t.q.States.Plane.Up()
	case t.m.Op == cs.ProvisionConfirmed:
		a.confirmed = true
	default: // a notice: the book knows whether it is news
		e, _ := a.d.book.get(a.id)
		if a.up = e.grant.Up; e.grant.State == reserve.Lost {
			return false, fmt.Errorf("nsi: %w: %s", reserve.ErrRefused, e.grant.Reason)
		}
	}
	if a.confirmed && !a.up && a.last == nil {
		a.last = time.AfterFunc(planePatience, a.give)
	}
	return a.confirmed && a.up, nil
}

// resume follows a provision that was sent before, if it was: what is wrong then is that.
func (a *activation) resume(ctx context.Context, handle string, wrong error) error {
	q, err := a.d.query(ctx, handle)
	if err != nil || q.States.Provision != cs.StateProvisioned && q.States.Provision != cs.StateProvisioning {
		return wrong
	}
	w := a.d.inbox.expect("", handle)
	defer a.d.inbox.forget(w)
	if done, err := a.step(told{q: q}); done || err != nil {
		return err
	}
	return a.d.follow(ctx, cs.Provision, handle, w, a.step)
}

// Deactivate has the data plane taken down; the provider keeps the room.
func (d *Driver) Deactivate(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	e, err := d.entered(ctx, g)
	if err != nil {
		return g, err
	}
	g = d.is(e, reserve.Releasing, "")
	err = d.ask(ctx, cs.Message{Op: cs.Release, Connection: g.Handle}, nil, func(t told) (bool, error) {
		return t.m != nil && t.m.Op == cs.ReleaseConfirmed || t.q != nil && t.q.States.Provision == cs.StateReleased, nil
	})
	if wrongState(err) {
		if q, bad := d.query(ctx, g.Handle); bad == nil && q.States.Provision == cs.StateReleased {
			err = nil
		}
	}
	e.grant = g
	if err != nil {
		return d.is(e, reserve.Unknown, err.Error()), err
	}
	return d.is(e, reserve.Committed, ""), nil
}

// Release terminates. It returns nil only when the provider has confirmed that, shows it, or
// doesn't know the circuit, or when its end is over by our clock. If a domain doesn't answer it
// goes on failing until then.
func (d *Driver) Release(ctx context.Context, g reserve.Grant) error {
	if g.Handle == "" {
		if e, booked := d.book.get(g.ID); booked && g.End == 0 {
			g.End = e.grant.End
		}
	}
	if g.End != 0 && g.End <= d.cfg.Now() {
		d.book.leave(g.ID)
		return nil
	}
	g, err := d.found(ctx, g)
	if err == nil {
		err = d.terminate(ctx, g)
	}
	if err == nil || errors.Is(err, reserve.ErrGone) {
		d.book.leave(g.ID)
		return nil
	}
	if e, booked := d.book.get(g.ID); booked {
		d.is(e, reserve.Releasing, err.Error())
	}
	return err
}

// terminate ends a connection, as often as one likes: a second time it may be acknowledged and
// never confirmed, so what counts is what a query shows.
func (d *Driver) terminate(ctx context.Context, g reserve.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	err := d.ask(ctx, cs.Message{Op: cs.Terminate, Connection: g.Handle}, nil, func(t told) (bool, error) {
		return t.m != nil && t.m.Op == cs.TerminateConfirmed || t.q != nil && d.ended(*t.q), nil
	})
	if wrongState(err) {
		if q, bad := d.query(ctx, g.Handle); bad == nil && d.ended(*q) {
			return nil
		}
	}
	if errors.Is(err, reserve.ErrGone) {
		return nil
	}
	return err
}

func (d *Driver) ended(q cs.Reservation) bool {
	return q.States.Lifecycle == cs.StateTerminated || q.States.Lifecycle == cs.StatePassedEndTime
}

// Modify asks for another capacity, Renew for another end, which is checked as Hold's is. Many
// providers can do neither: ErrUnsupported, and Caps says so from then on.
func (d *Driver) Modify(ctx context.Context, g reserve.Grant, rate reserve.Rate) (reserve.Grant, error) {
	return d.modify(ctx, g, cs.Criteria{Capacity: megabits(rate)})
}

// Renew is described at Modify.
func (d *Driver) Renew(ctx context.Context, g reserve.Grant, end overlay.Instant) (reserve.Grant, error) {
	end = overlay.Instant(end.Time().Truncate(time.Second).UnixNano())
	if left := end.Sub(d.cfg.Now()); left < time.Second || left > d.cfg.Longest {
		return g, fmt.Errorf("nsi: renew: %w: until %v, and %v from now is the longest", reserve.ErrRefused, end.Time(), d.cfg.Longest)
	}
	return d.modify(ctx, g, cs.Criteria{End: end})
}

func (d *Driver) modify(ctx context.Context, g reserve.Grant, change cs.Criteria) (reserve.Grant, error) {
	if !d.modifies() {
		return g, fmt.Errorf("nsi: modify: %w", reserve.ErrUnsupported)
	}
	e, err := d.entered(ctx, g)
	if err != nil {
		return g, err
	}
	q, err := d.query(ctx, e.grant.Handle)
	switch {
	case err != nil:
		return g, err
	case len(q.Criteria) == 0 || q.States.Reservation != cs.StateStart:
		return g, fmt.Errorf("nsi: modify: %w: the provider says %s", reserve.ErrRefused, q.States.Reservation)
	}
	asked := q.Criteria[len(q.Criteria)-1]
	asked.Version, change.Version = asked.Version+1, asked.Version+1
	if change.Capacity != 0 {
		asked.Capacity = change.Capacity
	}
	if change.End != 0 {
		asked.End = change.End
	}
	wider := e
	wider.capacity = max(asked.Capacity, e.capacity)
	if free, ok := d.book.enter(wider, d.port, d.cfg.Now()); !ok {
		return g, fmt.Errorf("nsi: modify: %w", reserve.Refusal{Free: reserve.Rate(free) * reserve.Mbit})
	}
	if err := d.change(ctx, e.grant.Handle, asked, change); err != nil {
		if denied(err) {
			d.book.put(e, false)
		}
		return g, err
	}
	d.fillIn(&wider, asked)
	d.book.put(wider, false)
	return wider.grant, nil
}

// change reserves a modification, compares what is confirmed, and commits it; what is refused or
// differs is taken back, so that all is as it was.
func (d *Driver) change(ctx context.Context, handle string, asked, change cs.Criteria) error {
	var got cs.Criteria
	err := d.ask(ctx, cs.Message{Op: cs.Reserve, Connection: handle, Criteria: &change}, nil, func(t told) (bool, error) {
		switch {
		case t.m != nil && t.m.Op == cs.ReserveConfirmed:
			got = *t.m.Criteria
			return true, nil
		case t.q != nil:
			return heldBy(t.q, &got)
		}
		return false, nil
	})
	switch code(err) { // the second is an unsupported parameter, the third a connection that exists
	case cs.NotImplemented, "00102", "00202":
		d.mu.Lock()
		d.immutable = true
		d.mu.Unlock()
		_ = d.revert(ctx, handle) // of a fault nothing is left, of a failure a state
		return fmt.Errorf("nsi: modify: %w: %w", reserve.ErrUnsupported, err)
	}
	// Who asked instead of being told may see the old criteria still.
	if err == nil && got.Version >= asked.Version {
		if differs := compare(asked, got, d.cfg.Now()); differs != nil {
			err = fmt.Errorf("%w: %w", reserve.ErrRefused, differs)
		}
	}
	if err != nil {
		if denied(err) {
			err = errors.Join(err, d.revert(ctx, handle))
		}
		return err
	}
	if err = d.commit(ctx, handle); err != nil {
		return err
	}
	q, err := d.query(ctx, handle)
	if err == nil && len(q.Criteria) > 0 {
		err = compare(asked, q.Criteria[len(q.Criteria)-1], d.cfg.Now())
	}
	return err
}
