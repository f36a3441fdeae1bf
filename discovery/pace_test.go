package discovery

import (
	"testing"
	"time"
)

// A pace allows a burst and then one each interval, and a clock that jumps back doesn't
// stop it: an agent whose clock was ahead would take nobody's news until it is as late again.
func TestPace(t *testing.T) {
	var p pace
	allowed := func(after, times int) (n int) {
		for range times {
			if p.allow(at(after), time.Second, 3) {
				p.pay(at(after), time.Second, 3)
				n++
			}
		}
		return n
	}
	for _, step := range []struct{ after, times, want int }{
		{1000, 10, 3},
		{1001, 10, 1},
		{1002, 10, 1},
		{1100, 10, 3},
		{500, 10, 3}, // the clock jumped back
		{501, 10, 1},
		{2000, 10, 3},
	} {
		if n := allowed(step.after, step.times); n != step.want {
			t.Errorf("after %d s: %d of %d allowed, want %d", step.after, n, step.times, step.want)
		}
	}
}
