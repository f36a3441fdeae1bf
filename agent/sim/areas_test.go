package sim

import (
	"runtime"
	"testing"
	"time"

	"farlan/agent/decide"
)

// What it takes to simulate FARLAN_SIM_AREAS agents that start in areas.
func TestAreasScale(t *testing.T) {
	agents := number(t, "FARLAN_SIM_AREAS", 60)
	sizes := decide.Sizes{Whole: 20, Most: 20, Least: 4, Join: 15}
	if agents > 1000 {
		sizes = decide.Usual
	}
	minutes := number(t, "FARLAN_SIM_MINUTES", 3)
	s := New(Setting{Seed: 1, Agents: agents, Noise: 30, Sizes: sizes, Settled: true})
	begin := busy(t)
	var m runtime.MemStats
	for step := range number(t, "FARLAN_SIM_STEPS", minutes*6) {
		was, bytes, events, drawn, told, areas, rows := busy(t), s.bytes, s.events, s.drawn, s.told, s.areasTold, s.backboneTold
		s.Run(time.Duration(step+1) * 10 * time.Second)
		took := busy(t) - was
		runtime.ReadMemStats(&m)
		hashes, wide, gates := make(map[[32]byte]bool), make(map[[32]byte]bool), 0
		known := 0
		for _, a := range s.agents {
			if a.runs() {
				hashes[a.store.LocalHash()], wide[a.store.WideHash()] = true, true
				known += len(a.store.Gateways())
				if a.place.gate != nil {
					gates++
				}
			}
		}
		t.Logf("%3d s: %.1f times real time, %d MB (%d in use), %.2f kB/s an agent, %d events, %d pictures, %d+%d+%d records, %d areas, %d hashes, %d wide, %d gateways, %d known, %d pieces, %d moves", 10*(step+1),
			10/took.Seconds(), m.Sys>>20, m.HeapInuse>>20, float64(s.bytes-bytes)/10/float64(agents)/1000, s.events-events, s.drawn-drawn, s.told-told, s.areasTold-areas, s.backboneTold-rows,
			len(s.regions.people), len(hashes), len(wide), gates, known/agents, s.pieces(), s.moves)
	}
	runtime.KeepAlive(s)
	t.Logf("%d agents: %.1f times real time, %d MB", agents, float64(minutes)*60/(busy(t)-begin).Seconds(), m.Sys>>20)
}
