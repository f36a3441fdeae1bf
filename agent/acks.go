package agent

import (
	"math"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// acknowledge sends the acknowledgements that are due and didn't ride along.
func (in *inbound) acknowledge(now overlay.Instant, out *outgoing) {
	out.now = now
	kept := in.acking[:0]
	for _, s := range in.acking {
		s.mu.Lock()
		due := s.due(now)
		s.mu.Unlock()
		if due {
			s.peer.acking.Store(s)
			if out.begin(s.peer, overlay.ClassDelay) != nil {
				out.flush()
			}
		}
		s.mu.Lock()
		for i := range s.receivers {
			if s.receivers[i].Due(now) {
				s.receivers[i].Take(now) // if it couldn't be sent, nobody waits for it
			}
		}
		owed := s.next() != 0
		s.mu.Unlock()
		if owed {
			kept = append(kept, s)
		} else {
			s.owed.Store(false)
		}
	}
	in.acking = kept
}

// next returns when acknowledge wants to be called.
func (in *inbound) next(overlay.Instant) overlay.Instant {
	next := overlay.Instant(math.MaxInt64)
	for _, s := range in.acking {
		s.mu.Lock()
		if at := s.next(); at != 0 {
			next = min(next, at)
		}
		s.mu.Unlock()
	}
	return next
}

// next returns when an acknowledgement will be due, 0 if none will. s.mu is held.
func (s *inboundSession) next() (at overlay.Instant) {
	for i := range s.receivers {
		if t := s.receivers[i].Next(); t != 0 && (at == 0 || t < at) {
			at = t
		}
	}
	return at
}

// due says whether an acknowledgement is due. s.mu is held.
func (s *inboundSession) due(now overlay.Instant) bool {
	at := s.next()
	return at != 0 && at <= now
}

// ack packs the acknowledgements of the session that are due, or can ride along.
func (s *inboundSession) ack(n *node, now overlay.Instant, p *overlay.Packer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.receivers {
		r := &s.receivers[i]
		if rides := p.Open() && r.Rides(now); !rides && !r.Due(now) {
			continue
		}
		a := r.Take(now)
		a.Highest = overlay.Space(i).Counter(a.Highest)
		a.Index, a.Sent = s.session.RemoteIndex(), measure.Micros(n.now())
		if hold := n.wall().Sub(a.Stamp); r.Stamped() && hold >= 0 && hold < time.Second {
			a.HoldMicros = uint32(max(hold.Microseconds(), 1))
		}
		p.Ack(a)
	}
}

// Ack takes what the peer says of what it has received; overlay.Items.
func (in *inbound) Ack(a overlay.Ack) {
	in.ack = true
	p := in.at.peer
	o := p.out.Load()
	if o == nil || o.session.LocalIndex() != a.Index {
		return // of a session that has been replaced
	}
	space, highest := overlay.SpaceOf(a.Highest)
	if space >= overlay.Spaces {
		in.n.drops.add(dropProbe)
		return
	}
	a.Highest = highest
	p.mu.Lock()
	defer p.mu.Unlock()
	if space != overlay.SpaceWay {
		if !p.ackedRoute(in.arrived(), o.session, space, a) {
			in.n.drops.add(dropProbe)
		}
		return
	}
	if p.delivery != nil {
		p.delivery.Acked(in.now, a)
	}
	if p.path == nil {
		return
	}
	good := p.path.Told(in.now, a.Highest, a.Count, o.session.Sent())
	if good && in.counts(p) { // else it came back another way: that is no round trip of this one
		good = p.path.Acked(in.arrived(), a) != measure.Odd
	}
	if !good {
		in.n.drops.add(dropProbe)
	}
}
