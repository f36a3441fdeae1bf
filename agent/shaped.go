package agent

import (
	"math"

	"farlan/overlay"
)

// shaped sends what waited for the uplink, as far as that has room now.
func (o *outgoing) shaped(now overlay.Instant, view *view) {
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
			o.send(p, class, f)
		default:
			o.n.drops.add(dropNoSession)
		}
		o.flush()
	}
	missed := uint64(0)
	for _, n := range o.shaper.Drops() {
		missed += n
	}
	if missed != o.missed {
		o.n.drops.addN(dropQueue, missed-o.missed)
		o.missed = missed
	}
}

// next returns when shaped wants to be called.
func (o *outgoing) next(now overlay.Instant) overlay.Instant {
	if o.shaper != nil {
		if at, ok := o.shaper.Next(now); ok {
			return at
		}
	}
	return math.MaxInt64
}
