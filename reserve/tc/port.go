//go:build linux

package tc

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"farlan/overlay"
	"farlan/reserve"
)

// A port is an interface that this driver has, with its lock, and the grants there.
type port struct {
	link   // name is that of the handles, even if somebody renames the interface
	kernel *kernel
	lock   lock
	rate   reserve.Rate // what the classes in the kernel were made for
	shaped line         // of the classes in the kernel; zero: there are none
	// classes are all grants by number, those that are only held too: maxClasses at most.
	classes map[uint16]*class
}

// A class is a grant.
type class struct {
	id      reserve.ID // zero: found, and not taken over yet
	minor   uint16
	state   reserve.State // Held, Committed, Active or Lost
	granted reserve.Rate
	share   reserve.Rate // of it, that its class in the kernel was made for
	end     overlay.Instant
	found   overlay.Instant // of a class without an end: the first Reap since
	via     netip.Addr      // to which its packets go; the zero Addr if that isn't known
	made    bool            // there is a class in the kernel
	counted counted
	told    reserve.Grant // what a call answered or Events told last
}

// over says that a class is to be taken away.
func (c *class) over(now overlay.Instant) bool {
	if c.end != 0 {
		return !now.Before(c.end)
	}
	if c.found == 0 {
		c.found = now
	}
	if c.id != (reserve.ID{}) {
		return now.Sub(c.found) >= endlessTime
	}
	return now.Sub(c.found) >= adoptTime
}

// sorted returns the grants by number.
func (p *port) sorted() []*class {
	return slices.SortedFunc(maps.Values(p.classes), func(a, b *class) int { return int(a.minor) - int(b.minor) })
}

// budget returns what is granted, but for class c's part.
func (p *port) budget(c *class) reserve.Budget {
	b := reserve.Budget{Rate: p.rate}
	for _, o := range p.classes {
		if o != c {
			b.Granted += o.granted
		}
	}
	return b
}

// line returns what shapes depend on now.
func (p *port) line() line { return line{p.rate, p.mtu, p.header, p.budget(nil).Rest()} }

// look returns what the kernel has there.
func (p *port) look() (view, error) { return p.kernel.look(p.index) }

// takeOver makes grants of the classes that are there and that nobody knows.
func (p *port) takeOver(v view) {
	if p.rate == 0 { // until it is known: what the last one thought
		p.rate = p.line().packets(v.ceil)
	}
	for m, s := range v.classes {
		if p.classes[m] == nil {
			r := p.line().packets(s.rate)
			p.classes[m] = &class{minor: m, state: reserve.Committed, granted: r, share: r, made: true}
		}
	}
}

// make puts class c into the kernel, and what it needs above. If that fails nothing of it is
// left, as far as the kernel lets.
func (p *port) make(c *class) error {
	v, err := p.look()
	if err != nil {
		return err
	}
	if err = v.root.foreign(p.name); err == nil && !v.root.ours {
		p.shaped = line{}
		err = p.kernel.addRoot(p.link)
	}
	if err == nil {
		c.made = true
		err = p.shape(c)
	}
	if err != nil {
		return errors.Join(err, p.unmake(c))
	}
	return nil
}

// unmake takes class c out of the kernel, and the root with the last one.
func (p *port) unmake(c *class) error {
	if !c.made {
		return nil
	}
	if v, err := p.look(); err == nil {
		c.counted.add(p.header, v.classes[c.minor])
	}
	last := true
	for _, o := range p.classes {
		last = last && (o == c || !o.made)
	}
	remove := func() error { return p.kernel.removeClass(p.link, c.minor) }
	if last {
		remove = func() error { return p.kernel.removeRoot(p.link) }
	}
	if err := remove(); err != nil {
		return err
	}
	if last {
		p.shaped = line{}
	}
	c.made = false
	c.counted.restart()
	return nil
}

// clear takes all away and frees the interface.
func (p *port) clear() error {
	if err := p.kernel.removeRoot(p.link); err != nil {
		return err
	}
	p.lock.free()
	return nil
}

// shape makes the classes in the kernel what they should be, fresh whatever it is now. They
// share what may be granted.
func (p *port) shape(fresh *class) error {
	b, l := p.budget(nil), p.line()
	all := p.sorted()
	if !slices.ContainsFunc(all, func(c *class) bool { return c.made }) {
		return nil
	}
	changed := l != p.shaped
	if changed {
		if err := p.frame(l); err != nil {
			return err
		}
	}
	for _, c := range all {
		share := b.Share(c.granted)
		if !c.made || c != fresh && !changed && share == c.share {
			continue
		}
		if err := p.set(c.minor, l.shape(share, grantBurst)); err != nil {
			return err
		}
		c.share = share
	}
	p.shaped = l
	return nil
}

// frame makes the classes that there are besides the grants', or changes them.
func (p *port) frame(l line) error {
	all, urgent, rest := l.fixed()
	if err := p.kernel.setClass(p.link, rootMinor, 0, all); err != nil {
		return err
	}
	if err := p.set(urgentMinor, urgent); err != nil {
		return err
	}
	return p.set(restMinor, rest)
}

// set makes a class below the root's, or changes it, with its queue.
func (p *port) set(minor uint16, s shape) error {
	if err := p.kernel.setClass(p.link, minor, rootMinor, s); err != nil {
		return err
	}
	return p.kernel.setLeaf(p.link, minor, s)
}

// counted is what has passed a class, though the kernel's counters are short, and begin anew
// with each class.
type counted struct {
	total reserve.Usage
	last  seen
}

// add adds what has passed since the last time; header bytes of each packet aren't IP's.
func (c *counted) add(header int, s seen) {
	if s.bytes < c.last.bytes || s.dropped < c.last.dropped {
		c.last = seen{}
	}
	packets := uint64(s.packets - c.last.packets) // it wraps
	bytes := s.bytes - c.last.bytes
	c.total.Packets += packets
	c.total.Bytes += bytes - min(uint64(header)*packets, bytes)
	c.total.Dropped += uint64(s.dropped - c.last.dropped)
	c.total.Backlog = uint64(s.backlog)
	c.last = s
}

// restart says that the kernel counts from 0 again.
func (c *counted) restart() { c.last, c.total.Backlog = seen{}, 0 }
