package measure

import (
	"time"

	"farlan/overlay"
)

// lowEntries is how many samples a lowest keeps: with fewer than that many in its
// span it is exact, with more the minimum may rise a lowEntries-th of the span early.
const lowEntries = 12

// A lowest is the smallest sample of a span of time before now. Its samples have
// rising times and values, so the first is the minimum: one that is older and not
// smaller than another can never be it again. The zero value is ready.
type lowest struct {
	at [lowEntries]overlay.Instant
	v  [lowEntries]time.Duration
	n  int
}

// add takes a sample.
func (l *lowest) add(now overlay.Instant, v, span time.Duration) {
	for l.n > 0 && l.v[l.n-1] >= v {
		l.n--
	}
	if l.n > 0 && now.Sub(l.at[l.n-1]) < span/lowEntries {
		return // the one before is smaller and almost as new
	}
	for l.n == lowEntries || l.n > 0 && now.Sub(l.at[0]) > span {
		copy(l.at[:], l.at[1:l.n])
		copy(l.v[:], l.v[1:l.n])
		l.n--
	}
	l.at[l.n], l.v[l.n] = now, v
	l.n++
}

// value returns the smallest sample of the span before now, or the newest one that
// is kept if all are older; ok is false if there is none.
func (l *lowest) value(now overlay.Instant, span time.Duration) (v time.Duration, ok bool) {
	for i := range l.n {
		if v = l.v[i]; now.Sub(l.at[i]) <= span {
			break
		}
	}
	return v, l.n > 0
}

// begin forgets all samples but one.
func (l *lowest) begin(now overlay.Instant, v time.Duration) {
	l.n, l.at[0], l.v[0] = 1, now, v
}
