package segment

import (
	"slices"
	"time"

	"farlan/overlay"
)

// decide forgets who is gone, chooses whose lease to grant, and looks until when the own one
// lasts.
func (p *Port) decide(now overlay.Instant) {
	p.others = slices.DeleteFunc(p.others, func(o *other) bool { return now.Sub(o.heard) >= Promise })
	p.until = p.lease(now)
	if l := p.choose(now); l != p.leader {
		if p.leader == p.tag {
			p.hold = now.Add(p.patience)
		}
		p.leader, p.led = l, 0
		p.due = now
		for _, o := range p.others {
			if o.tag == l {
				p.promise = o.heard.Add(Promise)
			}
		}
		p.until = p.lease(now)
	}
	is := now.Before(p.until)
	if is {
		p.led = now
	}
	if is && !p.was {
		p.tookOver(now)
	}
	if is != p.was {
		p.due = now
	}
	p.was = is
}

// lease returns until when this port forwards, 0 if it doesn't.
func (p *Port) lease(now overlay.Instant) overlay.Instant {
	if p.leader != p.tag || !p.self.Able || p.self.Number == 0 {
		return 0
	}
	until := p.sent[p.self.Number%remembered].Add(Lease)
	for _, o := range p.others {
		switch {
		case now.Sub(o.heard) >= Silence || !o.Able:
		case !o.Forwarding && (o.Leader == 0 || o.Leader == p.tag) && now.Sub(o.since) < grace: // it keeps still longer
		case o.Leader != p.tag || o.Forwarding:
			return 0
		default:
			at, ok := p.sentAt(o.named)
			if !ok || !now.Before(at.Add(Lease)) {
				return 0
			}
			until = min(until, at.Add(Lease))
		}
	}
	if !now.Before(until) {
		return 0
	}
	return until
}

// leads says whether this port forwards, or did a moment ago and waits for grants.
func (p *Port) leads(now overlay.Instant) bool {
	return p.leader == p.tag && p.led != 0 && now.Sub(p.led) < Promise
}

// choose returns whose lease this port grants.
func (p *Port) choose(now overlay.Instant) Tag {
	if p.leader != 0 && p.leader != p.tag && now.Before(p.promise) && !p.released() {
		return p.leader
	}
	best := candidate{}
	if p.self.Able {
		best = candidate{p.tag, p.self.Name, p.leads(now), p.self.Useful}
	}
	for _, o := range p.others {
		c := candidate{o.tag, o.Name, o.Leads, o.Useful}
		if o.Able && now.Sub(o.heard) < Silence && c.better(best) {
			best = c
		}
	}
	if best.tag == p.tag && p.leader != p.tag && (now.Before(p.listening) || now.Before(p.hold)) {
		return 0
	}
	return best.tag
}

// released says whether the leader doesn't want the lease any more.
func (p *Port) released() bool {
	for _, o := range p.others {
		if o.tag == p.leader {
			return o.Leader != o.tag || !o.Able
		}
	}
	return false
}

type candidate struct {
	tag           Tag
	name          Name
	leads, useful bool
}

// better says whether c should lead rather than another one.
func (c candidate) better(than candidate) bool {
	switch {
	case than.tag == 0:
		return true
	case c.useful != than.useful:
		return c.useful
	case c.leads != than.leads:
		return c.leads
	}
	return c.name.Compare(than.name) < 0
}

// tookOver counts that this port leads. If that is too often, it doesn't for a while when
// another one does.
func (p *Port) tookOver(now overlay.Instant) {
	p.takeovers[p.taken%remembered] = now
	p.taken++
	often := 0
	for _, at := range p.takeovers {
		if at != 0 && now.Sub(at) < time.Minute {
			often++
		}
	}
	p.patience = 0
	if often >= calmTakeovers {
		p.patience = min(holdFirst<<min(often-calmTakeovers, 10), maxHold)
	}
}
