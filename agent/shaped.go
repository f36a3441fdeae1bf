package agent

import (
	"math"

	"farlan/overlay"
)

// shaped sends what waited for the uplink, as far as that has room now.
func (o *outgoing) shaped(now overlay.Instant, view *view) {
	o.look()
	if o.reserved != nil {
		o.now = now
		for _, w := range o.reserved.paced {
			o.pace(now, view, w)
		}
	}
	if o.shaper == nil {
		return
	}
	o.now = now
	for {
		o.shaper.Charge(o.sent)
		o.sent = 0
		to, class, f, ok := o.shaper.Dequeue(now)
		if !ok {
			break
		}
		switch p := view.peer(to); {
		case to == floodPlace:
			o.spread(class, f)
		case to == passPlace:
			o.passLater(class, f.Head)
		case p != nil:
			o.top.waited(f, o.shaper.Waited())
			o.sendShaped(p, class, f)
		default:
			o.n.drops.add(dropNoSession)
		}
		o.flush()
	}
	if missed := o.shaper.Lost(); missed != o.missed {
		o.n.drops.addN(dropQueue, missed-o.missed)
		o.missed = missed
	}
}

// sendShaped packs a frame that has waited, for the way that it has by now.
func (o *outgoing) sendShaped(p *peer, class overlay.Class, f *overlay.Frame) {
	if o.reserved != nil {
		if w := o.reserved.find(p, f.Head); w != nil && w.works(p) {
			o.pack(o.beginBy(p, overlay.ClassBulk, w), f)
			return
		}
	}
	if _, reserved := class.Guaranteed(); reserved {
		class = overlay.ClassBulk
	}
	o.send(p, class, f)
}

// next returns when shaped wants to be called.
func (o *outgoing) next(now overlay.Instant) overlay.Instant {
	next := overlay.Instant(math.MaxInt64)
	if o.shaper != nil {
		if at, ok := o.shaper.Next(now); ok {
			next = at
		}
	}
	if o.reserved != nil {
		for _, w := range o.reserved.paced {
			if at := overlay.Instant(w.pacer.next.Load()); at != 0 {
				next = min(next, at)
			}
		}
	}
	return next
}
