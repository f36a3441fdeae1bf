package measure

import (
	"time"

	"farlan/overlay"
)

const (
	// Round trips are at another level when shiftRun samples in a row lie on the same
	// side outside of the band, over shiftFor at least: a queue of a moment is shorter,
	// and a spike is one sample.
	shiftRun = 4
	shiftFor = time.Second
	// doubtEvery is how often a path is probed whose newest sample lies outside.
	doubtEvery = 250 * time.Millisecond
	// The band reaches as far as an eighth of the level, four times the mean deviation
	// (as a retransmission timer does, RFC 6298 § 2), and bandLeast.
	bandLeast = 2 * time.Millisecond
)

// A band is where the round trips of a path have been, and notices when they move to
// another level, as they do when the route changes. Minima and averages alone take
// as long as their windows for that. The zero value is ready.
type band struct {
	level, deviation time.Duration    // of the samples inside; level 0: none yet
	since            overlay.Instant  // when the run of samples outside began
	run              int              // how many those are
	above            bool             // they are
	last             [3]time.Duration // the newest of them
}

func (b *band) width() time.Duration { return max(bandLeast, b.level/8, 4*b.deviation) }

// doubts says whether the newest sample lies outside.
func (b *band) doubts() bool { return b.run > 0 }

// sample takes a sample and says whether the level is another one since some samples;
// calm says that the new one is as steady as the old one: a route, and not a queue.
func (b *band) sample(now overlay.Instant, rtt time.Duration) (shifted, calm bool) {
	if b.level == 0 {
		b.level = rtt
		return false, false
	}
	off := rtt - b.level
	if off.Abs() <= b.width() {
		b.level += off / 8
		b.deviation += (off.Abs() - b.deviation) / 8
		b.run = 0
		return false, false
	}
	if b.run == 0 || b.above != (off > 0) {
		b.run, b.above, b.since = 0, off > 0, now
	}
	b.last[b.run%len(b.last)] = rtt
	b.run++
	if b.run < shiftRun || now.Sub(b.since) < shiftFor {
		return false, false
	}
	low, high := min(b.last[0], b.last[1], b.last[2]), max(b.last[0], b.last[1], b.last[2])
	calm = high-low <= max(bandLeast, 4*b.deviation)
	b.level, b.run = b.last[0]+b.last[1]+b.last[2]-low-high, 0 // the median
	return true, calm
}

// lowest returns the smallest of the last samples of the run that ended in a shift.
func (b *band) lowest() time.Duration { return min(b.last[0], b.last[1], b.last[2]) }
