package nsi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// told is what a request has come to so far: a message of the provider's, or what it answered
// to a query.
type told struct {
	m *cs.Message
	q *cs.Reservation
}

// ask sends a request and follows what it comes to until step says that it is done: by what the
// provider tells, and by asking, since that may be lost or never sent. A new connection's name is
// told to named first. Errors that the provider means are denials; others leave the outcome open.
func (d *Driver) ask(ctx context.Context, m cs.Message, named func(string), step func(told) (bool, error)) error {
	m.Correlation = newCorrelation()
	w := d.inbox.expect(m.Correlation, m.Connection)
	defer d.inbox.forget(w)
	reply, err := d.client.do(ctx, m)
	if err != nil {
		return err
	}
	handle := m.Connection
	if reply.Op == cs.ReserveResponse {
		if handle != "" && handle != reply.Connection {
			return fmt.Errorf("nsi: %s of %s is answered for %s", m.Op, handle, reply.Connection)
		}
		handle = reply.Connection
		d.inbox.named(w, handle)
		if named != nil {
			named(handle)
		}
	}
	return d.follow(ctx, m.Op, handle, w, step)
}

// follow is the second half of ask, for no longer than Patience.
func (d *Driver) follow(ctx context.Context, op cs.Op, handle string, w *waiter, step func(told) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Patience)
	defer cancel()
	poll := time.NewTimer(d.cfg.Poll)
	defer poll.Stop()
	var bad error // why the last query failed
	for {
		var news told
		select {
		case <-ctx.Done():
			return fmt.Errorf("nsi: %s of %s isn't confirmed: %w", op, handle, errors.Join(ctx.Err(), bad))
		case m := <-w.got:
			if m.Connection != "" && m.Connection != handle {
				continue
			}
			switch m.Op {
			case cs.ReserveFailed, cs.ReserveCommitFailed, cs.Error:
				return said(op, m.Exception, reserve.ErrRefused)
			}
			news.m = &m
		case <-poll.C:
			poll.Reset(d.cfg.Poll)
			news.q, bad = d.query(ctx, handle)
			if errors.Is(bad, reserve.ErrGone) {
				return bad
			}
			if bad != nil {
				continue
			}
		}
		if done, err := step(news); done || err != nil {
			return err
		}
	}
}

// query asks for one connection; ErrGone if the provider doesn't know it.
func (d *Driver) query(ctx context.Context, handle string) (*cs.Reservation, error) {
	all, err := d.summary(ctx, cs.Query{Connections: []string{handle}})
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Connection == handle {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("nsi: %w: the provider doesn't know %s", reserve.ErrGone, handle)
}

// summary asks for reservations. Nobody is asked by globalReservationId: one provider fails at
// that. Providers that don't answer at once are asked to answer later, if they can reach us.
func (d *Driver) summary(ctx context.Context, q cs.Query) ([]cs.Reservation, error) {
	reply, err := d.client.do(ctx, cs.Message{Op: cs.QuerySummarySync, Query: &q})
	if code(err) != cs.NotImplemented || d.cfg.Callback.Listener == nil {
		return reply.Reservations, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Exchange)
	defer cancel()
	m := cs.Message{Op: cs.QuerySummary, Query: &q}
	m.Correlation = newCorrelation()
	w := d.inbox.expect(m.Correlation, "")
	defer d.inbox.forget(w)
	if _, err := d.client.do(ctx, m); err != nil {
		return nil, err
	}
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("nsi: %s isn't answered: %w", m.Op, ctx.Err())
		case m := <-w.got:
			switch m.Op {
			case cs.QuerySummaryConfirmed:
				return m.Reservations, nil
			case cs.Error:
				return nil, said(cs.QuerySummary, m.Exception, nil)
			}
		}
	}
}

// list asks for everything, and returns and books what is ours.
func (d *Driver) list(ctx context.Context) ([]entry, error) {
	all, err := d.summary(ctx, cs.Query{})
	if err != nil {
		return nil, fmt.Errorf("nsi: list: %w", err)
	}
	var ours []entry
	for _, r := range all {
		e, ok := d.read(r)
		if !ok {
			continue
		}
		ours = append(ours, e)
		if _, booked := d.book.get(e.grant.ID); booked || !e.grant.State.Over() {
			d.book.put(e, true)
		}
	}
	return ours, nil
}

// List returns all circuits of this agent that the provider hasn't ended, and whose end isn't
// over by our own clock.
func (d *Driver) List(ctx context.Context) ([]reserve.Grant, error) {
	all, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	var live []reserve.Grant
	for _, e := range all {
		if !e.grant.State.Over() {
			live = append(live, e.grant)
		}
	}
	return live, nil
}

// Status asks the provider. Past its end a circuit is released, whatever the provider says.
func (d *Driver) Status(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	g, err := d.found(ctx, g)
	if err != nil {
		return reserve.Grant{}, err
	}
	r, err := d.query(ctx, g.Handle)
	if errors.Is(err, reserve.ErrGone) {
		d.book.leave(g.ID)
	}
	if err != nil {
		return reserve.Grant{}, err
	}
	e, ours := d.read(*r)
	if r.Description == "" && r.Requester == d.cfg.Requester { // it doesn't keep them; the journal has the handle
		e, ours = d.entryOf(g.ID, *r), true
	}
	if !ours || e.grant.ID != g.ID {
		return reserve.Grant{}, fmt.Errorf("nsi: %w: %s is described as %.100q", reserve.ErrForeign, g.Handle, r.Description)
	}
	if s := e.grant.State; s == reserve.Activating || s == reserve.Degraded || s == reserve.Lost {
		if why := d.reason(ctx, *r); why != "" {
			e.grant.Reason = why
		}
	}
	if e.grant.End == 0 { // the provider shows no criteria as long as nothing is committed
		e.grant.End, e.grant.Rate, e.grant.Mark = g.End, g.Rate, g.Mark
	}
	d.book.put(e, false)
	return e.grant, nil
}

// reason asks for the provider's notices and returns what the last error among them says.
func (d *Driver) reason(ctx context.Context, r cs.Reservation) string {
	reply, err := d.client.do(ctx, cs.Message{Op: cs.QueryNotificationSync, Connection: r.Connection})
	if err != nil {
		return "" // it's only words
	}
	why := ""
	for _, n := range reply.Notices {
		if n.Op == cs.ErrorEvent && n.Connection == r.Connection {
			why = erred(reserve.Grant{}, n).Reason
		}
	}
	return why
}

// found fills in the handle of a grant that a crash has left without one.
func (d *Driver) found(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	if g.Handle != "" {
		return g, nil
	}
	all, err := d.list(ctx)
	if err != nil {
		return g, err
	}
	over := fmt.Errorf("nsi: %w: the provider lists none of %v", reserve.ErrGone, g.ID)
	for _, e := range all {
		if e.grant.ID != g.ID {
			continue
		}
		if !e.grant.State.Over() {
			return e.grant, nil
		}
		over = fmt.Errorf("nsi: %w: %v is %v", reserve.ErrGone, g.ID, e.grant.State)
	}
	d.book.leave(g.ID)
	return g, over
}
