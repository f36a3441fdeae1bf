//go:build linux

// Package ovs reserves queues on a port of Open vSwitch, by its database (OVSDB, RFC 7047) on its
// Unix socket: what tc does for a host whose way out is a port of a switch, which deletes
// queueing disciplines that it doesn't know.
//
// # Rows
//
// A grant is a row of the table Queue. Once it is active, a row of the table QoS, one for the port, of type
// linux-htb, holds it under its number. Both are tagged in external_ids:
// owner=farlan, farlan-agent, farlan-port, and on the queue farlan-id, farlan-state,
// farlan-kbit, farlan-queue, farlan-for and farlan-end, so that List finds them without a
// journal and an operator sees what they are (ovs-vsctl list Queue). What is only held or
// committed is a queue that no QoS row has: the switch does nothing about it.
//
// Each change is one transaction: wait operations that compare the port's QoS and the versions of
// all rows tagged farlan with what was seen, so that neither a row changed nor one came since,
// and then the change. If they don't hold, nothing is done, and it's all looked at again. An
// OVSDB lock on top would add nothing but somebody to wait for.
//
// A port has one QoS row. One that isn't ours is somebody else's, and so is the port if another
// agent's queues are for it: reserve.ErrForeign says whose. Rows are taken away when they are
// released, when their end has passed (Reap), and those of another agent when their end passed
// two minutes ago, since that agent, by the same machine's clock, would have done so itself.
//
// # Rates, and how packets get there
//
// A queue's min-rate is the grant's. It has priority 1, behind the default queue's 0, so that
// beyond its rate it gets what the others leave. The port's max-rate is its configured capacity.
//
// linux-htb makes queue N the class 1:(N+1) of the port's interface (in hexadecimal), and HTB
// takes packets whose priority is a class's number to that class. The switch's kernel datapath
// keeps the priority that a packet arrived with unless a flow says set_queue. So a socket with
// Mark.Priority set (SO_PRIORITY, which needs CAP_NET_ADMIN) reaches its queue without any
// OpenFlow rule if it sends through the bridge's own interface ("br0"): a veth pair between the
// agent and the bridge takes the priority off. In that case a rule must do it,
//
//	ovs-ofctl add-flow BRIDGE 'udp,tp_src=PORT,ip_dscp=46,actions=set_queue:N,normal'
//
// which this package leaves to the operator, since flow tables have owners, too.
//
// Measured on the classes that Open vSwitch 3.1 makes of such rows (100 Mbit/s, a queue of 60, beside
// 8 TCP flows), with a socket that sends by the port's own interface: 55.0 of 55 Mbit/s arrive
// with the mark, without loss, and 15 without it. What the kernel datapath does in between, as
// described above, is its documentation's and source's word, and not measured here.
//
// The user-space datapath (datapath_type=netdev) makes the classes, but a packet's priority
// doesn't survive it and set_queue does nothing. So rates are proven with the kernel datapath
// only, and a grant on a bridge of another kind is never Up. Up means: the bridge has the kernel
// datapath, and the class is there in the kernel with its rate. A port whose interface has another
// name (a bond) or is in another network namespace is never Up, either.
//
// # Why no library
//
// ovn-org/libovsdb has 11,500 lines of client and cache that starts goroutines of its own,
// models that are generated from the schema, and a module graph with Docker's for its tests.
// What is needed here, five kinds of operations on three tables, one connection per call, is a
// fifth of that with nothing to clean up.
package ovs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const (
	// DefaultSocket is where Debian's and most others' database listens.
	DefaultSocket = "/var/run/openvswitch/db.sock"

	maxQueue = 64 // grants at once on a port; linux-htb knows 61,440
	maxOwner = 64 // bytes
	tries    = 8  // of a transaction while others change the same rows

	// abandoned is how long after its end another agent's row is left to it. It reaps its own
	// each minute.
	abandoned = 2 * time.Minute
)

// A Config says which port is meant. All but Socket and Now must be given.
type Config struct {
	Socket   string // of the database; DefaultSocket if empty
	Port     string // the switch's port by which this agent's packets leave
	Capacity reserve.Rate
	// Reservable is what all grants together may take; 0 means 0.7 of Capacity.
	Reservable reserve.Rate
	Agent      overlay.AgentID
	Now        func() overlay.Instant // nil means the wall clock
}

// A Driver is a reserve.Driver of one port. It holds nothing between calls, neither connection
// nor goroutine, so it may be used concurrently and minds no restart of the database.
type Driver struct {
	cfg   Config
	agent string
}

// New returns the driver. It doesn't ask the database yet, which may come up later.
func New(c Config) (*Driver, error) {
	if c.Socket == "" {
		c.Socket = DefaultSocket
	}
	if c.Now == nil {
		c.Now = func() overlay.Instant { return overlay.Instant(time.Now().UnixNano()) }
	}
	if c.Reservable == 0 {
		c.Reservable = reserve.Access{Up: c.Capacity}.Reservable().Up
	}
	var wrong []error
	if c.Port == "" {
		wrong = append(wrong, errors.New("ovs: which port of the switch? None is named"))
	}
	if c.Capacity <= 0 {
		wrong = append(wrong, errors.New("ovs: the port's capacity must be given: the switch needs it to share it out"))
	}
	if c.Reservable < 0 || c.Reservable > c.Capacity {
		wrong = append(wrong, fmt.Errorf("ovs: %v reservable of %v", c.Reservable, c.Capacity))
	}
	if c.Agent == (overlay.AgentID{}) {
		wrong = append(wrong, errors.New("ovs: no agent is named"))
	}
	return &Driver{c, c.Agent.String()}, errors.Join(wrong...)
}

// Caps says what queues can do. It is off unless it is configured: the switch may have another
// master.
func (d *Driver) Caps() reserve.Caps {
	return reserve.Caps{Name: "ovs", Kinds: []reserve.Kind{reserve.Guarantee}, External: true, Modify: true, Setup: 1, Most: d.cfg.Reservable}
}

// Offer says what is free on the port.
func (d *Driver) Offer(ctx context.Context, w reserve.Want) (reserve.Offer, error) {
	if err := d.check(w); err != nil {
		return reserve.Offer{}, err
	}
	p, err := d.picture(ctx)
	if err != nil {
		return reserve.Offer{}, err
	}
	if err := d.foreign(p); err != nil {
		return reserve.Offer{}, err
	}
	free := d.free(p, "")
	if free <= 0 {
		return reserve.Offer{}, reserve.Refusal{Free: 0}
	}
	return reserve.Offer{Kind: reserve.Guarantee, Rate: min(free, w.Rate), Free: free}, nil
}

// Hold writes the queue's row, which no QoS row refers to yet.
func (d *Driver) Hold(ctx context.Context, w reserve.Want) (reserve.Grant, error) {
	if err := d.check(w); err != nil {
		return reserve.Grant{}, err
	}
	if err := d.Reap(ctx, d.cfg.Now()); err != nil {
		return reserve.Grant{}, err
	}
	g := reserve.Grant{ID: w.ID}
	err := d.change(ctx, func(p picture) ([]op, error) {
		if _, ok := d.find(p, g); ok {
			return nil, nil
		}
		if err := d.foreign(p); err != nil {
			return nil, err
		}
		if free := d.free(p, ""); free < w.Rate {
			return nil, reserve.Refusal{Free: max(free, 0)}
		}
		return d.insert(p, w)
	})
	if err != nil {
		return reserve.Grant{}, err
	}
	return d.done(ctx, g)
}

// Commit marks the row. Until it is activated the switch does nothing about it.
func (d *Driver) Commit(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.update(ctx, g, func(p picture, q queueRow) ([]op, error) {
		if q.state() != reserve.Held {
			return nil, nil
		}
		return []op{q.tag(dict{tagState: reserve.Committed.String()})}, nil
	})
}

// Abort takes the row away, as Release does.
func (d *Driver) Abort(ctx context.Context, g reserve.Grant) error { return d.Release(ctx, g) }

// Activate gives the queue to the port's QoS row, which it makes if it is the first one. It waits
// up to a second for the switch to apply that; if that takes longer, Status tells when.
func (d *Driver) Activate(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	g, err := d.update(ctx, g, d.attach)
	if err != nil {
		return g, err
	}
	return d.settle(ctx, g)
}

// settle waits until the switch has applied a change.
func (d *Driver) settle(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	var err error
	for i := 0; i < 50 && err == nil && g.State == reserve.Activating && g.Reason == ""; i++ {
		select {
		case <-ctx.Done():
			return g, nil
		case <-time.After(20 * time.Millisecond):
		}
		g, err = d.done(ctx, g)
	}
	return g, err
}

// Deactivate takes the queue off the port again; its row and its room stay.
func (d *Driver) Deactivate(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.update(ctx, g, func(p picture, q queueRow) ([]op, error) {
		if _, ok := p.at(q); !ok && q.state() != reserve.Active {
			return nil, nil
		}
		return append(p.detach(q), q.tag(dict{tagState: reserve.Committed.String()})), nil
	})
}

// Modify changes the queue's rate, which the switch applies to the class in place.
func (d *Driver) Modify(ctx context.Context, g reserve.Grant, rate reserve.Rate) (reserve.Grant, error) {
	if rate <= 0 {
		return g, fmt.Errorf("ovs: %w: a rate of %v", reserve.ErrRefused, rate)
	}
	g, err := d.update(ctx, g, func(p picture, q queueRow) ([]op, error) {
		if free := d.free(p, q.UUID); free < rate {
			return nil, reserve.Refusal{Free: max(free, 0)}
		}
		o := q.tag(dict{tagKbit: strconv.FormatInt(int64(rate), 10)})
		o["row"].(op)["other_config"] = htb(rate)
		return []op{o}, nil
	})
	if err != nil {
		return g, err
	}
	return d.settle(ctx, g)
}

// Renew moves the end.
func (d *Driver) Renew(ctx context.Context, g reserve.Grant, end overlay.Instant) (reserve.Grant, error) {
	if err := d.inTime(end); err != nil {
		return g, err
	}
	return d.update(ctx, g, func(_ picture, q queueRow) ([]op, error) {
		return []op{q.tag(dict{tagEnd: stamp(end)})}, nil
	})
}

// Release takes the queue off the port and its row away, and the QoS row if that was the last.
func (d *Driver) Release(ctx context.Context, g reserve.Grant) error {
	return d.change(ctx, func(p picture) ([]op, error) {
		q, ok := d.find(p, g)
		if !ok {
			return nil, gone(g)
		}
		return p.remove([]queueRow{q}, d.agent), nil
	})
}

// Status tells what the database and the kernel have of a grant.
func (d *Driver) Status(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	c, err := dial(ctx, d.cfg.Socket)
	if err != nil {
		return g, err
	}
	defer c.close()
	p, err := look(ctx, c, d.cfg.Port)
	if err != nil {
		return g, fmt.Errorf("ovs: %w: %w", reserve.ErrUnreachable, err)
	}
	q, ok := d.find(p, g)
	if !ok {
		return g, gone(g)
	}
	return d.grant(ctx, c, p, q)
}

// List returns all grants of this agent, for whichever port it had them.
func (d *Driver) List(ctx context.Context) ([]reserve.Grant, error) {
	c, err := dial(ctx, d.cfg.Socket)
	if err != nil {
		return nil, err
	}
	defer c.close()
	p, err := look(ctx, c, d.cfg.Port)
	if err != nil {
		return nil, fmt.Errorf("ovs: %w: %w", reserve.ErrUnreachable, err)
	}
	var all []reserve.Grant
	for _, q := range p.queues {
		if q.agent() != d.agent {
			continue
		}
		g, err := d.grant(ctx, c, p, q)
		if err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, nil
}

// Reap takes away what ended, what another agent left two minutes after its end, and QoS rows of
// agents that have no queue any more: all at once, or, where somebody's rows refer to one of them, each by
// itself.
func (d *Driver) Reap(ctx context.Context, now overlay.Instant) error {
	var over []queueRow
	err := d.change(ctx, func(p picture) ([]op, error) {
		over = over[:0]
		for _, q := range p.queues {
			late := now.Sub(q.end())
			if late >= 0 && (q.agent() == d.agent || late >= abandoned) {
				over = append(over, q)
			}
		}
		return p.remove(over, d.agent), nil
	})
	if !errors.Is(err, reserve.ErrForeign) || len(over) < 2 {
		return err
	}
	var stuck []error
	for _, q := range over {
		stuck = append(stuck, d.change(ctx, func(p picture) ([]op, error) {
			if !slices.ContainsFunc(p.queues, func(r queueRow) bool { return r.UUID == q.UUID && r.Version == q.Version }) {
				return nil, nil // it was renewed, or is gone
			}
			return p.remove([]queueRow{q}, ""), nil
		}))
	}
	return errors.Join(stuck...)
}
