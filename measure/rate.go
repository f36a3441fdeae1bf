package measure

import (
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	rateWindow  = 10 * time.Second
	rateSamples = 256                   // in a window
	rateSpacing = 40 * time.Millisecond // between two, so that they fill it
	// enoughSamples that aren't limited make an estimate.
	enoughSamples = 10
	// The level has sunk if no sample of sunkFor, of which there are enough, reaches
	// sunkTo of what the window shows: a queue stands before a slower bottleneck.
	sunkFor     = 2500 * time.Millisecond
	sunkSamples = 25
	sunkTo      = 0.75
	// nowWindow is how old the samples may be that tell what is delivered now.
	nowWindow = 2 * time.Second
)

// rates are the samples of a window, as a ring.
type rates struct {
	at   [rateSamples]overlay.Instant
	rate [rateSamples]int64 // bit/s
	last int
}

// add adds a sample, unless one came just now.
func (r *rates) add(now overlay.Instant, rate int64) {
	if r.at[r.last] != 0 && now.Sub(r.at[r.last]) < rateSpacing {
		return
	}
	r.last = (r.last + 1) % rateSamples
	r.at[r.last], r.rate[r.last] = now, rate
}

// since returns the sorted samples since a time.
func (r *rates) since(from overlay.Instant, sorted *[rateSamples]int64) []int64 {
	n := 0
	for i, at := range r.at {
		if at != 0 && !at.Before(from) {
			sorted[n] = r.rate[i]
			n++
		}
	}
	slices.Sort(sorted[:n])
	return sorted[:n]
}

// high returns the place of the 95th percentile of n samples, and of its 95 %
// interval (by the binomial distribution): the first that is beyond the samples is n.
// The maximum would be that of bursts, which token buckets let pass at more than
// their rate.
func high(n int) (at, low, upper int) {
	at = (n*95+99)/100 - 1
	spread := int(math.Ceil(z95 * math.Sqrt(float64(n)*0.95*0.05)))
	return at, max(at-spread, 0), min(at+spread, n)
}

// A Rate is what a path delivers, in bits of IP packets a second.
type Rate struct {
	Value     int64
	Low, High int64 // its 95 % interval; High is 0 if nothing is known of it
	Bound     bool  // the path delivers at least Value
	Age       time.Duration
}

// Rate returns the rate at which the path delivers: the 95th percentile of the
// samples of 10 s, or of fewer if the level has sunk since. Limited samples count
// only where they show more than the others do, or if there are no others: then the
// path delivers at least so much. Its age is that of the newest sample behind it;
// rates are kept until better ones come. ok is false if nothing is known.
func (d *Delivery) Rate(now overlay.Instant) (r Rate, ok bool) {
	var room, more [rateSamples]int64
	fullAt, lowAt := d.full.at[d.full.last], d.low.at[d.low.last]
	full := d.full.since(fullAt.Add(-rateWindow), &room)
	low := d.low.since(max(fullAt, lowAt).Add(-rateWindow), &more)
	if len(full) > 0 {
		full = d.sunk(full, fullAt, &room)
		at, from, to := high(len(full))
		r = Rate{Value: full[at], Low: full[from], Bound: len(full) < enoughSamples, Age: max(now.Sub(fullAt), 0)}
		if to < len(full) {
			r.High = full[to]
		}
	}
	if len(low) > 0 {
		at, from, _ := high(len(low))
		if low[at] > r.Value+r.Value/16 {
			r.Value, r.Low, r.High, r.Bound = low[at], low[from], 0, true
		}
		if r.Bound {
			r.Age = max(now.Sub(lowAt), 0)
		}
	}
	if r.Bound {
		r.High = 0
	}
	return r, len(full)+len(low) > 0
}

// sunk returns the newest of full's samples, sorted, if all of them are much lower
// than the rest, else full, which lies in room.
func (d *Delivery) sunk(full []int64, fullAt overlay.Instant, room *[rateSamples]int64) []int64 {
	var newest [rateSamples]int64
	recent := d.full.since(fullAt.Add(-sunkFor), &newest)
	at, _, _ := high(len(full))
	if n := len(recent); n >= sunkSamples && float64(recent[n-1]) < sunkTo*float64(full[at]) {
		return room[:copy(room[:], recent)]
	}
	return full
}

// Now returns the rate at which datagrams are delivered now, in bits of IP packets a
// second. If it is a bound, none of them waited: more would pass. ok is false if
// next to none were sent lately.
func (d *Delivery) Now(now overlay.Instant) (rate int64, bound, ok bool) {
	var room [rateSamples]int64
	if full := d.full.since(now.Add(-nowWindow), &room); len(full) > 0 {
		return full[len(full)/2], false, true
	}
	if low := d.low.since(now.Add(-nowWindow), &room); len(low) > 0 {
		return low[len(low)/2], true, true
	}
	return 0, false, false
}
