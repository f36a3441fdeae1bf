package sim

import (
	"runtime"
	"testing"
	"time"

	"farlan/agent/decide"
)

// What it takes to simulate FARLAN_SIM_AREAS agents in areas that ran for long, how much they
// say, and how good their ways are.
func TestAreasScale(t *testing.T) {
	agents, steps := number(t, "FARLAN_SIM_AREAS", 60), number(t, "FARLAN_SIM_STEPS", 6)
	sizes := small
	if agents > 1000 {
		sizes = decide.Usual
	}
	begin := busy(t)
	s := New(Setting{Seed: 1, Agents: agents, Noise: 30, Sizes: sizes, Settled: true})
	t.Logf("made in %.0f s", (busy(t) - begin).Seconds())
	virtual, real := 0.0, 0.0
	for step := range steps {
		if step == steps/2 {
			s.Count()
			virtual, real = 0, 0
		}
		was, bytes, events, drawn, told, areas, rows := busy(t), s.bytes, s.events, s.drawn, s.told, s.areasTold, s.backboneTold
		s.Run(time.Duration(step+1) * 10 * time.Second)
		took := (busy(t) - was).Seconds()
		virtual, real = virtual+10, real+took
		members, gateways := s.perArea()
		t.Logf("%3d s: %.2f times real time, %.2f kB/s an agent, %d events, %d pictures, %d+%d+%d records of links, areas, gateways; %d areas, %d of them with gateways, %d moves",
			10*(step+1), 10/took, float64(s.bytes-bytes)/10/float64(agents)/1000, s.events-events, s.drawn-drawn,
			s.told-told, s.areasTold-areas, s.backboneTold-rows, len(members), len(gateways), s.moves)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	sent := s.Spent()
	quality, without := s.Sample(4)
	t.Logf("%d agents: %.2f times real time in the second half, %d MB in use, %d MB in all, %.0f bytes/s an agent in the median, %.0f in nine of ten, %.0f at most; ways are %.3f of the optimum, %d pairs of %d have none",
		agents, virtual/real, m.HeapInuse>>20, m.Sys>>20, sent.Quantile(50), sent.Quantile(90), sent.Quantile(100), quality, without, 4*(agents-1))
	if c := s.sample(5); c.Again+c.Deep+c.Looped > 0 || !c.well() {
		t.Errorf("%+v", c)
	}
	if n := s.pieces(); n != 1 {
		t.Errorf("%d pieces", n)
	}
}
