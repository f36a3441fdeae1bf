package measure

import (
	"math"
	"slices"
	"testing"
	"time"
)

// Where delays vary a search finds the rate all the same, knows how sure that is, and
// doesn't take it for others' traffic.
func TestSearchThroughJitter(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		mbit     float64
		vary     time.Duration
		overtake bool
		loss     float64
		bucket   float64
		median   float64
	}{
		{"10 Mbit/s ± 2 ms", 10, 2 * ms, false, 0, 0, 0.01},
		{"20 Mbit/s ± 5 ms", 20, 5 * ms, false, 0, 0, 0.02},
		{"20 Mbit/s ± 5 ms, overtaking", 20, 5 * ms, true, 0, 0, 0.02},
		{"50 Mbit/s ± 2 ms, overtaking, 1 % lost", 50, 2 * ms, true, 0.01, 0, 0.02},
		{"100 Mbit/s ± 0.3 ms", 100, 300 * time.Microsecond, false, 0, 0, 0.01},
		{"100 Mbit/s ± 1 ms", 100, 1 * ms, false, 0, 0, 0.02},
		{"100 Mbit/s ± 2 ms", 100, 2 * ms, false, 0, 0, 0.03},
		{"100 Mbit/s ± 2 ms, overtaking", 100, 2 * ms, true, 0, 0, 0.03},
		{"100 Mbit/s ± 2 ms, 1 % lost", 100, 2 * ms, false, 0.01, 0, 0.03},
		{"100 Mbit/s ± 2 ms, 5 % lost", 100, 2 * ms, false, 0.05, 0, 0.04},
		{"100 Mbit/s ± 2 ms, bucket of 64 kB", 100, 2 * ms, false, 0, 65536, 0.04},
		{"100 Mbit/s, 5 % lost", 100, 0, false, 0.05, 0, 0.005},
		{"200 Mbit/s ± 2 ms", 200, 2 * ms, false, 0, 0, 0.08},
		{"500 Mbit/s ± 1 ms", 500, 1 * ms, false, 0, 0, 0.05},
	} {
		const runs = 101
		var errs []float64
		inside, bytes, limits, open := 0, 0, map[Limit]int{}, 0.0
		for seed := range uint64(runs) {
			p := newTrainPath(c.mbit*1e6, seed)
			p.vary, p.overtake, p.loss, p.bucket = c.vary, c.overtake, c.loss, c.bucket
			f, ok := p.search(0)
			if !ok {
				t.Errorf("%s, seed %d: nothing", c.name, seed)
				continue
			}
			errs = append(errs, math.Abs(float64(f.Rate)/p.rate-1))
			if float64(f.Low) <= p.rate && p.rate <= float64(f.High) {
				inside++
			}
			bytes = max(bytes, f.Bytes)
			limits[f.Limit]++
			open += float64(min(f.High, 2*f.Rate)-f.Low) / float64(f.Rate) / runs
		}
		slices.Sort(errs)
		median := errs[len(errs)/2]
		t.Logf("%s: median error %.2f %%, p90 %.1f, worst %.1f; the interval, ±%.1f %%, holds the truth in %d of %d; %d bytes at most, limits %v",
			c.name, 100*median, 100*errs[len(errs)*9/10], 100*errs[len(errs)-1], 50*open, inside, runs, bytes, limits)
		if median > c.median || inside < runs*9/10 || c.mbit <= 200 && bytes > 300_000 {
			t.Errorf("%s: median error %.2f %%, %d of %d inside, %d bytes", c.name, 100*median, inside, runs, bytes)
		}
		if limits[ByTraffic] > runs/10 {
			t.Errorf("%s: limits %v", c.name, limits)
		}
	}
}
