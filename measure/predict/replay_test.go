package predict

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/serf/coordinate"
)

// matrix reads a matrix of testdata. The diagonal, and what is missing or not
// above zero, is 0.
func matrix(t testing.TB, name string) [][]float64 {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(z)
	s.Buffer(nil, 1<<20)
	s.Scan() // a comment
	var m [][]float64
	for s.Scan() {
		var row []float64
		for _, x := range strings.Split(s.Text(), ",")[1:] {
			v, err := strconv.ParseFloat(x, 64)
			if err != nil || !(v > 0) || len(row) == len(m) {
				v = 0
			}
			row = append(row, v)
		}
		m = append(m, row)
	}
	return m
}

// roundTrips reads a matrix and makes it symmetric, as a round trip is the same
// from both ends: the mean of both directions, or the one that there is.
func roundTrips(t testing.TB, name string) [][]float64 {
	m := matrix(t, name)
	for i := range m {
		for j := range i {
			a, b := m[i][j], m[j][i]
			v := (a + b) / 2
			if a == 0 || b == 0 {
				v = a + b
			}
			m[i][j], m[j][i] = v, v
		}
	}
	return m
}

// graph chooses at random k neighbours for each of n agents, mutually: both ends
// measure a pair.
func graph(m [][]float64, k int, r *rand.Rand) [][]int {
	g := make([][]int, len(m))
	for range 20 * k {
		p := r.Perm(len(m))
		for x := 1; x < len(p); x += 2 {
			link(m, g, p[x-1], p[x], k)
		}
	}
	return g
}

func link(m [][]float64, g [][]int, i, j, k int) {
	if m[i][j] > 0 && len(g[i]) < k && len(g[j]) < k && !slices.Contains(g[i], j) {
		g[i], g[j] = append(g[i], j), append(g[j], i)
	}
}

// sample is what an agent's windowed minimum may be: 5 % jitter, and 2 % spikes
// of up to ten times the truth.
func sample(truth float64, r *rand.Rand) float64 {
	v := truth * max(1+0.05*r.NormFloat64(), 0.5)
	if r.Float64() < 0.02 {
		v *= 1 + 9*r.Float64()
	}
	return v
}

func ms(v float64) time.Duration { return time.Duration(v * float64(time.Millisecond)) }

// A replay feeds the same samples to a model and to serf's coordinates.
type replay struct {
	m      [][]float64
	g      [][]int
	times  *Latency
	serf   []*coordinate.Client
	random *rand.Rand
	round  int
	lie    func(from, to int, v float64) float64
}

func newReplay(t testing.TB, m [][]float64, k int, seed uint64, serf bool) *replay {
	r := rand.New(rand.NewPCG(seed, 99))
	p := &replay{m: m, g: graph(m, k, r), times: NewLatency(len(m), seed), random: r}
	if serf {
		for range m {
			c, err := coordinate.NewClient(coordinate.DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			p.serf = append(p.serf, c)
		}
	}
	return p
}

// sample lets every agent take so many samples, one of each neighbour in turn.
// After each, the model may fit so many slots.
func (p *replay) sample(samples, fits int) {
	for range samples {
		for i := range p.m {
			j := p.g[i][p.round%len(p.g[i])]
			v := sample(p.m[i][j], p.random)
			if p.serf != nil {
				p.serf[i].Update(strconv.Itoa(j), p.serf[j].GetCoordinate(), ms(v))
			}
			if p.lie != nil {
				v = p.lie(i, j, v)
			}
			p.times.Feed(i, j, ms(v), 1)
		}
		p.round++
		p.times.Improve(1, fits)
	}
}

func (p *replay) ours(i, j int) float64 {
	rtt, _, _ := p.times.Predict(i, j)
	return rtt.Seconds() * 1e3
}

func (p *replay) theirs(i, j int) float64 {
	return p.serf[i].GetCoordinate().DistanceTo(p.serf[j].GetCoordinate()).Seconds() * 1e3
}

// unmeasured calls f for all pairs that nobody measured; in quick runs of large
// networks for every fifth of them.
func (p *replay) unmeasured(f func(i, j int)) {
	few := len(p.m) > 200 && !full()
	for i := range p.m {
		for j := range i {
			if few && mix(uint64(i<<16|j))%5 != 0 {
				continue
			}
			if p.m[i][j] > 0 && !slices.Contains(p.g[i], j) && !slices.Contains(p.g[j], i) {
				f(i, j)
			}
		}
	}
}

// errors returns the median and the ninth decile of the relative errors, in percent.
func (p *replay) errors(guess func(i, j int) float64, count ...func(i, j int) bool) (median, p90 float64) {
	var e []float64
	p.unmeasured(func(i, j int) {
		if len(count) == 0 || count[0](i, j) {
			e = append(e, 100*math.Abs(guess(i, j)-p.m[i][j])/p.m[i][j])
		}
	})
	return quantile(e, 0.5), quantile(e, 0.9)
}

// within returns the share of truths within the stated interval, and the median
// errors in percent of the third of pairs of which the model is surest and least sure.
func (p *replay) within() (share, narrow, wide float64) {
	type pair struct{ within, off float64 }
	var pairs []pair
	p.unmeasured(func(i, j int) {
		rtt, within, _ := p.times.Predict(i, j)
		off := math.Expm1(math.Abs(math.Log(rtt.Seconds() * 1e3 / p.m[i][j])))
		pairs = append(pairs, pair{within, off})
		if off <= within {
			share++
		}
	})
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.within, b.within) })
	median := func(pairs []pair) float64 {
		var e []float64
		for _, x := range pairs {
			e = append(e, 100*x.off)
		}
		return quantile(e, 0.5)
	}
	n := len(pairs)
	return share / float64(n), median(pairs[:n/3]), median(pairs[n-n/3:])
}

func quantile(x []float64, q float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	slices.Sort(x)
	return x[int(q*float64(len(x)-1))]
}

// seeds is how many seeds a test tries: one, or what FARLAN_PREDICT says.
func seeds(t testing.TB, quick int) int {
	s := os.Getenv("FARLAN_PREDICT")
	if s == "" {
		return quick
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(fmt.Errorf("FARLAN_PREDICT: %w", err))
	}
	return n
}

func full() bool { return os.Getenv("FARLAN_PREDICT") != "" }
