package overlay

import (
	"testing"
	"time"
)

// drain takes what may leave now, of frames that make so many bytes of packets each.
func drain(s *Shaper, now Instant, each int) (bytes int) {
	for {
		if _, _, _, ok := s.Dequeue(now); !ok {
			return bytes
		}
		s.Charge(each)
		bytes += each
	}
}

// Who is late while frames wait catches up, as far as was said, and no further; a line for which
// nothing waited still saves up almost nothing.
func TestShaperCatchesUp(t *testing.T) {
	const rate, each = 64 * mbit, 1482
	f := Frame{Head: make([]byte, 1400)}
	for _, c := range []struct {
		allowed, late time.Duration
		least, most   float64 // of the line, that passes
	}{
		{0, 20 * time.Millisecond, 0, 0.13},
		{25 * time.Millisecond, 20 * time.Millisecond, 0.98, 1},
		{25 * time.Millisecond, 50 * time.Millisecond, 0.48, 0.53},
	} {
		s := NewShaper(rate)
		s.CatchUp(c.allowed)
		now, passed := Instant(time.Hour), 0
		const d = 2 * time.Second
		for began := now; now.Sub(began) < d; now = now.Add(c.late) {
			for s.Backlog()[ClassBulk] < rate/8*60/1000 {
				s.Enqueue(now, 1, ClassBulk, 7, &f)
			}
			passed += drain(s, now, each)
		}
		if got := float64(passed) * 8 / rate / d.Seconds(); got < c.least || got > c.most {
			t.Errorf("%v late of %v: %.3f of the line passes, want %.2f to %.2f", c.late, c.allowed, got, c.least, c.most)
		}
		for !s.empty() {
			now = now.Add(time.Millisecond)
			drain(s, now, each)
		}
		now = now.Add(time.Second)
		for range 100 {
			s.Enqueue(now, 1, ClassBulk, 7, &f)
		}
		if got := drain(s, now, each); got > s.carries(shaperBurst)+each {
			t.Errorf("after it was idle %d bytes leave at once", got)
		}
	}
}
