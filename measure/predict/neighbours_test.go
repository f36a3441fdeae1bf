package predict

import (
	"math"
	"slices"
	"testing"
)

// Whom to measure: the same number of neighbours, some of them chosen by nearness
// as the model sees it after the first half. Half near is better than none, for
// all pairs, for short ones, and for finding the nearest.
func TestTruthNeighbours(t *testing.T) {
	t.Parallel()
	m := roundTrips(t, "planetlab490_rtt_ms.csv.gz")
	shares, fits := []int{0, 4, 8, 12, 16}, len(m)
	if !full() {
		m, shares, fits = part(m, 120), []int{0, 8}, 40
	}
	// Pairs that are never measured judge all choices alike.
	hidden := func(i, j int) bool { return mix(uint64(max(i, j)*len(m)+min(i, j)))%10 == 0 }
	open := part(m, len(m))
	for i := range m {
		for j := range m {
			if hidden(i, j) {
				open[i][j] = 0
			}
		}
	}
	var p90, short, found []float64
	for _, near := range shares {
		p := newReplay(t, open, 16, 1, false)
		p.sample(48, fits)
		p.more(near, 32)
		p.sample(96, fits)
		var all, below []float64
		for i := range m {
			for j := range i {
				if !hidden(i, j) {
					continue
				}
				e := 100 * math.Abs(p.ours(i, j)-m[i][j]) / m[i][j]
				all = append(all, e)
				if m[i][j] < 30 {
					below = append(below, e)
				}
			}
		}
		p90, short = append(p90, quantile(all, 0.9)), append(short, quantile(below, 0.5))
		t.Logf("16 random and %d near, %d random neighbours: %.1f %% (p90 %.0f %%), pairs below 30 ms %.0f %%",
			near, 16-near, quantile(all, 0.5), quantile(all, 0.9), quantile(below, 0.5))
		for _, n := range []int{1, 8, 16} {
			ratio, nearer := nominated(p.times, m, n)
			t.Logf("    best of %d nominated: %.2f times as far as the nearest, %.0f of the others are nearer (medians)", n, ratio, nearer)
			if n == 8 {
				found = append(found, nearer)
			}
		}
	}
	half := len(shares) / 2
	if p90[half] >= p90[0] || short[half] >= short[0] || found[half] > found[0] {
		t.Errorf("half near: p90 %.1f %%, below 30 ms %.1f %%, %v nearer; none near: %.1f %%, %.1f %%, %v",
			p90[half], short[half], found[half], p90[0], short[0], found[0])
	}
	if found[half] > 3 {
		t.Errorf("%.0f others are nearer than the best of 8 nominated", found[half])
	}
}

// more gives every agent near nominated neighbours and fills up to k at random.
func (p *replay) more(near, k int) {
	for i := range p.m {
		room := len(p.g[i]) + near
		for _, j := range p.times.Nominate(i, 4*k, func(j int) bool { return p.m[i][j] > 0 }) {
			link(p.m, p.g, i, j, min(room, k))
		}
	}
	for range 20 * k {
		o := p.random.Perm(len(p.m))
		for x := 1; x < len(o); x += 2 {
			link(p.m, p.g, o[x-1], o[x], k)
		}
	}
	p.round = 0
}

// nominated returns how far the best of n nominated is, in times of the nearest, and
// how many others are nearer: the medians over all agents.
func nominated(l *Latency, m [][]float64, n int) (ratio, nearer float64) {
	var ratios, ranks []float64
	for i := range m {
		got, best, rank := math.Inf(1), math.Inf(1), 0.0
		for _, j := range l.Nominate(i, n, func(j int) bool { return m[i][j] > 0 }) {
			got = min(got, m[i][j])
		}
		for j := range m {
			if m[i][j] > 0 {
				best = min(best, m[i][j])
				if m[i][j] < got {
					rank++
				}
			}
		}
		ratios, ranks = append(ratios, got/best), append(ranks, rank)
	}
	return quantile(ratios, 0.5), quantile(ranks, 0.5)
}

// The recommended choice: half nominated, the rest random, stable.
func TestNeighbours(t *testing.T) {
	m := part(roundTrips(t, "planetlab490_rtt_ms.csv.gz"), 80)
	p := newReplay(t, m, 16, 1, false)
	all := func(int) bool { return true }
	if n := p.times.Neighbours(0, 10, 1, all); len(n) != 10 {
		t.Fatalf("%d neighbours before anything is known, want 10 random ones", len(n))
	}
	p.sample(32, len(m))
	a := p.times.Neighbours(5, 10, 1, all)
	gone := a[9]
	b := p.times.Neighbours(5, 10, 1, func(j int) bool { return j != gone })
	if len(a) != 10 || slices.Contains(a, 5) || !slices.Equal(a[:5], p.times.Nominate(5, 5, all)) {
		t.Errorf("%v: want ten others, the five that seem nearest first", a)
	}
	if !slices.Equal(a[:9], b[:9]) || b[9] == gone {
		t.Errorf("without %d, %v became %v: want one changed", gone, a, b)
	}
	if c := p.times.Neighbours(5, 200, 1, all); len(c) != 79 {
		t.Errorf("%d neighbours of 79", len(c))
	}
}
