package overlay

import (
	"math"
	"time"
)

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
	if b.Wait(now, 1) > 0 {
		return false
	}
	b.Take(now, 1)
	return true
}

// Wait returns how long it takes until n tokens are there: for ever, if that is
// more than fit.
func (b *Bucket) Wait(now Instant, n int64) time.Duration {
	b.fill(now)
	missing := n*int64(time.Second) - b.level
	switch {
	case missing <= 0:
		return 0
	case n > b.size || b.rate <= 0:
		return math.MaxInt64
	}
	return time.Duration((missing + b.rate - 1) / b.rate)
}

// Take takes n tokens; those that aren't there yet are owed.
func (b *Bucket) Take(now Instant, n int64) {
	b.fill(now)
	b.level -= n * int64(time.Second)
}

// owe takes n more tokens of those that were taken last, or gives some back if n is negative.
func (b *Bucket) owe(n int64) {
	b.level = min(b.size*int64(time.Second), b.level-n*int64(time.Second))
}

// fill lets in what has come since the last time.
func (b *Bucket) fill(now Instant) {
	if d := now.Sub(b.last); d > 0 {
		// A second's worth at most, so that the product can't overflow.
		d = min(d, max(time.Second, time.Duration(b.size*int64(time.Second)/max(b.rate, 1))))
		b.level = min(b.size*int64(time.Second), b.level+int64(d)*b.rate)
		b.last = now
	}
}
