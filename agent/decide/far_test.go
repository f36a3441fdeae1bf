package decide

import (
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// What is sent to an agent of another area goes by gateways if that costs less than the direct
// path by a tenth, and rests there.
func TestBypass(t *testing.T) {
	by := func(gateway int, cost time.Duration) FarPath {
		return FarPath{Gateway: agentID(gateway), Far: Far{Cost: cost * ms}}
	}
	var b Bypass
	now := start
	for i, c := range []struct {
		after  time.Duration
		direct time.Duration // round trip
		all    []FarPath
		want   int // the gateway, -1: direct
	}{
		{0, 200 * ms, nil, -1},
		{0, 200 * ms, []FarPath{by(1, 99), by(2, 110)}, -1}, // by too little
		{0, 0, []FarPath{by(1, 30)}, -1},                    // the direct path isn't measured
		{time.Second, 200 * ms, []FarPath{by(1, 30), by(2, 31)}, 1},
		{time.Second, 20 * ms, []FarPath{by(1, 30)}, 1}, // it was taken a moment ago
		{time.Second, 200 * ms, []FarPath{by(2, 20), by(1, 30)}, 1},
		{bypassFor, 200 * ms, []FarPath{by(2, 29), by(1, 30)}, 1},
		{time.Second, 200 * ms, []FarPath{by(2, 20), by(1, 30)}, 2},
		{bypassFor, 39 * ms, []FarPath{by(2, 20)}, 2},
		{bypassFor, 30 * ms, []FarPath{by(2, 20)}, -1},
		{time.Second, 200 * ms, []FarPath{by(2, 20)}, -1},
		{bypassFor, 200 * ms, []FarPath{by(2, 20)}, 2},
		{time.Second, 200 * ms, []FarPath{by(3, 20)}, -1}, // it failed
		{bypassFor, 200 * ms, []FarPath{by(3, 20)}, 3},
		{time.Second, 0, []FarPath{by(3, 20)}, -1},
	} {
		now = now.Add(c.after)
		f, ok := b.Step(now, measure.Pair{RTT: c.direct, RTTSource: measure.Measured}, c.all)
		if got := index(f.Gateway); ok != (c.want >= 0) || ok && got != c.want {
			t.Errorf("step %d: %v by %d, want %d", i, ok, got, c.want)
		}
	}
}

// What changes from time to time by less than a tenth moves nothing.
func TestBypassRests(t *testing.T) {
	var b Bypass
	var last overlay.AgentID
	changes := 0
	for i := range 300 {
		wave := time.Duration(i%7-3) * ms
		f, _ := b.Step(start.Add(time.Duration(i)*time.Second), measure.Pair{RTT: 120*ms - wave}, []FarPath{
			{Gateway: agentID(1), Far: Far{Cost: 58*ms + wave}}, {Gateway: agentID(2), Far: Far{Cost: 59 * ms}},
		})
		if f.Gateway != last {
			last = f.Gateway
			changes++
		}
	}
	if changes > 1 {
		t.Errorf("%d changes", changes)
	}
}
