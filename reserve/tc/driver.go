//go:build linux

package tc

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"farlan/overlay"
	"farlan/reserve"
)

// Offer says what Hold would grant now.
func (d *Driver) Offer(_ context.Context, w reserve.Want) (reserve.Offer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.sensible(w); err != nil {
		return reserve.Offer{}, err
	}
	index, err := d.kernel.wayTo(w.Via.Addr())
	if err != nil {
		return reserve.Offer{}, fmt.Errorf("tc: %w", err)
	}
	p := d.ports[index]
	if p == nil {
		if p, err = d.peek(index); err != nil {
			return reserve.Offer{}, fmt.Errorf("tc: %w", err)
		}
		defer p.lock.free()
	}
	if err := d.measured(p.name); err != nil {
		return reserve.Offer{}, err
	}
	free := p.budget(nil).Free()
	return reserve.Offer{Kind: reserve.Guarantee, Rate: min(w.Rate, free), Free: free}, nil
}

// sensible answers whether a want is one that this driver could grant at all.
func (d *Driver) sensible(w reserve.Want) error {
	switch {
	case w.Kind == reserve.Circuit:
		return fmt.Errorf("tc: %w: a class of a queue is no circuit", reserve.ErrUnsupported)
	case !w.Via.Addr().IsValid():
		return fmt.Errorf("tc: %w: the address by which %s is reached isn't known", reserve.ErrRefused, w.To.Short())
	case w.ID == reserve.ID{}:
		return fmt.Errorf("tc: %w: a grant needs an ID", reserve.ErrRefused)
	case d.past(w.End):
		return fmt.Errorf("tc: %w: its end has passed", reserve.ErrRefused)
	}
	return nil
}

// measured answers whether it is known what an interface carries.
func (d *Driver) measured(device string) error {
	if d.rateOf(device) == 0 {
		return fmt.Errorf("tc: %w: it isn't known what %s carries: configure or measure its rate", reserve.ErrUnsupported, device)
	}
	return nil
}

// Hold keeps room at the interface by which packets to w.Via leave.
func (d *Driver) Hold(_ context.Context, w reserve.Want) (reserve.Grant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, c := d.byID(w.ID); c != nil {
		return d.status(p, c)
	}
	if err := d.sensible(w); err != nil {
		return reserve.Grant{}, err
	}
	index, err := d.kernel.wayTo(w.Via.Addr())
	if err != nil {
		return reserve.Grant{}, fmt.Errorf("tc: %w", err)
	}
	p := d.ports[index]
	if p == nil {
		if p, err = d.open(index); err != nil {
			return reserve.Grant{}, fmt.Errorf("tc: %w", err)
		}
	}
	var c *class
	if err = d.measured(p.name); err == nil {
		c, err = p.hold(w)
	}
	if err != nil {
		return reserve.Grant{}, errors.Join(err, d.tidy(p))
	}
	return d.status(p, c)
}

// hold admits a want.
func (p *port) hold(w reserve.Want) (*class, error) {
	v, err := p.look()
	if err != nil {
		return nil, err
	}
	if err := v.root.foreign(p.name); err != nil { // it has come since
		return nil, fmt.Errorf("tc: %w", err)
	}
	if len(p.classes) >= maxClasses {
		return nil, fmt.Errorf("tc: %w: %s has %d grants", reserve.ErrFull, p.name, maxClasses)
	}
	if err := p.budget(nil).Admit(w.Rate); err != nil {
		return nil, fmt.Errorf("tc: %s: %w", p.name, err)
	}
	c := &class{id: w.ID, minor: minorOf(w.ID, p.classes), state: reserve.Held, granted: w.Rate, share: w.Rate, end: w.End, via: w.Via.Addr()}
	p.classes[c.minor] = c
	return c, nil
}

// byID returns the grant of an ID, or nil.
func (d *Driver) byID(id reserve.ID) (*port, *class) {
	for _, p := range d.sorted() {
		for _, c := range p.classes {
			if c.id == id && id != (reserve.ID{}) {
				return p, c
			}
		}
	}
	return nil, nil
}

// known returns what g names, by its handle if it has one. What was found without an ID is
// taken over for g's.
func (d *Driver) known(g reserve.Grant) (*port, *class, error) {
	if p, c := d.byID(g.ID); c != nil {
		return p, c, nil
	}
	if device, minor, ok := parseHandle(g.Handle); ok {
		for _, p := range d.sorted() {
			c := p.classes[minor]
			if p.name != device || c == nil || c.id != (reserve.ID{}) {
				continue
			}
			if g.ID != (reserve.ID{}) {
				c.adopt(g)
			}
			return p, c, nil
		}
	}
	return nil, nil, fmt.Errorf("tc: %w: %s", reserve.ErrGone, g.Handle)
}

// adopt makes a class that was found grant g, which the journal knows.
func (c *class) adopt(g reserve.Grant) {
	c.id, c.end = g.ID, g.End
	if slices.Contains([]reserve.State{reserve.Activating, reserve.Active, reserve.Degraded}, g.State) {
		c.state = reserve.Active
	}
}

// Commit makes the grant's class.
func (d *Driver) Commit(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(p *port, c *class) error {
		if c.state == reserve.Held {
			if err := p.make(c); err != nil {
				return err
			}
			c.state = reserve.Committed
		}
		return nil
	})
}

// Activate tells the mark by which packets get into the grant's class.
func (d *Driver) Activate(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(p *port, c *class) error {
		if c.state != reserve.Committed {
			return wrongIn(c.state, reserve.Active)
		}
		if !c.made {
			if err := p.make(c); err != nil {
				return err
			}
		}
		c.state = reserve.Active
		return nil
	})
}

// Deactivate removes the grant's class, so that its packets go with the rest, and keeps the
// room. What waits there is dropped: its senders should have left before.
func (d *Driver) Deactivate(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(p *port, c *class) error {
		if c.state != reserve.Active {
			return wrongIn(c.state, reserve.Committed)
		}
		if err := p.unmake(c); err != nil {
			return err
		}
		c.state = reserve.Committed
		return nil
	})
}

// wrongIn answers a call that isn't for a state: nil if it has done its work already.
func wrongIn(s, done reserve.State) error {
	if s == done || s == reserve.Lost {
		return nil
	}
	return fmt.Errorf("%w: it is %v", reserve.ErrRefused, s)
}

// Modify changes the rate of the grant, and of its class in place.
func (d *Driver) Modify(_ context.Context, g reserve.Grant, rate reserve.Rate) (reserve.Grant, error) {
	return d.change(g, func(p *port, c *class) error {
		if c.state == reserve.Lost {
			return nil
		}
		if err := p.budget(c).Admit(rate); err != nil {
			return err
		}
		before := c.granted
		c.granted = rate
		if err := p.shape(nil); err != nil {
			c.granted = before
			return errors.Join(err, p.shape(c))
		}
		return nil
	})
}

// Renew changes the grant's end.
func (d *Driver) Renew(_ context.Context, g reserve.Grant, end overlay.Instant) (reserve.Grant, error) {
	return d.change(g, func(_ *port, c *class) error {
		if d.past(end) {
			return fmt.Errorf("%w: its end has passed", reserve.ErrRefused)
		}
		c.end = end
		return nil
	})
}

// change does what do does to the grant that g names, and returns what became of it.
func (d *Driver) change(g reserve.Grant, do func(*port, *class) error) (reserve.Grant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, c, err := d.known(g)
	if err != nil {
		return reserve.Grant{}, err
	}
	if err := do(p, c); err != nil {
		return reserve.Grant{}, fmt.Errorf("tc: %s: %w", p.name, err)
	}
	return d.status(p, c)
}

// Abort is Release.
func (d *Driver) Abort(ctx context.Context, g reserve.Grant) error { return d.Release(ctx, g) }

// Release removes the grant and its class.
func (d *Driver) Release(_ context.Context, g reserve.Grant) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, c, err := d.known(g)
	if err != nil {
		return err
	}
	return d.remove(p, c)
}

// Status asks the kernel.
func (d *Driver) Status(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(*port, *class) error { return nil })
}

// List returns what is held in this process, and what is in the kernel.
func (d *Driver) List(context.Context) ([]reserve.Grant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.scan(); err != nil {
		return nil, fmt.Errorf("tc: %w", err)
	}
	var all []reserve.Grant
	for _, p := range d.sorted() {
		for _, c := range p.sorted() {
			g, err := d.status(p, c)
			if err != nil {
				return nil, err
			}
			all = append(all, g)
		}
	}
	return all, nil
}

// Usage returns what has passed the grant's class. Of what is dropped an aggregate that was to be
// segmented later counts as one packet.
func (d *Driver) Usage(_ context.Context, g reserve.Grant) (reserve.Usage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, c, err := d.known(g)
	if err != nil {
		return reserve.Usage{}, err
	}
	if !c.made {
		return c.counted.total, nil
	}
	v, err := p.look()
	if err != nil {
		return reserve.Usage{}, fmt.Errorf("tc: %w", err)
	}
	if s, ok := v.classes[c.minor]; ok {
		c.counted.add(p.header, s)
	}
	return c.counted.total, nil
}
