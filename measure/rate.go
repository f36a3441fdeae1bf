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
	// fewSamples that aren't limited do, among enoughSamples that are and show the same:
	// a flow that a bottleneck holds seldom leaves more waiting at its sender.
	fewSamples = 3
	// The level has sunk if for sunkFor, in which there are many samples, datagrams
	// wait and none of the samples reaches sunkTo of what the window shows. A flow of
	// less than a tenth of it may only suffer by another's queue.
	sunkFor     = 4 * time.Second
	sunkSamples = 40
	sunkTo      = 0.75
	sunkLeast   = 0.1
	// A datagram waits that takes so much longer than the quickest of leastFor.
	waitsAfter = 10 * time.Millisecond
	leastFor   = time.Minute
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
	if fullAt == 0 && lowAt == 0 {
		return Rate{}, false
	}
	full := d.full.since(fullAt.Add(-rateWindow), &room)
	low := d.low.since(max(fullAt, lowAt).Add(-rateWindow), &more)
	if len(full) > 0 {
		at, lower, upper := high(len(full))
		r = Rate{Value: full[at], Low: full[lower], Bound: len(full) < enoughSamples, Age: max(now.Sub(fullAt), 0)}
		if upper < len(full) {
			r.High = full[upper]
		}
	}
	if len(low) > 0 {
		at, lower, _ := high(len(low))
		pinned := len(full) >= fewSamples && len(low) >= enoughSamples && low[at] > r.Value-r.Value/16
		switch {
		case low[at] > r.Value+r.Value/16:
			r.Value, r.Low, r.High, r.Bound = low[at], low[lower], 0, true
		case r.Bound && pinned:
			r.Bound = false
		}
		if r.Bound || pinned {
			r.Age = max(now.Sub(max(fullAt, lowAt)), 0)
		}
	}
	if r.Bound {
		r.High = 0
	}
	return r, true
}

// A standing queue is one that every datagram has waited in for some time: it is
// seen by how long acknowledgements take.
type standing struct {
	least, former time.Duration   // the quickest of this window and the one before, 0 none
	turned        overlay.Instant // when this window began
	since         overlay.Instant // since when all have waited, 0 they don't
	quick         bool            // the newest hasn't
}

// took notes how long a datagram and its acknowledgement took. One that is quick
// amid others that wait says nothing yet.
func (q *standing) took(now overlay.Instant, took time.Duration) {
	if now.Sub(q.turned) > leastFor {
		q.turned, q.former, q.least = now, q.least, took
	}
	q.least = min(q.least, took)
	quickest := q.least
	if q.former > 0 {
		quickest = min(quickest, q.former)
	}
	waits := took > quickest+max(waitsAfter, quickest/8)
	switch {
	case waits && q.since == 0:
		q.since = now
	case !waits && q.quick:
		q.since = 0
	}
	q.quick = !waits
}

// sink forgets what was delivered before if a queue has stood since, and much less
// is delivered: the bottleneck has become slower. Then what is delivered is its rate,
// though the sender of the frames leaves none waiting here.
func (d *Delivery) sink(now overlay.Instant) {
	if d.queue.since == 0 || now.Sub(d.queue.since) < sunkFor || now.Sub(d.sank) < time.Second {
		return
	}
	d.sank = now
	var room, more [rateSamples]int64
	full := d.full.since(d.full.at[d.full.last].Add(-rateWindow), &room)
	if len(full) == 0 {
		return
	}
	at, _, _ := high(len(full))
	was := float64(full[at])
	recent := d.full.since(now.Add(-sunkFor), &more)
	count, highest := len(recent), int64(0)
	if count > 0 {
		highest = recent[count-1]
	}
	if low := d.low.since(now.Add(-sunkFor), &more); len(low) > 0 {
		count, highest = count+len(low), max(highest, low[len(low)-1])
	}
	if count < sunkSamples || float64(highest) > sunkTo*was || float64(highest) < sunkLeast*was {
		return
	}
	d.full, d.low = d.low, rates{}
	d.full.forget(now.Add(-sunkFor))
}

// forget forgets what is older than a time.
func (r *rates) forget(than overlay.Instant) {
	for i, at := range r.at {
		if at.Before(than) {
			r.at[i] = 0
		}
	}
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
