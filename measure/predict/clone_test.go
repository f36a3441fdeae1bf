package predict

import (
	"testing"
	"time"
)

// A clone answers as the model does, and neither changes by what the other learns.
func TestClone(t *testing.T) {
	const slots = 20
	times, rates := NewLatency(slots, 1), NewRates(slots, 1)
	feed := func(times *Latency, rates *Rates, by float64) {
		for i := range slots {
			for k := 1; k <= 8; k++ {
				j := (i + k) % slots
				times.Feed(i, j, time.Duration(by*float64(10+i+j)*float64(time.Millisecond)), 0)
				rates.Feed(i, j, int64(by*1e6*float64(1+i+j)), false, 0)
			}
		}
		for range 20 {
			times.Improve(0, slots)
			rates.Improve(0, slots)
		}
	}
	type answer struct {
		rtt      time.Duration
		rate     int64
		off, far float64
	}
	ask := func(times *Latency, rates *Rates) (all []answer) {
		for i := range slots {
			for j := range slots {
				var a answer
				a.rtt, a.off, _ = times.Predict(i, j)
				a.rate, a.far, _ = rates.Predict(i, j)
				all = append(all, a)
			}
		}
		return all
	}
	same := func(a, b []answer) bool {
		for i := range a {
			if a[i] != b[i] {
				return false
			}
		}
		return a[1].rtt > 0 && a[1].rate > 0
	}
	feed(times, rates, 1)
	before := ask(times, rates)
	t2, r2 := times.Clone(), rates.Clone()
	if !same(before, ask(t2, r2)) {
		t.Error("a clone answers otherwise")
	}
	feed(t2, r2, 3)
	if !same(before, ask(times, rates)) {
		t.Error("the model changed by what its clone learnt")
	}
	feed(times, rates, 3)
	learnt := ask(times, rates)
	if same(before, learnt) || !same(learnt, ask(t2, r2)) {
		t.Error("the two learn otherwise from the same")
	}
	t2, r2 = times.Clone(), rates.Clone()
	times.Reset(3)
	rates.Reset(3)
	if !same(learnt, ask(t2, r2)) {
		t.Error("a clone changed when a slot was emptied")
	}
}
