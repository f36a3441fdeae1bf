package predict

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

// What can't be true is refused, and changes nothing.
func TestRefused(t *testing.T) {
	l, r := NewLatency(4, 1), NewRates(4, 1)
	for _, c := range []struct {
		from, to int
		rtt      time.Duration
		rate     int64
	}{
		{-1, 0, 1, 1},
		{0, -1, 1, 1},
		{4, 0, 1, 1},
		{0, 4, 1, 1},
		{2, 2, 1, 1},
		{0, 1, 0, 0},
		{0, 1, -time.Second, -1},
		{0, 1, math.MinInt64, math.MinInt64},
		{0, 1, time.Minute + 1, maxRate + 1},
		{0, 1, math.MaxInt64, math.MaxInt64},
	} {
		if l.Feed(c.from, c.to, c.rtt, 1) || r.Feed(c.from, c.to, c.rate, false, 1) {
			t.Errorf("%+v was taken", c)
		}
	}
	if l.Improve(1, 10) != 0 || r.Improve(1, 10) != 0 {
		t.Error("there is something to fit")
	}
	for _, s := range [][2]int{{-1, 0}, {0, 4}, {1, 1}, {0, 1}} {
		if _, _, ok := l.Predict(s[0], s[1]); ok {
			t.Errorf("a time of %v is predicted", s)
		}
		if _, _, ok := r.Predict(s[0], s[1]); ok {
			t.Errorf("a rate of %v is predicted", s)
		}
	}
}

// Equal calls give equal answers; another seed gives others.
func TestDeterministic(t *testing.T) {
	m := part(roundTrips(t, "planetlab490_rtt_ms.csv.gz"), 60)
	run := func(seed uint64) (all []time.Duration) {
		p := newReplay(t, m, 12, 3, false)
		p.times = NewLatency(len(m), seed)
		p.sample(24, len(m))
		p.unmeasured(func(i, j int) {
			rtt, _, _ := p.times.Predict(i, j)
			all = append(all, rtt)
		})
		return all
	}
	if a, b := run(1), run(1); !slices.Equal(a, b) {
		t.Error("two runs of one seed differ")
	}
	if a, b := run(1), run(2); slices.Equal(a, b) {
		t.Error("two seeds give the same")
	}
}

// What one end alone claims moves nothing of the other end.
func TestOneSidedClaimMovesNothing(t *testing.T) {
	fit := func(more func(l *Latency)) [models]point {
		l := NewLatency(8, 1)
		for i := range 6 {
			for j := range 6 {
				if i != j {
					l.Feed(i, j, ms(float64(20+10*max(i, j))), 1)
				}
			}
		}
		for range 100 {
			l.Improve(1, 8)
		}
		more(l)
		var at [models]point
		for k := range l.agenda.stir {
			l.agenda.stir[k] = 0
		}
		l.agenda.stir[0] = 1 // only the slot that is lied about
		l.Improve(1, 8)
		for m, s := range l.spaces {
			at[m] = s.points[0]
		}
		return at
	}
	quiet := fit(func(*Latency) {})
	if lied := fit(func(l *Latency) { l.Feed(7, 0, time.Microsecond, 1); l.Feed(7, 1, time.Minute, 1) }); lied != quiet {
		t.Error("a claim of slot 7 moved slot 0")
	}
	if moved := fit(func(l *Latency) { l.Feed(0, 1, ms(500), 1) }); moved == quiet {
		t.Error("slot 0's own claim didn't move it")
	}
}

// Two who contradict each other don't measure: the pair counts little.
func TestDisagreement(t *testing.T) {
	c := make(claims, 2)
	c.put(0, claim{to: 1, log: 3})
	if w := c.accord(0, c[0][0]); w != 1 {
		t.Errorf("a claim that nobody contradicts counts %v", w)
	}
	c.put(1, claim{to: 0, log: 3.05})
	if log, ok := c.pair(0, 1); !ok || math.Abs(log-3.025) > 1e-9 || c.accord(0, c[0][0]) < 0.9 {
		t.Errorf("two that agree: %v, %v", log, ok)
	}
	c.put(1, claim{to: 0, log: 6})
	if _, ok := c.pair(0, 1); ok || c.accord(0, c[0][0]) > 0.01 {
		t.Error("two that contradict each other are believed")
	}
}

// A row has its bound: the oldest claim gives way. Claims that aren't repeated go.
func TestClaimsBounded(t *testing.T) {
	l, r := NewLatency(200, 1), NewRates(200, 1)
	for j := 1; j < 200; j++ {
		l.Feed(0, j, ms(10), overlay.Instant(j))
		r.Feed(0, j, 1e9, false, overlay.Instant(j))
	}
	for _, c := range []claims{l.claims, r.claims} {
		if len(c[0]) != maxClaims || c[0][0].to != 200-maxClaims {
			t.Errorf("%d claims from slot %d on, want the newest %d", len(c[0]), c[0][0].to, maxClaims)
		}
	}
	later := overlay.Instant(0).Add(claimLife + time.Second)
	for range 200 {
		l.Improve(later, 1)
		r.Improve(later, 1)
	}
	if len(l.claims[0]) != 0 || len(r.claims[0]) != 0 {
		t.Errorf("%d and %d old claims are left", len(l.claims[0]), len(r.claims[0]))
	}
}

// A slot that was reset is nobody's; its next agent is found where it is, within
// what the others know by then.
func TestReset(t *testing.T) {
	t.Parallel()
	m := part(roundTrips(t, "planetlab490_rtt_ms.csv.gz"), 80)
	p := newReplay(t, m, 32, 1, false)
	p.sample(64, len(m)/2)
	const slot = 17
	of := func(i, j int) bool { return i == slot || j == slot }
	before, _ := p.errors(p.ours, of)
	p.times.Reset(slot)
	if _, _, ok := p.times.Predict(slot, 3); ok || slices.Contains(p.times.Nominate(3, len(m), func(int) bool { return true }), slot) {
		t.Error("a slot that was reset is predicted")
	}
	for i, row := range p.times.claims {
		if _, ok := p.times.claims.find(i, slot); ok || i == slot && len(row) > 0 {
			t.Errorf("slot %d still claims something of it", i)
		}
	}
	p.sample(32, len(m)/2) // every pair once
	after, _ := p.errors(p.ours, of)
	t.Logf("median error of its pairs: %.1f %%, as a newcomer %.1f %%", before, after)
	if after > 2*before+5 {
		t.Errorf("median error of a newcomer's pairs %.1f %%, %.1f %% before", after, before)
	}
}

// When nothing changes there is soon nothing to do; a change is worked off.
func TestSettles(t *testing.T) {
	t.Parallel()
	m := part(roundTrips(t, "planetlab490_rtt_ms.csv.gz"), 100)
	p := newReplay(t, m, 24, 1, false)
	p.sample(24, len(m))
	settle := func() (fits int) {
		for range 1000 {
			n := p.times.Improve(1, len(m))
			if fits += n; n == 0 {
				return fits
			}
		}
		t.Fatal("never settles")
		return
	}
	first := settle()
	p.times.Feed(3, p.g[3][0], ms(1.5*m[3][p.g[3][0]]), 1)
	change := settle()
	t.Logf("100 slots settle after %d further fits, after one change of 50 %% after %d", first, change)
	if change == 0 || change > 2000 {
		t.Errorf("%d fits after one change", change)
	}
}

// A lower bound pushes a rate up only, and one above the model does.
func TestLowerBound(t *testing.T) {
	fit := func(bound int64) int64 {
		r := NewRates(20, 1)
		for i := range 20 {
			for j := range 20 {
				if i != j && j != 7 {
					r.Feed(i, j, 1e9, false, 1)
				}
			}
			if i != 7 && i != 0 && bound > 0 {
				r.Feed(i, 7, bound, true, 1)
			} else if i != 7 && i != 0 && i < 6 {
				r.Feed(i, 7, 1e9, false, 1)
			}
		}
		if bound > 0 {
			for i := 1; i < 6; i++ {
				r.Feed(i, 7, 1e9, false, 1)
			}
		}
		for range 100 {
			r.Improve(1, 20)
		}
		rate, _, ok := r.Predict(0, 7)
		if !ok {
			t.Fatal("nothing predicted")
		}
		return rate
	}
	none, low, high := fit(0), fit(1e6), fit(3e9)
	t.Logf("0 to 7: %d without, %d with low bounds, %d with high ones", none, low, high)
	if math.Abs(float64(low-none)) > 0.02*float64(none) {
		t.Errorf("bounds far below the rate changed it from %d to %d", none, low)
	}
	if high < none*5/4 {
		t.Errorf("bounds above the rate changed it only from %d to %d", none, high)
	}
}

// One agent in twenty lies about the rates that it sends.
func TestRateLiars(t *testing.T) {
	t.Parallel()
	m := matrix(t, "skyplane63_gbps.csv.gz")
	run := func(lie func(v float64, r *rand.Rand) float64) float64 {
		var e []float64
		for seed := range 2 {
			r := rand.New(rand.NewPCG(uint64(seed), 5))
			model := NewRates(len(m), uint64(seed))
			for i := range m {
				for _, j := range r.Perm(len(m))[:16] {
					if i != j && m[i][j] > 0 {
						v := sample(m[i][j], r)
						if i%20 == 3 {
							v = lie(v, r)
						}
						model.Feed(i, j, int64(1e9*v), false, 1)
					}
				}
			}
			for range 60 {
				model.Improve(1, len(m))
			}
			for i := range m {
				for j := range m {
					if rate, _, ok := model.Predict(i, j); ok && i%20 != 3 && m[i][j] > 0 {
						e = append(e, 100*math.Abs(float64(rate)/1e9-m[i][j])/m[i][j])
					}
				}
			}
		}
		return quantile(e, 0.5)
	}
	honest := run(func(v float64, _ *rand.Rand) float64 { return v })
	random := run(func(_ float64, r *rand.Rand) float64 { return math.Exp(16*r.Float64() - 8) })
	scaled := run(func(v float64, _ *rand.Rand) float64 { return 100 * v })
	t.Logf("no liars %.2f %%, of random rates %.2f %%, of hundredfold rates %.2f %%", honest, random, scaled)
	if random > 1.1*honest || scaled > 1.1*honest {
		t.Error("liars spoil what is said of others")
	}
}

// Whatever is fed, in whatever order, answers are numbers and tables are bounded.
func FuzzModels(f *testing.F) {
	f.Add([]byte{0, 1, 2, 255, 3, 1, 0, 9})
	f.Add(slices.Repeat([]byte{1, 2, 200, 7, 2, 1, 3, 200}, 40))
	f.Fuzz(func(t *testing.T, ops []byte) {
		const n = 12
		l, r := NewLatency(n, 1), NewRates(n, 1)
		now := overlay.Instant(1)
		for ; len(ops) >= 4; ops = ops[4:] {
			i, j := int(ops[0]%16)-2, int(ops[1]%16)-2
			v := int64(ops[2]) << (ops[3] % 64)
			switch {
			case ops[0] < 200:
				l.Feed(i, j, time.Duration(v), now)
				r.Feed(i, j, v, ops[3]&64 != 0, now)
			case ops[0] < 210 && i >= 0 && i < n:
				l.Reset(i)
				r.Reset(i)
			case ops[0] < 220:
				l.Forget(i, j)
				r.Forget(i, j)
			default:
				now = now.Add(time.Duration(ops[2]) * time.Second)
				l.Improve(now, int(ops[3]%32)-2)
				r.Improve(now, int(ops[3]%32)-2)
			}
		}
		for i := range n {
			for j := range n {
				if v, w, ok := l.Predict(i, j); ok && (v < 0 || v > maxTime || !(w >= 0)) {
					t.Fatalf("time of %d and %d: %v ± %v", i, j, v, w)
				}
				if v, w, ok := r.Predict(i, j); ok && (v < 0 || v > maxRate || !(w >= 0)) {
					t.Fatalf("rate from %d to %d: %v ± %v", i, j, v, w)
				}
			}
			l.Nominate(i, 3, func(int) bool { return true })
		}
	})
}
