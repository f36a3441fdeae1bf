package sim

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"farlan/agent/decide"
)

// What it takes to simulate FARLAN_SIM_AREAS agents in areas that ran for long, how much they
// say, and how good their ways are. The same seed gives the same run.
func TestAreasScale(t *testing.T) {
	agents, steps := number(t, "FARLAN_SIM_AREAS", 60), number(t, "FARLAN_SIM_STEPS", 6)
	sizes := small
	if agents > 1000 {
		sizes = decide.Usual
	}
	// Most of what is alive is there for long: collecting garbage twice as often takes little.
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	begin := busy(t)
	set := Setting{Seed: 1, Agents: agents, Noise: 30, Sizes: sizes, Settled: true}
	s := New(set)
	t.Logf("made in %.1f s", (busy(t) - begin).Seconds())
	slowest, trace := math.Inf(1), uint64(0)
	begin = busy(t)
	for step := range steps {
		if step == steps/2 {
			s.Count()
		}
		slowest = min(slowest, stretch(t, s, step))
		if step == 0 {
			trace = s.Trace()
		}
	}
	speed, sent := float64(10*steps)/(busy(t)-begin).Seconds(), s.Spent()
	peak := peakMB(t)
	quality, without := s.Sample(12)
	t.Logf("%d agents: %.2f times real time, %.2f at the slowest, %d MB at most, %.0f bytes/s an agent in the median, %.0f in nine of ten, %.0f at most; ways are %.3f of the optimum, %d pairs of %d have none",
		agents, speed, slowest, peak, sent.Quantile(50), sent.Quantile(90), sent.Quantile(100), quality, without, 12*(agents-1))
	if agents > 1000 {
		name := fmt.Sprintf("%d agents in areas: ", agents)
		atLeast(t, name+"times real time, the slowest 10 s", slowest, 1)
		atMost(t, name+"MB", float64(peak), 1024)
		atMost(t, name+"ways of the optimum", quality, 1.2)
		atMost(t, name+"kB/s an agent", float64(s.bytes)/float64(10*steps*agents)/1000, 4)
	}
	if without > 0 {
		t.Errorf("%d pairs without a way", without)
	}
	if c := s.sample(5); !c.well() {
		t.Errorf("%+v", c)
	}
	if n := s.pieces(); n != 1 {
		t.Errorf("%d pieces", n)
	}
	s = New(set)
	s.Run(10 * time.Second)
	if s.Trace() != trace {
		t.Error("the same seed ran differently")
	}
}

// stretch runs for ten seconds, and returns how many times faster than real time.
func stretch(t *testing.T, s *Sim, step int) (speed float64) {
	t.Helper()
	was, before := busy(t), s.counters
	s.Run(time.Duration(step+1) * 10 * time.Second)
	speed = 10 / (busy(t) - was).Seconds()
	members, gateways := s.perArea()
	t.Logf("%3d s: %.2f times real time, %.2f kB/s an agent, %d events, %d pictures, %d+%d+%d records of links, areas, gateways; %d areas, %d of them with gateways, %d moves",
		10*(step+1), speed, float64(s.bytes-before.bytes)/10/float64(len(s.agents))/1000, s.events-before.events, s.drawn-before.drawn,
		s.told-before.told, s.areasTold-before.areasTold, s.backboneTold-before.backboneTold, len(members), len(gateways), s.moves)
	return speed
}

// peakMB returns how much memory the process had at most (VmHWM, proc_pid_status(5)).
func peakMB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kB, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kB / 1024
}

// What becomes of frames between agents in areas of whom a hundredth leaves and comes in a minute;
// none loops or is taken twice, and afterwards all come.
func TestAreasChurn(t *testing.T) {
	agents, minutes := number(t, "FARLAN_SIM_AREAS", 60), number(t, "FARLAN_SIM_MINUTES", 1)
	sizes := small
	if agents > 1000 {
		sizes = decide.Usual
	}
	trouble := time.Duration(minutes) * time.Minute
	s := New(Setting{
		Seed: 2, Agents: agents, Noise: 30, Sizes: sizes, Settled: true,
		Faults: Churn, Calm: 10 * time.Second, Trouble: trouble,
	})
	var c sampled
	for now := 10 * time.Second; now < 10*time.Second+trouble; now += 5 * time.Second {
		s.Run(now)
		c.add(s.sample(1).Traffic)
		for range 20 {
			a, b := s.agents[s.draw(uint64(agents))], s.agents[s.draw(uint64(agents))]
			if a != b && a.runs() && b.runs() {
				c.Sent++
				if p := s.path(a.chart(), a.n, b.n); p != nil {
					c.Delivered++
				} else {
					c.NoPath++
				}
			}
		}
	}
	t.Logf("%d agents, in trouble: %+v, %.2f kB/s an agent, %d records of areas", agents, c, float64(s.bytes)/s.now.Sub(beginning).Seconds()/float64(agents)/1000, s.areasTold)
	if c.Again+c.Deep+c.Looped > 0 || c.Delivered < c.Sent*9/10 {
		t.Errorf("in trouble: %+v", c)
	}
	s.Run(s.now.Sub(beginning) + 90*time.Second)
	after := s.sample(20)
	t.Logf("afterwards: %+v", after)
	if !after.well() {
		t.Errorf("afterwards: %+v", after)
	}
}

// A network that starts all at once is divided, and so is one that ran undivided, of more agents
// than a picture can show: in the end all are in areas and reach each other.
func TestColdStartDivides(t *testing.T) {
	agents := number(t, "FARLAN_SIM_CROWD", 32)
	sizes := small
	if agents > 1000 {
		sizes = decide.Usual
	}
	s := New(Setting{Seed: 4, Agents: agents, Noise: 30, Sizes: sizes})
	if agents > 1000 {
		s = New(Setting{Seed: 4, Agents: agents, Noise: 30, Settled: true})
		s.set.Sizes = sizes
	}
	s.Run(50 * time.Second)
	took, ok := s.Until(10*time.Minute, func() bool { m, _ := s.perArea(); return len(m) > 1 && len(m[0]) == 0 })
	members, _ := s.perArea()
	t.Logf("after %v %d areas, %d moves", took+50*time.Second, len(members), s.moves)
	if !ok {
		t.Errorf("%d are in no area", len(members[0]))
	}
	s.Run(s.now.Sub(beginning) + 6*time.Minute)
	if c := s.sample(10); !c.well() {
		t.Errorf("%+v", c)
	}
}
