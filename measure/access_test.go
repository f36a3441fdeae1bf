package measure

import (
	"math"
	"testing"
)

func TestAccess(t *testing.T) {
	const mbit = 1_000_000
	for name, c := range map[string]struct {
		configured int64
		paths      []int64
		want       int64
		source     Source
	}{
		"nothing is known":                  {0, nil, 0, Unknown},
		"somebody says it":                  {20 * mbit, []int64{99 * mbit, 98 * mbit}, 20 * mbit, Configured},
		"one path says nothing":             {0, []int64{100 * mbit}, 0, Unknown},
		"two agree":                         {0, []int64{95 * mbit, 99 * mbit}, 95 * mbit, Measured},
		"two differ":                        {0, []int64{50 * mbit, 100 * mbit}, 0, Unknown},
		"one path has a bottleneck":         {0, []int64{99 * mbit, 20 * mbit, 98 * mbit, 100 * mbit}, 99 * mbit, Measured},
		"several paths have the same one":   {0, []int64{99 * mbit, 20 * mbit, 98 * mbit, 20 * mbit, 20 * mbit}, 98 * mbit, Measured},
		"a neighbour is not behind it":      {0, []int64{940 * mbit, 96 * mbit, 95 * mbit, 30 * mbit}, 95 * mbit, Measured},
		"what isn't known doesn't count":    {0, []int64{0, 0, 0, 10 * mbit}, 0, Unknown},
		"what can't be true doesn't either": {0, []int64{-5, -5, math.MaxInt64, math.MaxInt64, math.MinInt64}, 0, Unknown},
	} {
		if got, source := AccessRate(c.configured, c.paths); got != c.want || source != c.source {
			t.Errorf("%s: %d, %v, want %d, %v", name, got, source, c.want, c.source)
		}
	}
}
