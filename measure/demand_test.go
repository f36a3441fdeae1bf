package measure

import (
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

// A demandWorld gives Demands a second at a time.
type demandWorld struct {
	d   Demands
	now overlay.Instant
}

func newDemandWorld() *demandWorld {
	w := &demandWorld{now: overlay.Instant(time.Hour)}
	w.d.Add(w.now, nil)
	return w
}

// flow is what a pair sent in a second.
func flow(pair byte, rate int64, waited time.Duration) Flow {
	return Flow{StationPair: StationPair{5: pair, 11: pair}, Place: overlay.AgentPlace(1), Bytes: uint64(rate / 8), Waited: waited, Waiting: int64(waited / 1000)}
}

func (w *demandWorld) second(flows ...Flow) {
	w.now = w.now.Add(time.Second)
	w.d.Add(w.now, flows)
}

func (w *demandWorld) pair(t *testing.T, n byte) Demand {
	t.Helper()
	all := w.d.Pairs()
	i := slices.IndexFunc(all, func(d Demand) bool { return d.From[5] == n })
	if i < 0 {
		t.Fatalf("pair %d isn't followed: %+v", n, all)
	}
	return all[i]
}

// What a pair sends is told second by second, with its 95th percentile, since when, and for how
// much of a minute it was harmed.
func TestDemand(t *testing.T) {
	w := newDemandWorld()
	begin := w.now
	for range 57 {
		w.second(flow(1, 10e6, 0), flow(1, 10e6, time.Millisecond)) // by two lanes
	}
	if d := w.pair(t, 1); d.Rate != 20e6 || d.P95 != 20e6 || d.Since != begin || d.Hurt != 0 || d.Wait != time.Millisecond {
		t.Errorf("steady: %+v", d)
	}
	for range 3 {
		w.second(flow(1, 90e6, 30*time.Millisecond))
	}
	if d := w.pair(t, 1); d.Rate != 90e6 || d.P95 != 20e6 || d.Hurt != 3*time.Second || d.Waiting != 30_000 {
		t.Errorf("three seconds are one in twenty: %+v", d)
	}
	w.second(flow(1, 90e6, 30*time.Millisecond))
	if d := w.pair(t, 1); d.P95 != 90e6 || d.Hurt != 4*time.Second {
		t.Errorf("four are more: %+v", d)
	}
	for range 3 {
		w.second()
	}
	w.second(flow(1, 5e6, 0))
	if d := w.pair(t, 1); d.Since == begin || d.Rate != 5e6 {
		t.Errorf("it paused: %+v", d)
	}
	since := w.pair(t, 1).Since
	for range 20 {
		w.second(flow(1, 5e6, 0))
		w.second()
	}
	if d := w.pair(t, 1); d.Since != since || d.Wait != 0 {
		t.Errorf("pauses of a second are none: %+v", d)
	}
	for range 61 {
		w.second()
	}
	if len(w.d.Pairs()) != 0 {
		t.Error("it is followed for ever")
	}
}

// There are never more than the bound, and those that send the most are followed.
func TestDemandsAreBounded(t *testing.T) {
	w := newDemandWorld()
	for range 10 {
		var all []Flow
		for i := range 250 {
			all = append(all, flow(byte(i), int64(i+1)*1e6, 0))
		}
		slices.Reverse(all)
		w.second(all...)
	}
	all := w.d.Pairs()
	if len(all) != MaxDemands || all[0].P95 != 250e6 || all[len(all)-1].P95 != (250-MaxDemands+1)*1e6 {
		t.Errorf("%d pairs, from %d to %d", len(all), all[0].P95, all[len(all)-1].P95)
	}
	w.second(flow(255, 300e6, 0))
	if w.pair(t, 255).Rate != 300e6 || len(w.d.Pairs()) != MaxDemands {
		t.Error("a new one that sends more isn't followed")
	}
	w.second(flow(254, DemandLeast-8, 0))
	if slices.ContainsFunc(w.d.Pairs(), func(d Demand) bool { return d.From[5] == 254 }) {
		t.Error("one that sends little is followed")
	}
	// A clock that stands still, or leaps, makes no rates.
	before := w.d.Pairs()
	w.d.Add(w.now, []Flow{flow(255, 1e12, 0)})
	if after := w.d.Pairs(); !slices.Equal(before, after) {
		t.Error("in no time")
	}
	w.now = w.now.Add(time.Hour)
	w.d.Add(w.now, []Flow{flow(255, 8e9, 0)})
	if d := w.pair(t, 255); d.Rate > 3e6 {
		t.Errorf("after an hour: %+v", d)
	}
}

// How long frames waited is counted with their flow.
func TestTopWaits(t *testing.T) {
	var top Top
	a, b := &StationPair{1}, &StationPair{2}
	top.Count(a, 1, 100)
	top.Count(b, 1, 100)
	top.Wait(a, 3*time.Millisecond)
	top.Wait(a, 9*time.Millisecond)
	top.Wait(a, time.Millisecond)
	for _, f := range top.Take(nil) {
		if want := map[byte]time.Duration{1: 9 * time.Millisecond}[f.StationPair[0]]; f.Waited != want || f.Bytes != 100 {
			t.Errorf("%+v, want %v", f, want)
		}
	}
}
