package measure

import (
	"testing"
	"time"

	"farlan/overlay"
)

// Probes are shared: few a second, however many peers there are, and the NATs' mappings
// are kept; those that are watched are probed each second.
func TestProbeEvery(t *testing.T) {
	for _, c := range []struct {
		peers, watched int
		is             bool
		want           time.Duration
	}{
		{0, 8, false, ProbeInterval},
		{16, 8, false, ProbeInterval},
		{17, 8, true, ProbeInterval},
		{17, 8, false, 1125 * ms},
		{99, 8, false, 11375 * ms},
		{99, 0, false, 6187500 * time.Microsecond},
		{99, 99, false, ProbeInterval},
		{200, 8, false, probeIdle},
		{overlay.MaxContacts, 40, false, probeIdle},
		{overlay.MaxContacts, 8, true, ProbeInterval},
	} {
		if got := ProbeEvery(c.peers, c.watched, c.is); got != c.want {
			t.Errorf("%+v: every %v", c, got)
		}
	}
	// 99 peers and this agent: who is near is so for both.
	const all, nearest = 100, 4
	for self := range all {
		var near []int
		for other := range all {
			if other == self {
				continue
			}
			i, next := other, self
			if other > self {
				i--
			}
			if NearInRing(i, next, all-1, nearest) {
				near = append(near, (other-self+all)%all)
			}
		}
		if len(near) != 2*nearest {
			t.Fatalf("%d is near to %v", self, near)
		}
		for _, d := range near {
			if d > nearest && d < all-nearest {
				t.Errorf("%d is near to one %d further", self, d)
			}
		}
	}
	if NearInRing(0, 0, 1, 4) == false {
		t.Error("the only other one isn't near")
	}
}
