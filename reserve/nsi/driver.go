package nsi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// setup is how many seconds a circuit takes as a rule: providers configure switches one after
// the other.
const setup = 30

// A Driver is reserve's for circuits by NSI. It is safe for concurrent use. With callbacks Serve
// must run beside it, else it asks at longer intervals.
type Driver struct {
	cfg       Config
	client    *client
	callbacks *tls.Config
	inbox     *inbox
	book      *book

	syncing sync.Mutex // guards the two below
	synced  bool       // what is left of earlier runs is in the book

	mu        sync.Mutex
	immutable bool // the provider has refused to modify
}

var (
	_ reserve.Driver = (*Driver)(nil)
	_ reserve.Server = (*Driver)(nil)
)

// Open makes a driver. It doesn't speak to the provider yet. It owns the callback's listener,
// also if it returns an error.
func Open(cfg Config) (*Driver, error) {
	cfg.fill()
	var request, callback *tls.Config
	err := cfg.Validate()
	if err == nil {
		request, callback, err = identity(cfg)
	}
	if err != nil {
		if cfg.Callback.Listener != nil {
			_ = cfg.Callback.Listener.Close()
		}
		return nil, err
	}
	return &Driver{cfg: cfg, client: newClient(cfg, request), callbacks: callback, inbox: newInbox(), book: newBook()}, nil
}

// Caps says that circuits cost somebody else something.
func (d *Driver) Caps() reserve.Caps {
	most := reserve.Rate(0)
	if end, ok := d.cfg.Ends[d.cfg.Self]; ok {
		most = end.Capacity
	}
	return reserve.Caps{
		Name: "nsi", Kinds: []reserve.Kind{reserve.Circuit}, External: true, Modify: d.modifies(), Setup: setup, Most: most,
	}
}

func (d *Driver) modifies() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.Modify && !d.immutable
}

// port returns an agent's port and how many Mbit/s it carries.
func (d *Driver) port(id overlay.AgentID) (string, int64) {
	end, ok := d.cfg.Ends[id]
	if !ok {
		return "", 0
	}
	stp, _ := cs.ParseSTP(end.STP)
	return stp.Port, int64(end.Capacity / reserve.Mbit)
}

// check says what is wrong with a want, by what is known here. An end in the past must never
// get to a provider: there is one that doesn't answer anybody any more after it.
func (d *Driver) check(w reserve.Want) error {
	now := d.cfg.Now()
	for _, id := range []overlay.AgentID{w.From, w.To} {
		if port, _ := d.port(id); port == "" {
			return fmt.Errorf("nsi: %w: no STP is known for agent %v", reserve.ErrRefused, id)
		}
	}
	from, _ := d.port(w.From)
	to, _ := d.port(w.To)
	switch left := w.End.Sub(now); {
	case w.From != d.cfg.Self && w.To != d.cfg.Self:
		return fmt.Errorf("nsi: %w: a circuit between others", reserve.ErrRefused)
	case from == to:
		return fmt.Errorf("nsi: %w: both agents are at %s", reserve.ErrRefused, from)
	case left < time.Second:
		return fmt.Errorf("nsi: %w: its end, %v, isn't in the future", reserve.ErrRefused, w.End.Time())
	case left > d.cfg.Longest:
		return fmt.Errorf("nsi: %w: for %v, and %v is the longest", reserve.ErrRefused, left.Round(time.Second), d.cfg.Longest)
	case w.Rate <= 0:
		return fmt.Errorf("nsi: %w: no rate", reserve.ErrRefused)
	}
	return nil
}

// Offer says what the ports have left of what this agent hasn't asked for itself; NSI can't be
// asked without reserving.
func (d *Driver) Offer(_ context.Context, w reserve.Want) (reserve.Offer, error) {
	if err := d.check(w); err != nil {
		return reserve.Offer{}, err
	}
	d.book.mu.Lock()
	defer d.book.mu.Unlock()
	free := reserve.Rate(d.book.free(entry{from: w.From, to: w.To, grant: reserve.Grant{ID: w.ID}}, d.port, d.cfg.Now())) * reserve.Mbit
	return reserve.Offer{Kind: reserve.Circuit, Rate: min(w.Rate, free), Free: free}, nil
}

// Usage isn't known: NSI has nothing that counts.
func (d *Driver) Usage(context.Context, reserve.Grant) (reserve.Usage, error) {
	return reserve.Usage{}, fmt.Errorf("nsi: usage: %w", reserve.ErrUnsupported)
}

// Far returns the Mark of the agent at the other end of a circuit, which can't ask the provider
// itself: it has the VLAN of its own side. False if the circuit isn't known, as after a start
// before it was asked for.
func (d *Driver) Far(id reserve.ID) (reserve.Mark, bool) {
	e, booked := d.book.get(id)
	return e.far, booked && e.grant.Handle != ""
}

// sync finds once what earlier runs have left, so that nothing is asked for twice.
func (d *Driver) sync(ctx context.Context) error {
	d.syncing.Lock()
	defer d.syncing.Unlock()
	if d.synced {
		return nil
	}
	_, err := d.list(ctx)
	d.synced = err == nil
	return err
}

// Hold reserves, waits for the confirmation and compares it with what was asked: what differs is
// given back and refused.
func (d *Driver) Hold(ctx context.Context, w reserve.Want) (reserve.Grant, error) {
	if err := d.check(w); err != nil {
		return reserve.Grant{}, err
	}
	if err := d.sync(ctx); err != nil {
		return reserve.Grant{}, fmt.Errorf("%w: the provider can't be asked: %w", reserve.ErrRefused, err)
	}
	if old, known := d.book.get(w.ID); known && !old.grant.State.Over() {
		if g, err := d.Status(ctx, old.grant); !errors.Is(err, reserve.ErrGone) {
			return g, err
		}
	}
	asked := d.wanted(w)
	e := entry{from: w.From, to: w.To, capacity: asked.Capacity, grant: reserve.Grant{
		ID: w.ID, Kind: reserve.Circuit, Rate: reserve.Rate(asked.Capacity) * reserve.Mbit, End: asked.End,
	}}
	if free, ok := d.book.enter(e, d.port, d.cfg.Now()); !ok {
		return reserve.Grant{}, fmt.Errorf("nsi: hold: %w", reserve.Refusal{Free: reserve.Rate(free) * reserve.Mbit})
	}
	got, err := d.reserve(ctx, &e, asked)
	if err != nil {
		return d.notHeld(ctx, e, err)
	}
	if err := compare(asked, got, d.cfg.Now()); err != nil {
		return d.notHeld(ctx, e, fmt.Errorf("%w: %w", reserve.ErrRefused, err))
	}
	d.fillIn(&e, got)
	e.held, e.grant.State = d.cfg.Now(), reserve.Held
	d.book.put(e, false)
	return e.grant, nil
}

// reserve asks for a new circuit; e gets its handle as soon as it is known.
func (d *Driver) reserve(ctx context.Context, e *entry, asked cs.Criteria) (cs.Criteria, error) {
	m := cs.Message{Op: cs.Reserve, Global: "urn:uuid:" + uuid(e.grant.ID.Reservation), Description: tag(d.cfg.Self, e.grant.ID), Criteria: &asked}
	var got cs.Criteria
	err := d.ask(ctx, m, func(handle string) {
		e.grant.Handle = handle
		d.book.put(*e, false)
	}, func(t told) (bool, error) {
		if t.m != nil && t.m.Op == cs.ReserveConfirmed {
			got = *t.m.Criteria
			return true, nil
		}
		if t.q != nil {
			return heldBy(t.q, &got)
		}
		return false, nil
	})
	return got, err
}

// heldBy looks in the answer to a query whether a reserve has come to its end.
func heldBy(q *cs.Reservation, got *cs.Criteria) (bool, error) {
	switch {
	case q.States.Reservation == cs.StateChecking:
		return false, nil
	case q.States.Reservation != cs.StateHeld:
		return false, fmt.Errorf("nsi: %w: the provider says %s", reserve.ErrRefused, q.States.Reservation)
	case len(q.Criteria) > 0:
		*got = q.Criteria[len(q.Criteria)-1]
	}
	return true, nil
}

// notHeld cleans up after a Hold that has failed. What was refused, or isn't what was asked for,
// is terminated, and nothing is known of it any more if that works; where the outcome isn't known
// it stays in the book, as the provider may hold it.
func (d *Driver) notHeld(ctx context.Context, e entry, err error) (reserve.Grant, error) {
	if !denied(err) {
		e.grant.State, e.grant.Reason = reserve.Unknown, err.Error()
		d.book.put(e, false)
		return e.grant, fmt.Errorf("nsi: hold: %w", err)
	}
	if e.grant.Handle != "" {
		if bad := d.terminate(ctx, e.grant); bad != nil {
			e.grant.State, e.grant.Reason = reserve.Orphan, bad.Error()
			d.book.put(e, true) // the agent learns of it by Events and List
			return e.grant, err
		}
	}
	d.book.leave(e.grant.ID)
	return reserve.Grant{}, err
}

// denied says that the provider, or we for it, has said no: the outcome is known.
func denied(err error) bool {
	for _, e := range []error{reserve.ErrRefused, reserve.ErrFull, reserve.ErrUnsupported, reserve.ErrGone} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
