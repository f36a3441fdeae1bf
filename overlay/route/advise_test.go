package route

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// plainCost is what a flow costs between two agents, by looking at every path.
func (w *world) plainCost(from, to int32) uint64 {
	least := uint64(maxMicros)
	if from == to {
		return 0
	}
	w.paths(int(from), int(to), MaxHops, func(p Path) { least = min(least, w.micros(p)) })
	return least
}

// plainSum is what the flows of a station cost if it is at an agent.
func (w *world) plainSum(stations []Station, flows []Flow, s int, at int32) (sum uint64) {
	for _, x := range flows {
		switch {
		case x.From == x.To:
		case x.From == s:
			sum += uint64(x.Kbit) * w.plainCost(at, stations[x.To].Agent)
		case x.To == s:
			sum += uint64(x.Kbit) * w.plainCost(stations[x.From].Agent, at)
		}
	}
	return sum
}

// What is advised is the best that any move of one station gives, and nothing is left
// out that saves a tenth.
func TestAdviseIsBest(t *testing.T) {
	advised, silent, fixed := 0, 0, 0
	for seed := range uint64(80) {
		r := rand.New(rand.NewPCG(seed, 11))
		n := 4 + r.IntN(4)
		w := randomWorld(r, n, 0.4, false)
		stations, flows := make([]Station, 3+r.IntN(5)), []Flow(nil)
		for i := range stations {
			stations[i] = Station{int32(r.IntN(n)), r.IntN(4) == 0}
		}
		for range r.IntN(12) {
			flows = append(flows, Flow{r.IntN(len(stations)), r.IntN(len(stations)), uint32(r.IntN(5000))})
		}
		hosts := []int32{}
		for h := range int32(n) {
			if seed%2 == 0 || r.IntN(2) == 0 {
				hosts = append(hosts, h)
			}
		}
		var f Finder
		all := f.Advise(w.graph(), hosts, stations, flows)
		if seed%2 == 0 && !slices.Equal(all, f.Advise(w.shuffled(r), nil, stations, flows)) {
			t.Errorf("seed %d: other advice by the same facts", seed)
		}
		for i, x := range all[:max(0, len(all)-1)] {
			if x.Was-x.Will < all[i+1].Was-all[i+1].Will {
				t.Errorf("seed %d: %+v before %+v", seed, x, all[i+1])
			}
		}
		for s, station := range stations {
			was, will := w.plainSum(stations, flows, s, station.Agent), uint64(math.MaxUint64)
			for _, h := range hosts {
				will = min(will, w.plainSum(stations, flows, s, h))
			}
			worth := !station.Fixed && was > 0 && will < was && (was-will)*10 >= was
			i := slices.IndexFunc(all, func(x Advice) bool { return x.Station == s })
			switch {
			case (i >= 0) != worth:
				t.Errorf("seed %d: station %d, fixed %v: from %d to %d, advice %v", seed, s, station.Fixed, was, will, i)
			case i < 0 && station.Fixed:
				fixed++
			case i < 0:
				silent++
			default:
				x := all[i]
				advised++
				if x.From != station.Agent || x.Was != was || x.Will != will || w.plainSum(stations, flows, s, x.To) != will || !slices.Contains(hosts, x.To) {
					t.Errorf("seed %d: %+v, want %d to %d", seed, x, was, will)
				}
			}
		}
	}
	t.Logf("%d advised, %d better left, %d fixed", advised, silent, fixed)
	if advised < 100 || silent < 50 || fixed < 50 {
		t.Error("too few cases to tell")
	}
}

// Bottlenecks are those of the widest paths, what the station's own flows take given back.
func TestAdviseTellsBottlenecks(t *testing.T) {
	w := newWorld(4)                                                                      // 0 and 1 far apart, 2 near 1
	w.link(0, 1, 100_000, 10_000).link(1, 2, 2000, 400_000).link(0, 3, 90_000, 1_000_000) // 3 reaches only 0
	stations := []Station{{0, false}, {1, true}, {1, true}, {3, true}}
	flows := []Flow{{0, 1, 8000}, {2, 0, 1000}}
	var f Finder
	g := w.graph()
	want := Advice{Station: 0, From: 0, To: 1, Was: 9000 * 50_500, Will: 0, WasKbit: 11_000, WillKbit: math.MaxUint32, Unless: -1}
	if got := f.Advise(g, nil, stations, flows); len(got) != 1 || got[0] != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	want.To, want.Will, want.WillKbit = 2, 9000*1500, 400_000
	if got := f.Advise(g, []int32{0, 2, 3}, stations, flows); len(got) != 1 || got[0] != want {
		t.Errorf("only to 2 or 3: %+v, want %+v", got, want)
	}
	w.find(1, 2).RateKbit = 0
	want.WillKbit = 0
	if got := f.Advise(w.graph(), []int32{0, 2, 3}, stations, flows); len(got) != 1 || got[0] != want {
		t.Errorf("a rate isn't known: %+v, want %+v", got, want)
	}
}

// Of two that talk to each other one should move, not both.
func TestAdviseSaysWhatExcludesWhat(t *testing.T) {
	g := newWorld(3).link(0, 1, 50_000, 1000).link(1, 2, 50_000, 1000).graph()
	var f Finder
	stations := []Station{{0, false}, {1, false}, {0, false}, {2, false}}
	got := f.Advise(g, nil, stations, []Flow{{0, 1, 1000}, {2, 3, 900}})
	unless := make(map[int]int)
	for _, x := range got {
		unless[x.Station] = x.Unless
	}
	// 2 and 3 are twice as far from each other as 0 and 1 are.
	if len(got) != 4 || got[0].Station != 2 || unless[0] != -1 || unless[1] != 2 || unless[2] != -1 || unless[3] != 0 {
		t.Errorf("%+v", got)
	}
}

// There is a bound to flows and to advice, and those of most weight are in it. Nothing
// that is told makes it panic.
func TestAdviseIsBounded(t *testing.T) {
	g := newWorld(2).link(0, 1, 50_000, 1000).graph()
	stations, flows := []Station{{1, true}}, []Flow(nil)
	for i := range 2 * MaxFlows {
		stations = append(stations, Station{0, false})
		flows = append(flows, Flow{i + 1, 0, uint32(i)}, Flow{0, i + 1, math.MaxUint32})
	}
	var f Finder
	got := f.Advise(g, nil, stations, flows[:2*MaxFlows])
	if len(got) != MaxAdvice || got[0].Was != maxFlow*25_500 || got[0].Will != 0 {
		t.Errorf("%d pieces of advice, first %+v", len(got), got[0])
	}
	odd := []Station{{-1, false}, {2, false}, {1 << 30, false}, {0, false}, {1, false}}
	if got := f.Advise(g, []int32{-1, 7, 1}, odd, []Flow{{-1, 3, 5}, {3, 9, 5}, {3, 3, 5}, {0, 3, 5}, {3, 2, 5}, {1, 4, 5}}); len(got) != 0 {
		t.Errorf("about nobody: %+v", got)
	}
	most := make([]Flow, MaxFlows) // the greatest sum that there can be
	for i := range most {
		most[i] = Flow{0, 1, math.MaxUint32}
	}
	apart := []Station{{0, false}, {1, false}}
	if got := f.Advise(newWorld(2).graph(), nil, apart, most); len(got) != 2 || got[0].Was != MaxFlows*maxFlow*maxMicros || got[0].WasKbit != 0 || got[0].WillKbit != math.MaxUint32 {
		t.Errorf("%+v", got)
	}
	if f.Advise(New(nil, nil), nil, apart, most) != nil || f.Advise(g, nil, nil, nil) != nil {
		t.Error("advice without anything to go by")
	}
}
