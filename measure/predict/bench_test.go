package predict

import (
	"fmt"
	"testing"
	"time"

	"farlan/overlay"
)

// settledReplay is a network of n agents that has been measured for a while.
func settledReplay(b *testing.B, n int) *replay {
	p := newReplay(b, part(roundTrips(b, "planetlab490_rtt_ms.csv.gz"), n), min(32, n-1), 1, false)
	p.sample(100, n)
	return p
}

// A second of a quiet network of 100 agents: ten rows of 32 entries come anew, with
// one entry in fifty changed by a tenth; the model fits what that stirs.
func BenchmarkQuietSecond(b *testing.B) {
	const n = 100
	p := settledReplay(b, n)
	now, fits := overlay.Instant(1), 0
	for b.Loop() {
		now = now.Add(time.Second)
		for range n / 10 {
			i := p.random.IntN(n)
			for _, x := range p.times.claims[i] {
				rtt := p.m[i][x.to]
				if p.random.IntN(50) == 0 {
					rtt *= 1.1
				}
				p.times.Feed(i, x.to, ms(rtt), now)
			}
		}
		fits += p.times.Improve(now, 64)
	}
	b.ReportMetric(float64(fits)/float64(b.N), "fits/s")
	b.ReportMetric(100*b.Elapsed().Seconds()/float64(b.N), "%core")
}

// One fit of a slot with 32 claims.
func BenchmarkFit(b *testing.B) {
	for _, n := range []int{100, 490} {
		b.Run(fmt.Sprintf("slots=%d", n), func(b *testing.B) {
			p := settledReplay(b, n)
			k := 0
			for b.Loop() {
				p.times.fit(k % n)
				k++
			}
		})
	}
}

func BenchmarkPredict(b *testing.B) {
	p := settledReplay(b, 100)
	k := 0
	for b.Loop() {
		p.times.Predict(k%100, (k/100+1)%100)
		k++
	}
}

func BenchmarkNominate(b *testing.B) {
	p := settledReplay(b, 100)
	k := 0
	for b.Loop() {
		p.times.Nominate(k%100, 8, func(int) bool { return true })
		k++
	}
}

func BenchmarkRateFit(b *testing.B) {
	m := matrix(b, "skyplane63_gbps.csv.gz")
	p := newReplay(b, m, 16, 1, false)
	r := NewRates(len(m), 1)
	for i := range m {
		for _, j := range p.g[i] {
			r.Feed(i, j, int64(1e9*m[i][j]), false, 1)
		}
	}
	k := 0
	for b.Loop() {
		r.fit(k % len(m))
		k++
	}
}
