// Package dscp asks whatever is on the way to serve a grant's packets before others: by a
// differentiated services code point in each, and by a priority in this host's own queues. It
// needs no rights, and promises nothing: its grants are of kind Priority, whatever their rate,
// and nobody admits them. Networks may ignore, rewrite or police the code point.
//
// The priority is 6, the highest that needs no privilege and the only one that the kernel's
// ordinary queues (pfifo_fast, prio) serve before what has none.
//
// All that there is of a grant is the mark at the socket that its packets leave by, which the
// agent sets; so nothing of it outlives the process, and nothing has to be found or reaped but
// in this driver's memory.
package dscp

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const (
	priority = 6
	// maxGrants bounds the grants of a driver; more are refused as when it is full.
	maxGrants = 4096
)

// A Driver marks packets. It is safe for concurrent use.
type Driver struct {
	mu     sync.Mutex
	mark   reserve.Mark
	reason string
	grants map[reserve.ID]*reserve.Grant
	now    overlay.Instant // of the last Reap,
	reaped time.Time       // and when that was by this package's clock
}

var _ reserve.Driver = (*Driver)(nil)

// New returns a driver that marks with a code point, the zero one meaning Default.
func New(c CodePoint) *Driver {
	c = cmp.Or(c, Default)
	return &Driver{
		mark:   reserve.Mark{TOS: c.TOS(), Priority: priority},
		reason: fmt.Sprintf("marked %v, which hops may honour", c),
		grants: make(map[reserve.ID]*reserve.Grant),
	}
}

// Caps returns what the driver can do.
func (d *Driver) Caps() reserve.Caps {
	return reserve.Caps{Name: "dscp", Kinds: []reserve.Kind{reserve.Priority}, Modify: true}
}

// Offer offers what is wanted, if a priority will do: nothing of the rate is promised.
func (d *Driver) Offer(_ context.Context, w reserve.Want) (reserve.Offer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.sensible(w); err != nil {
		return reserve.Offer{}, err
	}
	return reserve.Offer{Kind: reserve.Priority, Rate: w.Rate, Free: w.Rate}, nil
}

// sensible answers whether a want is one that this driver could grant.
func (d *Driver) sensible(w reserve.Want) error {
	switch {
	case w.Kind != reserve.NoKind && w.Kind != reserve.Priority:
		return fmt.Errorf("dscp: %w: a mark is no %v", reserve.ErrUnsupported, w.Kind)
	case w.Rate <= 0:
		return fmt.Errorf("dscp: %w: %d kbit/s is no rate", reserve.ErrRefused, int64(w.Rate))
	case w.ID == reserve.ID{}:
		return fmt.Errorf("dscp: %w: a grant needs an ID", reserve.ErrRefused)
	case d.past(w.End):
		return fmt.Errorf("dscp: %w: its end has passed", reserve.ErrRefused)
	}
	return nil
}

// Hold remembers the want.
func (d *Driver) Hold(_ context.Context, w reserve.Want) (reserve.Grant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.grants[w.ID]; g != nil {
		return *g, nil
	}
	if err := d.sensible(w); err != nil {
		return reserve.Grant{}, err
	}
	if len(d.grants) >= maxGrants {
		return reserve.Grant{}, fmt.Errorf("dscp: %w: there are %d grants", reserve.ErrFull, maxGrants)
	}
	g := &reserve.Grant{
		ID: w.ID, Kind: reserve.Priority, State: reserve.Held, Rate: w.Rate, End: w.End,
		Handle: "dscp " + w.ID.String(), Reason: d.reason,
	}
	d.grants[w.ID] = g
	return *g, nil
}

// change does what do does to the grant that g names, if there is one and it hasn't ended.
func (d *Driver) change(g reserve.Grant, do func(*reserve.Grant) error) (reserve.Grant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	mine := d.grants[g.ID]
	if mine == nil {
		return reserve.Grant{}, fmt.Errorf("dscp: %w: %v", reserve.ErrGone, g.ID)
	}
	if err := do(mine); err != nil {
		return reserve.Grant{}, fmt.Errorf("dscp: %w", err)
	}
	return *mine, nil
}

// Commit makes the grant firm.
func (d *Driver) Commit(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) error {
		if g.State == reserve.Held {
			g.State = reserve.Committed
		}
		return nil
	})
}

// Activate tells the mark. The grant is up then, as nothing but the socket has a part in it.
func (d *Driver) Activate(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) error {
		if g.State != reserve.Committed && g.State != reserve.Active {
			return fmt.Errorf("%w: it is %v", reserve.ErrRefused, g.State)
		}
		g.State, g.Up, g.Mark = reserve.Active, true, d.mark
		return nil
	})
}

// Deactivate takes the mark back; packets that still carry it are served as before.
func (d *Driver) Deactivate(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) error {
		if g.State != reserve.Committed && g.State != reserve.Active {
			return fmt.Errorf("%w: it is %v", reserve.ErrRefused, g.State)
		}
		g.State, g.Up, g.Mark = reserve.Committed, false, reserve.Mark{}
		return nil
	})
}

// Modify changes the rate, of which nothing is promised.
func (d *Driver) Modify(_ context.Context, g reserve.Grant, rate reserve.Rate) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) error {
		if rate <= 0 {
			return fmt.Errorf("%w: %d kbit/s is no rate", reserve.ErrRefused, int64(rate))
		}
		g.Rate = rate
		return nil
	})
}

// Renew changes the end.
func (d *Driver) Renew(_ context.Context, g reserve.Grant, end overlay.Instant) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) error {
		if d.past(end) {
			return fmt.Errorf("%w: its end has passed", reserve.ErrRefused)
		}
		g.End = end
		return nil
	})
}

// Abort is Release.
func (d *Driver) Abort(ctx context.Context, g reserve.Grant) error { return d.Release(ctx, g) }

// Release forgets the grant.
func (d *Driver) Release(_ context.Context, g reserve.Grant) error {
	_, err := d.change(g, func(*reserve.Grant) error { delete(d.grants, g.ID); return nil })
	return err
}

// Status returns the grant.
func (d *Driver) Status(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(*reserve.Grant) error { return nil })
}

// List returns all grants, by handle.
func (d *Driver) List(context.Context) ([]reserve.Grant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]reserve.Grant, 0, len(d.grants))
	for _, g := range d.grants {
		all = append(all, *g)
	}
	slices.SortFunc(all, func(a, b reserve.Grant) int { return cmp.Compare(a.Handle, b.Handle) })
	return all, nil
}

// Usage isn't known: nothing counts what a mark does.
func (d *Driver) Usage(_ context.Context, g reserve.Grant) (reserve.Usage, error) {
	_, err := d.change(g, func(*reserve.Grant) error { return reserve.ErrUnsupported })
	return reserve.Usage{}, err
}

// Events has nothing to tell.
func (d *Driver) Events(ctx context.Context, _ func(reserve.Event)) error {
	<-ctx.Done()
	return nil
}

// past says whether an instant has passed; none has before the first Reap, but the zero one.
func (d *Driver) past(t overlay.Instant) bool {
	if d.now == 0 {
		return t <= 0
	}
	return !d.now.Add(time.Since(d.reaped)).Before(t)
}

// Reap forgets what ended before now.
func (d *Driver) Reap(_ context.Context, now overlay.Instant) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now, d.reaped = now, time.Now()
	for id, g := range d.grants {
		if !now.Before(g.End) {
			delete(d.grants, id)
		}
	}
	return nil
}
