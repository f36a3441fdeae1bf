package discovery

import (
	"time"

	"farlan/overlay"
)

// A pace lets something happen burst times at once and then once each interval:
// a token bucket as one number (GCRA, ITU-T I.371), the instant up to which what
// happened is accounted for. The zero pace is ready.
type pace overlay.Instant

// mostBurst is above every burst.
const mostBurst = 32

// allow says whether it may happen now.
func (p pace) allow(now overlay.Instant, every time.Duration, burst int) bool {
	return p.upTo(now, every).Sub(now) <= time.Duration(burst-1)*every
}

// pay accounts for one time.
func (p *pace) pay(now overlay.Instant, every time.Duration, burst int) {
	*p = pace(min(p.upTo(now, every), now.Add(time.Duration(burst-1)*every)).Add(every))
}

// upTo returns up to when what happened is accounted for, now at least. What is farther
// ahead than any burst was so before the clock jumped back, and doesn't count.
func (p pace) upTo(now overlay.Instant, every time.Duration) overlay.Instant {
	if overlay.Instant(p).Sub(now) > mostBurst*every {
		return now
	}
	return max(overlay.Instant(p), now)
}
