package agent

import (
	"fmt"
	"math"
	"testing"
	"time"

	"farlan/agent/lab"
)

// An agent whose own cable is the bottleneck of all its paths finds that out by measuring
// two of them, and all others show it as its rate up; the paths between the others, which
// carry more, are no part of it.
func TestTruthAccess(t *testing.T) {
	w := newWide(t, 3, lab.Shape{Delay: 2 * time.Millisecond})
	w.do("ip netns exec " + w.ns[0] + " tc qdisc add dev wan0 root tbf rate 20mbit burst 4kb latency 200ms")
	want := ipRate(20)
	for _, to := range []int{1, 2} {
		within5 := func() error {
			var v benchView
			if err := w.agents[0].ask(&v, "bench", wideName(to)); err != nil {
				return err
			}
			if math.Abs(v.Mbit/want-1) > 0.05 || v.Meaning != "capacity" {
				return fmt.Errorf("%+v", v)
			}
			return nil
		}
		eventually(t, 20*time.Second, within5) // a busy machine may need more than one
	}
	took := eventually(t, 30*time.Second, func() error {
		for i, a := range w.agents {
			var v mapView
			if err := a.ask(&v, "map"); err != nil {
				return err
			}
			for _, one := range v.Agents {
				switch is := one.Name == wideName(0); {
				case is && (one.UpMbit == nil || one.UpSource != "measured" || math.Abs(*one.UpMbit/want-1) > 0.05):
					return fmt.Errorf("at %s: %+v", wideName(i), one)
				case !is && (one.UpMbit != nil || one.DownMbit != nil):
					return fmt.Errorf("at %s: %+v", wideName(i), one)
				}
			}
		}
		return nil
	})
	t.Logf("all show it %v after the measurements", took)
}
