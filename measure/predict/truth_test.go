package predict

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Round trips of pairs that nobody measured, on real matrices: how wrong, how sure,
// and how wrong serf's coordinates are that got the same samples. FARLAN_PREDICT=5
// tries 5 seeds and more samples.
func TestTruthRoundTrips(t *testing.T) {
	t.Parallel()
	cases := []struct {
		file                  string
		k, seeds              int
		samples, fits         int // samples an agent takes, slots fitted after each
		median, p90, narrower float64
	}{
		{"planetlab490_rtt_ms.csv.gz", 32, 1, 100, 100, 8, 40, 1.5},
		{"aws32_p50_1y_rtt_ms.csv.gz", 10, 4, 100, 20, 11, 100, 1.2},
	}
	if full() {
		more := cases[0]
		more.samples = 512
		more64, more16 := more, more
		more64.k, more16.k, more16.median, more16.p90 = 64, 16, 10, 60
		cases = append(cases, more, more64, more16)
	}
	for _, c := range cases {
		m := roundTrips(t, c.file)
		var all []outcome
		for seed := range max(seeds(t, c.seeds), c.seeds) {
			p := newReplay(t, m, c.k, uint64(seed), true)
			p.sample(c.samples, c.fits)
			var o outcome
			o.median, o.p90 = p.errors(p.ours)
			o.serf, o.serfP90 = p.errors(p.theirs)
			o.within, o.narrow, o.wide = p.within()
			t.Logf("%s, k = %d, %d samples, seed %d: %.1f %% (p90 %.0f %%), serf %.1f %% (p90 %.0f %%); %.2f of truths are within the stated interval; median error %.1f %% in the surest third, %.1f %% in the least sure",
				c.file, c.k, c.samples, seed, o.median, o.p90, o.serf, o.serfP90, o.within, o.narrow, o.wide)
			all = append(all, o)
		}
		o := typical(all)
		t.Logf("%s, k = %d, %d samples, all %d seeds: %.1f %% (p90 %.0f %%), serf %.1f %% (p90 %.0f %%); %.2f within", c.file, c.k, c.samples, len(all), o.median, o.p90, o.serf, o.serfP90, o.within)
		if o.median > c.median || o.p90 > c.p90 {
			t.Errorf("%s: median error %.1f %%, p90 %.0f %%, want at most %v and %v", c.file, o.median, o.p90, c.median, c.p90)
		}
		if o.median >= o.serf || o.p90 >= o.serfP90 {
			t.Errorf("%s: not better than serf", c.file)
		}
		if o.within < 0.62 || o.within > 0.85 {
			t.Errorf("%s: %.2f of the truths are within an interval that says 2 of 3", c.file, o.within)
		}
		if o.wide < c.narrower*o.narrow {
			t.Errorf("%s: what the model is sure of is hardly better than the rest", c.file)
		}
	}
}

type outcome struct{ median, p90, serf, serfP90, within, narrow, wide float64 }

// typical returns the means over the seeds.
func typical(all []outcome) (o outcome) {
	n := float64(len(all))
	for _, x := range all {
		o.median += x.median / n
		o.p90 += x.p90 / n
		o.serf += x.serf / n
		o.serfP90 += x.serfP90 / n
		o.within += x.within / n
		o.narrow += x.narrow / n
		o.wide += x.wide / n
	}
	return o
}

// Rates of pairs that nobody measured, each agent having measured what it sends to
// 16 others.
func TestTruthRates(t *testing.T) {
	t.Parallel()
	m := matrix(t, "skyplane63_gbps.csv.gz")
	var mean, within float64
	n := seeds(t, 3)
	for seed := range n {
		r := rand.New(rand.NewPCG(uint64(seed), 5))
		model := NewRates(len(m), uint64(seed))
		g := make([][]int, len(m))
		for i := range m {
			for _, j := range r.Perm(len(m)) {
				if m[i][j] > 0 && len(g[i]) < 16 {
					g[i] = append(g[i], j)
					model.Feed(i, j, int64(1e9*sample(m[i][j], r)), false, 1)
				}
			}
		}
		for range 100 {
			model.Improve(1, len(m))
		}
		var e, in []float64
		for i := range m {
			for j := range m {
				if m[i][j] == 0 || slices.Contains(g[i], j) {
					continue
				}
				rate, w, ok := model.Predict(i, j)
				if !ok {
					t.Fatalf("nothing said of %d to %d", i, j)
				}
				off := math.Log(float64(rate) / 1e9 / m[i][j])
				e = append(e, 100*math.Abs(math.Expm1(off)))
				if math.Abs(off) <= math.Log1p(w) {
					in = append(in, 1)
				}
			}
		}
		median := quantile(e, 0.5)
		share := float64(len(in)) / float64(len(e))
		t.Logf("seed %d: %.1f %% (p90 %.0f %%), %.2f within", seed, median, quantile(e, 0.9), share)
		mean += median / float64(n)
		within += share / float64(n)
	}
	t.Logf("63 regions, k = 16, %d seeds: %.1f %%, %.2f within", n, mean, within)
	if mean > 15 {
		t.Errorf("median error %.1f %%, want at most 15", mean)
	}
	if within < 0.6 || within > 0.85 {
		t.Errorf("%.2f of the truths are within an interval that says 2 of 3", within)
	}
}

// One agent in twenty lies: of huge and tiny times at random, or five times what it
// measures. What is predicted of pairs of honest ones suffers by a tenth at most.
func TestLiars(t *testing.T) {
	t.Parallel()
	m := roundTrips(t, "planetlab490_rtt_ms.csv.gz")
	rounds := 2
	if !full() {
		m, rounds = part(m, 100), 1
	}
	liar := func(i int) bool { return i%20 == 3 }
	honest := func(i, j int) bool { return !liar(i) && !liar(j) }
	lies := map[string]func(p *replay, v float64) float64{
		"huge and tiny": func(p *replay, v float64) float64 { return math.Exp(12*p.random.Float64() - 3) },
		"five times":    func(_ *replay, v float64) float64 { return 5 * v },
		"a fifth":       func(_ *replay, v float64) float64 { return v / 5 },
		"one":           func(*replay, float64) float64 { return 1 },
	}
	names := []string{"", "huge and tiny", "five times", "a fifth", "one"}
	if !full() {
		names = names[:3]
	}
	for _, mutual := range []bool{true, false} {
		var base float64
		for _, name := range names {
			var median, p90 float64
			for seed := range rounds {
				p := newReplay(t, m, 32, uint64(seed), false)
				if !mutual {
					p.g = picks(m, 32, p.random)
				}
				if name != "" {
					p.lie = func(from, _ int, v float64) float64 {
						if liar(from) {
							return lies[name](p, v)
						}
						return v
					}
				}
				p.sample(64, len(m)/3)
				a, b := p.errors(p.ours, honest)
				median += a / float64(rounds)
				p90 += b / float64(rounds)
			}
			t.Logf("claims by both ends %v, 5 %% liars of %q: %.2f %% (p90 %.0f %%)", mutual, name, median, p90)
			if base == 0 {
				base = median
			}
			if median > 1.1*base {
				t.Errorf("liars of %q: error of honest pairs %.2f %%, %.2f %% without liars", name, median, base)
			}
		}
	}
}

// picks chooses k neighbours for each agent that only this agent measures.
func picks(m [][]float64, k int, r *rand.Rand) [][]int {
	g := make([][]int, len(m))
	for i := range m {
		for _, j := range r.Perm(len(m)) {
			if m[i][j] > 0 && len(g[i]) < k {
				g[i] = append(g[i], j)
			}
		}
	}
	return g
}

// part returns every so many-th row and column of a matrix, n in all.
func part(m [][]float64, n int) [][]float64 {
	o := make([][]float64, n)
	for i := range o {
		for j := range n {
			o[i] = append(o[i], m[i*len(m)/n][j*len(m)/n])
		}
	}
	return o
}
