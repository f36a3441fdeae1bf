package measure

import (
	"time"

	"farlan/overlay"
)

const (
	onewayBuckets = 12
	onewayBucket  = 25 * time.Second // five minutes in all
	// Clocks drift apart by less than skewMost (parts of a million), and how much shows
	// in skewAfter.
	skewMost  = 500
	skewAfter = 60 * time.Second
	// A difference of clocks that jumps by more is another clock's.
	onewayJump = 10 * time.Second
)

// A oneWay tells how long datagrams queue one way, from the difference of the stamps of
// two clocks that need not agree: what changes of it is queueing, and the clocks' skew,
// which is the slope of the line under all differences (Moon, Skelly, Towsley: Estimation
// and removal of clock skew from network delay measurements, INFOCOM 1999). How long the
// way takes can't be known so, and isn't told. The zero value is ready.
type oneWay struct {
	at     [onewayBuckets]overlay.Instant // when the bucket's smallest came, 0 there is none
	low    [onewayBuckets]int32           // microseconds from base
	bucket int64                          // the newest one, counted from the epoch
	base   uint32
	newest int32
	skew   int32 // parts of a million
	queue  time.Duration
}

// sample takes a difference of stamps, receiver's minus sender's, in microseconds
// modulo 2^32.
func (o *oneWay) sample(now overlay.Instant, raw uint32) {
	d := int32(raw - o.base)
	if jump := time.Duration(int32(raw-o.base-uint32(o.newest))) * time.Microsecond; o.bucket == 0 || jump.Abs() > onewayJump {
		*o = oneWay{base: raw}
		d = 0
	}
	o.newest = d
	if b := int64(now) / int64(onewayBucket); b != o.bucket {
		o.fit()
		for ; o.bucket < b; o.bucket++ { // those between are empty
			o.bucket = max(o.bucket, b-onewayBuckets)
			o.at[(o.bucket+1)%onewayBuckets] = 0
		}
	}
	i := o.bucket % onewayBuckets
	if o.at[i] == 0 || int64(d) <= o.then(int(i), now) {
		o.at[i], o.low[i] = now, d
	}
	least := int64(d)
	for i, at := range o.at {
		if at != 0 {
			least = min(least, o.then(i, now))
		}
	}
	o.queue = min(time.Duration(int64(d)-least)*time.Microsecond, onewayJump)
}

// then returns what a bucket's smallest difference would be now, microseconds.
func (o *oneWay) then(i int, now overlay.Instant) int64 {
	return int64(o.low[i]) + now.Sub(o.at[i]).Microseconds()*int64(o.skew)/1e6
}

// fit finds the skew: the slope of that line through two of the buckets' smallest
// differences which no other lies below, and which is nearest to all of them, so below
// or above their mean time.
func (o *oneWay) fit() {
	var mean, n int64
	first := overlay.Instant(0)
	for _, at := range o.at {
		if at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	for _, at := range o.at {
		if at != 0 {
			mean += at.Sub(first).Microseconds()
			n++
		}
	}
	if n < 2 {
		return
	}
	mean /= n
	for i := range o.at {
		for j := range o.at {
			if o.at[i] == 0 || o.at[j] == 0 || o.at[j].Sub(o.at[i]) < skewAfter/2 {
				continue
			}
			x, dx := o.at[i].Sub(first).Microseconds(), o.at[j].Sub(o.at[i]).Microseconds()
			if x > mean || x+dx < mean || !o.under(i, j) {
				continue
			}
			if skew := (int64(o.low[j]) - int64(o.low[i])) * 1e6 / dx; -skewMost <= skew && skew <= skewMost {
				o.skew = int32(skew)
			}
			return
		}
	}
}

// under says whether no difference lies below the line through two of them.
func (o *oneWay) under(i, j int) bool {
	dx, dy := o.at[j].Sub(o.at[i]).Microseconds(), int64(o.low[j])-int64(o.low[i])
	for k, at := range o.at {
		if at != 0 && float64(int64(o.low[k])-int64(o.low[i]))*float64(dx) < float64(dy)*float64(at.Sub(o.at[i]).Microseconds()) {
			return false
		}
	}
	return true
}
