//go:build linux

// Package tc reserves on this host's own way out: a class of the kernel's hierarchical token
// bucket (HTB) for each grant, by netlink. It gives guarantees: a grant's packets leave at its
// rate at least, whatever else wants to leave, and at more while others leave it.
//
//	7fa1:    HTB, the interface's root while there is a committed grant
//	└ 7fa1:1    what the way out carries (R)
//	  ├ 7fa1:2    all that isn't reserved: 0.15 R at least (see reserve.Budget), R at most
//	  ├ 7fa1:3    of that, what agents and people wait for (AF21): 0.05 R at least and before
//	  │           all others, R/2 at most
//	  ├ 7fa1:10…  a grant each: its rate at least, R at most
//	  └ …
//
// What one class leaves is lent to those that want more in equal parts, so that a reservation
// never makes slower who has it. Each class keeps its queue short: fq_codel where the kernel
// has it, or else a queue of bounded bytes.
//
// Packets get into a class by their sockets' SO_PRIORITY, which is the class's number
// (Mark.Priority); only what is urgent needs a filter, since all sockets of an agent have one port
// and would have one place in a fair queue. A socket may set one above 6 only with CAP_NET_ADMIN,
// which this driver needs anyway. What is marked for a class that isn't there goes with the rest.
//
// # What is held where
//
// Hold keeps room in this process and changes nothing in the kernel; its handle is settled
// already ("eth0 7fa1:2b"). Commit makes the class, so it is there that the kernel may refuse,
// and the mark is told from Activate on. Deactivate removes the class and keeps the room. So a
// crash leaves what was committed and nothing else, and the kernel lists it: the root tells that
// it is ours by its number, its default class and a divisor that nobody else uses. A class has
// no room for an ID or an end; List returns what a dead agent left without them, and a call with
// a handle and an ID takes such a class over for that ID. What nobody has taken over
// adoptTime after the first Reap that saw it is taken away by a later one.
//
// One agent has an interface at a time, by an abstract socket in the network namespace that
// dies with its process; another's Hold is refused meanwhile, and takes over afterwards. The
// interface is as it was before once the last grant is gone.
//
// # Limits
//
// The rate must be known, configured or measured, and while there are grants nothing leaves the
// interface faster than that: one that is too low slows the host, one that is too high leaves
// the queue to the modem, where no guarantee holds. Rates count IP packets; HTB counts link
// layer headers too, so classes get as much more as full packets need. The rate is the whole
// interface's, with all its transmit queues under one lock. A multipath route's other ways are
// not reserved. A root that somebody else has put there, and a port of Open vSwitch, which
// removes what it doesn't know, are refused; one that only user space switches can't be told.
//
// A Driver is safe for concurrent use. It starts no goroutines.
package tc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const (
	// adoptTime is how long a class that was found waits for whoever knows it: the journal is
	// compared with what is there once at the start and each minute.
	adoptTime = 30 * time.Second
	// endlessTime is how long one is kept that was taken over by somebody who doesn't know its
	// end: as long as leases are as a rule.
	endlessTime = 10 * time.Minute
	// maxClasses bounds the grants of one interface; more are refused as when it is full.
	maxClasses = 1024
)

// A Config says how fast interfaces are, in IP packets.
type Config struct {
	Rate  reserve.Rate            // of each that isn't in Rates; 0: not known
	Rates map[string]reserve.Rate // by the interface's name
}

// A Driver reserves on the interfaces of the network namespace that it was opened in.
type Driver struct {
	mu     sync.Mutex
	kernel *kernel
	config Config
	ports  map[int]*port   // by the interface's index; each holds its lock
	now    overlay.Instant // of the last Reap,
	reaped time.Time       // and when that was by this package's clock
}

var _ reserve.Driver = (*Driver)(nil)

// Open returns a driver, which has taken over what a dead agent left. It is to be closed. An
// error wraps reserve.ErrUnsupported if this process or kernel can't.
func Open(c Config) (*Driver, error) {
	k, err := openKernel()
	if err != nil {
		return nil, fmt.Errorf("tc: %w", err)
	}
	d := &Driver{kernel: k, config: Config{c.Rate, maps.Clone(c.Rates)}, ports: make(map[int]*port)}
	if err := d.scan(); err != nil {
		for _, p := range d.ports { // what is there stays: the journal may know it
			p.lock.free()
		}
		k.close()
		return nil, fmt.Errorf("tc: look for what is there: %w", err)
	}
	return d, nil
}

// Close takes away all that the driver has reserved and frees the interfaces.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, p := range d.sorted() {
		if err := p.clear(); err != nil {
			errs = append(errs, err)
		}
		delete(d.ports, p.index)
	}
	d.kernel.close()
	return errors.Join(errs...)
}

// SetRate says how much interface device carries from now on, in IP packets, as configured or
// measured; "" means all that Config.Rates didn't name. 0 means that it isn't known: no more is
// granted then, and what is granted stays. When more is granted than a new rate allows, all
// grants of the interface shrink alike until that changes, and Events tells.
func (d *Driver) SetRate(device string, rate reserve.Rate) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if device == "" {
		d.config.Rate = rate
	} else {
		if d.config.Rates == nil {
			d.config.Rates = make(map[string]reserve.Rate)
		}
		d.config.Rates[device] = rate
	}
	var errs []error
	for _, p := range d.sorted() {
		if r := d.rateOf(p.name); r != p.rate && r != 0 {
			p.rate = r
			errs = append(errs, p.shape(nil))
		}
	}
	return errors.Join(errs...)
}

// rateOf returns how much an interface carries, or 0.
func (d *Driver) rateOf(device string) reserve.Rate {
	if r, ok := d.config.Rates[device]; ok {
		return r
	}
	return d.config.Rate
}

// sorted returns the interfaces that are this driver's.
func (d *Driver) sorted() []*port {
	return slices.SortedFunc(maps.Values(d.ports), func(a, b *port) int { return a.index - b.index })
}

// Caps returns what the driver can do.
func (d *Driver) Caps() reserve.Caps {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := reserve.Caps{Name: "tc", Kinds: []reserve.Kind{reserve.Guarantee}, Modify: true}
	if len(d.config.Rates) == 0 {
		c.Most = reserve.Budget{Rate: d.config.Rate}.Most()
	}
	return c
}

// past says whether an instant has passed; none has before the first Reap, but the zero one.
func (d *Driver) past(t overlay.Instant) bool {
	if d.now == 0 {
		return t <= 0
	}
	return !d.now.Add(time.Since(d.reaped)).Before(t)
}

// Reap takes away what ended before now, and what nobody took over.
func (d *Driver) Reap(_ context.Context, now overlay.Instant) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now, d.reaped = now, time.Now()
	errs := []error{d.scan()}
	for _, p := range d.sorted() {
		for _, c := range p.sorted() {
			if c.over(now) {
				errs = append(errs, d.remove(p, c))
			}
		}
	}
	return errors.Join(errs...)
}

// scan takes over what agents that are dead left, and looks what is there of this driver's.
func (d *Driver) scan() error {
	roots, err := d.kernel.ours()
	if err != nil {
		return err
	}
	var errs []error
	for _, index := range roots {
		if d.ports[index] == nil {
			if _, err := d.open(index); err != nil && !errors.Is(err, reserve.ErrForeign) && !errors.Is(err, reserve.ErrGone) {
				errs = append(errs, err)
			}
		}
	}
	for _, p := range d.sorted() {
		errs = append(errs, d.tidy(p))
	}
	return errors.Join(errs...)
}

// open takes interface index and what is left there: its error wraps ErrForeign if it is
// somebody else's.
func (d *Driver) open(index int) (*port, error) {
	p, err := d.peek(index)
	if err == nil {
		d.ports[index] = p
	}
	return p, err
}

// peek is open, but the driver doesn't have it yet, and the lock is to be freed.
func (d *Driver) peek(index int) (*port, error) {
	l, err := d.kernel.link(index)
	if err == nil {
		err = l.refused()
	}
	if err != nil {
		return nil, err
	}
	lock, err := lockPort(index, l.name)
	if err != nil {
		return nil, err
	}
	p := &port{link: l, kernel: d.kernel, lock: lock, rate: d.rateOf(l.name), classes: make(map[uint16]*class)}
	v, err := p.look()
	if err == nil {
		err = v.root.foreign(l.name)
	}
	if err != nil {
		lock.free()
		return nil, err
	}
	p.takeOver(v)
	return p, nil
}

// tidy gives an interface back that has no grants, or isn't there any more.
func (d *Driver) tidy(p *port) error {
	if len(p.classes) > 0 {
		return nil
	}
	if err := p.clear(); err != nil {
		return err
	}
	delete(d.ports, p.index)
	return nil
}

// remove takes a class away, and the interface's root with the last one.
func (d *Driver) remove(p *port, c *class) error {
	if err := p.unmake(c); err != nil {
		return err
	}
	delete(p.classes, c.minor)
	if len(p.classes) > 0 {
		return p.shape(nil)
	}
	return d.tidy(p)
}
