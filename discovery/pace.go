package discovery

import (
	"time"

	"farlan/overlay"
)

// A pace lets something happen burst times at once and then once each interval:
// a token bucket as one number (GCRA, ITU-T I.371), the instant up to which what
// happened is accounted for. The zero pace is ready.
type pace overlay.Instant

// allow says whether it may happen now.
func (p pace) allow(now overlay.Instant, every time.Duration, burst int) bool {
	return overlay.Instant(p).Sub(now) <= time.Duration(burst-1)*every
}

// pay accounts for one time.
func (p *pace) pay(now overlay.Instant, every time.Duration, burst int) {
	// The upper bound matters only after the clock jumped back.
	*p = pace(min(max(overlay.Instant(*p), now), now.Add(time.Duration(burst-1)*every)).Add(every))
}
