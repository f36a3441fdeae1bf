//go:build linux

package tc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"farlan/reserve"
)

const (
	// lookEvery is how soon after a change the next look is: changes come in bursts, and
	// others may change their queues all the time.
	lookEvery = 200 * time.Millisecond
	// drainMost bounds what is read at once of what the kernel tells.
	drainMost = 1000
)

// Events looks what became of the grants whenever the kernel tells that an interface, a
// queueing discipline or a class has changed, by whomever, and tells of grants that aren't as
// they were. Deactivated and held ones don't change by themselves.
func (d *Driver) Events(ctx context.Context, tell func(reserve.Event)) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_TC)
	if err != nil {
		return fmt.Errorf("tc: hear of changes: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	for {
		for _, e := range d.news() {
			tell(e)
		}
		if err := wait(s); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the end was asked for
			}
			return fmt.Errorf("tc: hear of changes: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
		drain(s)
	}
}

// wait waits until the kernel tells of a change. That more was told than there is room for is
// one, too.
func wait(s *nl.NetlinkSocket) error {
	if err := s.SetReceiveTimeout(&unix.Timeval{}); err != nil {
		return err
	}
	if _, _, err := s.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	return nil
}

// drain reads what the kernel has told: all of it is one change.
func drain(s *nl.NetlinkSocket) {
	_ = s.SetReceiveTimeout(&unix.Timeval{Usec: 1})
	for range drainMost {
		if _, _, err := s.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

// news returns which grants aren't as they were told last.
func (d *Driver) news() []reserve.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	var news []reserve.Event
	for _, p := range d.sorted() {
		for _, c := range p.sorted() {
			before := c.told
			g, err := d.status(p, c)
			if err != nil || c.id == (reserve.ID{}) || before.State == reserve.Requested {
				continue // it couldn't be asked, is nobody's, or was never told of
			}
			if g.State != before.State || g.Up != before.Up || g.Rate != before.Rate || g.Reason != before.Reason {
				news = append(news, reserve.Event{ID: g.ID, Grant: g})
			}
		}
	}
	return news
}

// status asks the kernel what became of a grant, and says so.
func (d *Driver) status(p *port, c *class) (reserve.Grant, error) {
	if c.state == reserve.Lost {
		c.told.ID, c.told.End = c.id, c.end
		return c.told, nil
	}
	if !c.made {
		c.share = p.budget(nil).Share(c.granted)
	}
	f, err := d.facts(p, c)
	if err != nil {
		return reserve.Grant{}, fmt.Errorf("tc: %w", err)
	}
	state, up, reason := judge(c.state, f)
	if state == reserve.Lost {
		c.state, c.made, c.granted, c.share = reserve.Lost, false, 0, 0
		if f.root.ours {
			_ = p.shape(nil) // the others may have its room; the next look tells how it went
		}
	}
	g := reserve.Grant{
		ID: c.id, Kind: reserve.Guarantee, State: state, Rate: c.share, End: c.end, Up: up, Reason: reason,
		Handle: handleOf(p.name, c.minor),
	}
	if f.rate != f.want {
		g.Rate = p.line().packets(f.rate)
	}
	if c.state == reserve.Active {
		g.Mark = reserve.Mark{Priority: classID(c.minor)}
	}
	c.told = g
	return g, nil
}

// facts are what there is to know of a grant.
type facts struct {
	device  string
	there   bool   // the interface
	up      bool   // it works
	root    root   // what is at it
	made    bool   // its class should be in the kernel,
	class   bool   // and is
	rate    uint64 // the class's
	want    uint64 // what it was made for
	granted reserve.Rate
	share   reserve.Rate
	via     netip.Addr // where its packets go; the zero Addr if that isn't known
	here    bool       // they leave by this interface
}

// facts asks the kernel. It puts the classes right when the interface's MTU has changed.
func (d *Driver) facts(p *port, c *class) (f facts, err error) {
	f = facts{device: p.name, made: c.made, granted: c.granted, share: c.share, via: c.via}
	l, err := d.kernel.link(p.index)
	if errors.Is(err, reserve.ErrGone) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	l.name = p.name
	p.link, f.there, f.up = l, true, l.up
	v, err := p.look()
	if err != nil {
		return f, err
	}
	f.root = v.root
	if s, ok := v.classes[c.minor]; ok && c.made {
		if p.line() != p.shaped { // or a dead agent had come no further
			if err := p.shape(nil); err != nil {
				return f, err
			}
			return d.facts(p, c)
		}
		f.class, f.rate, f.want = true, s.rate, p.line().wire(c.share)
	}
	f.here = true
	if c.via.IsValid() && l.up {
		index, none := d.kernel.wayTo(c.via)
		f.here = none == nil && index == p.index
	}
	return f, nil
}

// judge says in which state a grant is of which this driver thinks that it is in state s.
func judge(s reserve.State, f facts) (state reserve.State, up bool, reason string) {
	foreign := f.root.foreign(f.device)
	switch {
	case !f.there:
		return reserve.Lost, false, f.device + " is gone"
	case !f.made:
		return s, false, ""
	case foreign != nil:
		return reserve.Lost, false, foreign.Error()
	case !f.class:
		return reserve.Lost, false, "somebody has removed its class from " + f.device
	case s != reserve.Active:
		return s, false, ""
	case !f.up:
		return reserve.Degraded, false, f.device + " is down"
	case !f.here:
		return reserve.Degraded, false, fmt.Sprintf("packets to %v don't leave by %s any more", f.via, f.device)
	case f.share < f.granted:
		return reserve.Degraded, true, fmt.Sprintf("%s carries less than it did: %v is left of %v", f.device, f.share, f.granted)
	case f.rate != f.want:
		return reserve.Degraded, true, "somebody has changed its class"
	}
	return reserve.Active, true, ""
}
