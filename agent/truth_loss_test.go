package agent

import (
	"testing"
	"time"

	"farlan/agent/lab"
)

// Loss is within its own 95 % interval in nine of ten cases, idle and with frames, each
// direction at its sender: 30 directions of six sites, by probes alone and with frames.
func TestTruthLoss(t *testing.T) {
	if !truthLong() {
		t.Log("only with FARLAN_TRUTH: a minute tells nothing that measure's tests don't tell in a second")
		return
	}
	const sites = 6
	w := newWide(t, sites, lab.Shape{Delay: 10 * time.Millisecond})
	losses := []lab.Loss{0, 2_000, 5_000, 10_000, 20_000, 50_000}
	lossOf := func(from, to int) lab.Loss { return losses[(from+2*to)%len(losses)] }
	pairs := func(f func(from, to int)) {
		for a := range sites {
			for b := range sites {
				if a != b {
					f(a, b)
				}
			}
		}
	}
	pairs(func(a, b int) {
		l := lossOf(a, b)
		w.change(a, b, lab.Change{Loss: &l})
	})
	covered, cases := 0, 0
	for _, busy := range []bool{false, true} {
		if busy {
			pairs(func(a, b int) {
				if b < a {
					w.talk(a, b, 20*time.Millisecond)
				}
			})
		}
		time.Sleep(65 * time.Second)
		pairs(func(a, b int) {
			v, err := w.view(a, b)
			if err != nil || v.Loss == nil {
				t.Fatalf("%s to %s: %+v, %v", wideName(a), wideName(b), v, err)
			}
			truth := float64(lossOf(a, b)) / 1e6
			cases++
			within := *v.LossLow <= truth+1e-9 && truth <= *v.LossHigh
			if within {
				covered++
			}
			t.Logf("frames %v: %.1f %% lost, told %.2f, within %.2f and %.2f: %v", busy, 100*truth, 100**v.Loss, 100**v.LossLow, 100**v.LossHigh, within)
		})
	}
	t.Logf("%d of %d intervals cover the truth", covered, cases)
	if covered*10 < cases*9 {
		t.Errorf("%d of %d intervals cover the truth, want nine of ten", covered, cases)
	}
}
