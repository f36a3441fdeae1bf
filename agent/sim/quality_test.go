package sim

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// planetLab returns the round trips between the first n of 490 nodes in µs, 0 if nobody
// knows; both directions' mean.
func planetLab(t testing.TB, n int) (all []int32) {
	t.Helper()
	f, err := os.Open("../../measure/predict/testdata/planetlab490_rtt_ms.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	lines.Scan() // a comment
	m := make([]float64, n*n)
	for i := 0; i < n && lines.Scan(); i++ {
		for j, x := range strings.Split(lines.Text(), ",")[1 : n+1] {
			if ms, _ := strconv.ParseFloat(x, 64); i != j {
				m[i*n+j] = 1000 * ms
			}
		}
	}
	for i := range n {
		for j := range n {
			a, b := m[i*n+j], m[j*n+i]
			if a > 0 && b > 0 {
				a = (a + b) / 2
			} else {
				a += b
			}
			all = append(all, int32(a))
		}
	}
	return all
}

// A result is what a cold start came to.
type result struct {
	quality  float64
	settled  int     // epochs until within 2 % of that for good
	replaced float64 // share of the links made in an epoch of the last fifteen
	burst    float64 // share of the links made in one epoch at most, but for the first three, when all make their ring
	movers   float64 // share of the agents that chose links in one epoch at most
	last     int     // links made in the last ten epochs
	peak     float64 // bytes an agent and second: the most in an epoch,
	end      float64 // and of the last ten epochs on average
	again    int     // links made that had been given up less than a dwell before
	degree   int     // links of the agent that had most at the end
	pieces   bool    // the links left agents in pieces after the first five epochs
}

func summary(all []Epoch, agents int) (r result) {
	n := len(all)
	r.quality = all[n-1].Quality
	links := float64(all[n-1].Links)
	for e, x := range all {
		r.movers = max(r.movers, float64(x.Movers)/float64(agents))
		if e >= 3 {
			r.burst = max(r.burst, float64(x.Made)/links)
		}
		if x.Quality > 1.02*r.quality || x.Quality < r.quality/1.02 {
			r.settled = e + 1
		}
		if e >= n-15 {
			r.replaced += float64(x.Made) / float64(x.Links) / 15
		}
		if e >= n-10 {
			r.last, r.end = r.last+x.Made, r.end+x.Bytes/10
		}
		r.peak, r.again, r.degree = max(r.peak, x.Bytes), r.again+x.Again, x.Degree
		r.pieces = r.pieces || e >= 5 && x.Pieces > 1
	}
	return r
}

// From a cold start agents settle, by what they tell each other in records and requests, on
// links whose ways are nearly as short as those of a full mesh; and stay there. The same
// with what they measure 3 % off, another way in each epoch.
func TestColdStart(t *testing.T) {
	sizes := []int{30}
	if long() {
		sizes = []int{100, 490}
		if n := number(t, "FARLAN_SIM_AGENTS", 0); n > 0 {
			sizes = []int{n}
		}
	}
	for _, n := range sizes {
		coldStart(t, n, 0)
		coldStart(t, n, 30)
	}
}

// coldStart is one of so many agents, whose measurements are off by so many thousandths.
func coldStart(t *testing.T, agents, noise int) {
	const epochs = 40
	begin := time.Now()
	s := NewCourse(Setting{Seed: 1, Agents: agents, Noise: noise, RTT: planetLab(t, agents)})
	var all []Epoch
	for e := range epochs {
		x := s.Next()
		all = append(all, x)
		t.Logf("epoch %2d: %.4f of the optimum, %d links, %d made, %d pieces, %.2f kB/s an agent, %d records", e+1, x.Quality, x.Links, x.Made, x.Pieces, x.Bytes/1000, x.Told)
		if e >= epochs-15 && len(x.Moves) > 0 {
			t.Logf("  %v", x.Moves)
		}
	}
	r := summary(all, agents)
	name := fmt.Sprintf("%d agents, %d %% of noise, cold start: ", agents, noise/10)
	t.Logf("%s%.4f of the optimum, within 2 %% of that after %d epochs; %.2f %% of the links made in an epoch of the last fifteen, %d in the last ten; %.1f kB/s an agent at most in an epoch, %.2f in the last ten; %d events, %.0f s for %d s",
		name, r.quality, r.settled, 100*r.replaced, r.last, r.peak/1000, r.end/1000, s.events, time.Since(begin).Seconds(), 10*epochs)
	atMost(t, name+"mean round trip by the full mesh's", r.quality, 1.08)
	atMost(t, name+"epochs until within 2 % of that", float64(r.settled), 18)
	if noise == 0 {
		atMost(t, name+"links made in the last ten of 40 epochs", float64(r.last), 0)
	}
	atMost(t, name+"% of the links made in an epoch of the last fifteen", 100*r.replaced, 0.5)
	atMost(t, name+"% of the links made in one epoch at most", 100*r.burst, 100*mostBurst)
	atMost(t, name+"% of the agents that chose links in one epoch at most", 100*r.movers, 100*mostMovers)
	if r.pieces || r.again > 0 || r.degree > 12 {
		t.Errorf("%s%+v", name, r)
	}
}

// mostBurst is which share of the links may be made in one epoch, but for the first.
const mostBurst = 0.18

// mostMovers is which share of the agents may choose links in one epoch: it is the turn of
// three tenths, by hash. Of 24 to 60 agents up to 37 % do with turns, and 60 to 92 % without.
const mostMovers = 0.5

// Without turns most agents choose links at once, and without hysteresis they replace them for
// ever: the checks of TestColdStart show it.
func TestLinkMutants(t *testing.T) {
	run := func(m mutant, agents, epochs int) result {
		c := NewCourse(Setting{Seed: 1, Agents: agents, Noise: 30, RTT: planetLab(t, agents), mutant: m})
		var all []Epoch
		for range epochs {
			all = append(all, c.Next())
		}
		r := summary(all, agents)
		t.Logf("mutant %d: %+v", m, r)
		return r
	}
	const replaced = 0.005
	if r := run(noTurns, 40, 10); r.movers <= mostMovers {
		t.Errorf("without turns: %+v", r)
	}
	if r := run(noHysteresis, 24, 30); r.replaced <= replaced {
		t.Errorf("without hysteresis: %+v", r)
	}
}

// busy returns how much time processors have worked for this process.
func busy(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What it takes to simulate FARLAN_SIM_SCALE agents that all start at once, and of whom a
// hundredth leaves and comes in the second minute. All are linked in the end.
func TestScale(t *testing.T) {
	agents := number(t, "FARLAN_SIM_SCALE", 30)
	s := New(Setting{Seed: 1, Agents: agents, Faults: Churn, Calm: time.Minute, Trouble: time.Minute})
	begin := busy(t)
	var m runtime.MemStats
	for step := range 18 {
		was, bytes, events, drawn := busy(t), s.bytes, s.events, s.drawn
		s.Run(time.Duration(step+1) * 10 * time.Second)
		took := busy(t) - was
		runtime.ReadMemStats(&m)
		t.Logf("%3d s: %.1f times real time, %d MB, %d links, %.2f kB/s an agent, %d events, %d pictures", 10*(step+1),
			10/took.Seconds(), m.Sys>>20, len(s.linked()), float64(s.bytes-bytes)/10/float64(agents)/1000, s.events-events, s.drawn-drawn)
	}
	t.Logf("%d agents: %.1f times real time, %d MB", agents, 180/(busy(t)-begin).Seconds(), m.Sys>>20)
	if long() || agents >= 1000 {
		atLeast(t, fmt.Sprintf("%d agents at once: times real time", agents), 180/(busy(t)-begin).Seconds(), 1)
		atMost(t, fmt.Sprintf("%d agents at once: MB", agents), float64(m.Sys>>20), 1024)
	}
	if n := s.pieces(); n != 1 {
		t.Errorf("%d pieces", n)
	}
}
