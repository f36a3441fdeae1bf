package mesh

import (
	"cmp"
	"slices"

	"farlan/overlay"
)

const (
	// busyLinks is how many links an agent holds for traffic at most.
	busyLinks = 2
	// MaxRates is of how many peers an agent keeps the rates: of more, those with the
	// least are forgotten.
	MaxRates = 64
	// leastRate is what must go to and fro, in kbit/s, for a link to be made for it.
	leastRate = 1000
	// fraction is the resolution of smoothed rates, in kbit/s.
	fraction = 256
)

// A Rate is the traffic of an agent with another, both directions, since the last epoch.
type Rate struct {
	Peer overlay.AgentID
	Kbit int64 // kbit/s
}

// A Demands finds the peers with whom an agent has most traffic for long: rates are
// smoothed (an exponentially weighted mean of a tenth), a peer is named when it was seen
// for some epochs, and gives way to another only after these and to one that has half as
// much again. The idea is VTTIF's (Gupta and Dinda, JSSPP 2004), which damps likewise. The
// zero Demands is ready.
type Demands struct {
	rows []row // in the order of the peers
	out  []overlay.AgentID
}

type row struct {
	peer   overlay.AgentID
	now    int64 // kbit/s
	rate   int64 // smoothed, in kbit/s / fraction
	first  int64 // epoch in which it was seen first, since it was forgotten
	named  bool
	change int64 // epoch in which named changed
}

// Observe takes the rates of an epoch and returns the peers to have direct links with, the
// busiest first, busyLinks at most. The slice is good until the next call.
func (d *Demands) Observe(epoch int64, rates []Rate) []overlay.AgentID {
	d.count(epoch, rates)
	order := make([]*row, len(d.rows))
	for i := range d.rows {
		order[i] = &d.rows[i]
	}
	slices.SortStableFunc(order, func(a, b *row) int { return cmp.Compare(b.rate, a.rate) })
	named := 0
	var weakest, strongest *row // that is named and may go; that isn't and may come
	for _, r := range order {
		ripe := epoch-r.change >= dwell
		switch {
		case r.named && ripe && r.rate < leastRate*fraction/2:
			r.named, r.change = false, epoch
		case r.named:
			if named++; ripe {
				weakest = r
			}
		case strongest == nil && ripe && epoch-r.first >= dwell && r.rate >= leastRate*fraction:
			strongest = r
		}
	}
	switch {
	case strongest == nil:
	case named < busyLinks:
		strongest.named, strongest.change = true, epoch
	case weakest != nil && 2*strongest.rate >= 3*weakest.rate:
		strongest.named, strongest.change = true, epoch
		weakest.named, weakest.change = false, epoch
	}
	d.out = d.out[:0]
	for _, r := range order {
		if r.named {
			d.out = append(d.out, r.peer)
		}
	}
	return d.out
}

// count smooths the rates, and forgets peers that have none left.
func (d *Demands) count(epoch int64, rates []Rate) {
	for i := range d.rows {
		d.rows[i].now = 0
	}
	for _, x := range rates {
		kbit := max(0, min(x.Kbit, 1<<40))
		at, ok := slices.BinarySearchFunc(d.rows, x.Peer, func(r row, id overlay.AgentID) int { return r.peer.Compare(id) })
		if !ok {
			if len(d.rows) >= MaxRates {
				if !d.evict(kbit) {
					continue
				}
				at, _ = slices.BinarySearchFunc(d.rows, x.Peer, func(r row, id overlay.AgentID) int { return r.peer.Compare(id) })
			}
			d.rows = slices.Insert(d.rows, at, row{peer: x.Peer, first: epoch, change: epoch - dwell})
		}
		d.rows[at].now = min(d.rows[at].now+kbit, 1<<40)
	}
	for i := range d.rows {
		r := &d.rows[i]
		r.rate += (r.now*fraction - r.rate) / 10
	}
	d.rows = slices.DeleteFunc(d.rows, func(r row) bool { return !r.named && r.now == 0 && r.rate < fraction && epoch-r.change >= dwell })
}

// evict makes room for a peer that has so much now, if some other, not named, has less.
func (d *Demands) evict(kbit int64) bool {
	least := -1
	for i := range d.rows {
		if r := &d.rows[i]; !r.named && (least < 0 || r.rate+r.now*fraction < d.rows[least].rate+d.rows[least].now*fraction) {
			least = i
		}
	}
	if least < 0 || d.rows[least].rate+d.rows[least].now*fraction >= kbit*fraction/10 {
		return false
	}
	d.rows = slices.Delete(d.rows, least, least+1)
	return true
}
