package overlay

import "time"

// A Bucket is a token bucket: rate tokens a second flow in, up to size. The
// zero Bucket allows nothing. Not safe for concurrent use.
type Bucket struct {
	rate, size int64 // tokens a second, tokens
	level      int64 // tokens × 1e9
	last       Instant
}

// NewBucket returns a full bucket.
func NewBucket(rate, size int64) Bucket {
	return Bucket{rate: rate, size: size, level: size * int64(time.Second)}
}

// Allow takes a token if there is one.
func (b *Bucket) Allow(now Instant) bool {
	if d := now.Sub(b.last); d > 0 {
		// A second's worth at most, so that the product can't overflow.
		d = min(d, max(time.Second, time.Duration(b.size*int64(time.Second)/max(b.rate, 1))))
		b.level = min(b.size*int64(time.Second), b.level+int64(d)*b.rate)
		b.last = now
	}
	if b.level < int64(time.Second) {
		return false
	}
	b.level -= int64(time.Second)
	return true
}
