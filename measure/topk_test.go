package measure

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

func pairOf(from, to overlay.MAC) *StationPair {
	return (*StationPair)(append(append([]byte(nil), to[:]...), from[:]...))
}

func station(i int) overlay.MAC { return overlay.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)} }

// Of many more flows than there is room for, those with the most bytes are counted, none
// of them too low, and too high by no more than is said.
func TestTopIsRight(t *testing.T) {
	for _, flows := range []int{10, MaxFlows, 20_000} {
		var top Top
		truth := make(map[[2]int]uint64)
		r := rand.New(rand.NewPCG(1, uint64(flows)))
		all := uint64(0)
		for range 200_000 {
			// Zipf's law, as traffic has it.
			i := int(float64(flows) * math.Pow(r.Float64(), 6))
			from, to, bytes := i, i/3+100_000, 60+r.IntN(1450)
			top.Count(pairOf(station(from), station(to)), overlay.AgentPlace(i%7), bytes)
			truth[[2]int{from, to}] += uint64(bytes)
			all += uint64(bytes)
		}
		got := make(map[[2]overlay.MAC]Flow)
		taken := top.Take(nil)
		sum := uint64(0)
		for _, f := range taken {
			got[[2]overlay.MAC{f.From(), f.To()}] = f
			sum += f.Bytes
		}
		if len(got) != len(taken) || len(taken) > MaxFlows || len(taken) < min(len(truth), MaxFlows) || sum != all {
			t.Errorf("%d flows: %d are counted, %d of them different, %d of %d bytes", len(truth), len(taken), len(got), sum, all)
		}
		big, worst := 0, 0.0
		for k, bytes := range truth {
			f, ok := got[[2]overlay.MAC{station(k[0]), station(k[1])}]
			if bytes > all/MaxFlows {
				if big++; !ok {
					t.Errorf("%d flows: one of %d of %d bytes is missing", flows, bytes, all)
				}
				worst = max(worst, float64(f.Bytes-bytes)/float64(bytes))
			}
			if ok && (f.Bytes < bytes || f.Bytes-f.Over > bytes || f.Place != overlay.AgentPlace(k[0]%7)) {
				t.Errorf("%d flows: %d bytes, counted %+v", flows, bytes, f)
			}
		}
		t.Logf("%d flows: %d have more than 1 of %d of all bytes, the worst counted %.1f %% too high", len(truth), big, MaxFlows, 100*worst)
		if again := top.Take(nil); len(again) != 0 {
			t.Errorf("%d flows are left", len(again))
		}
	}
}

// Any order of flows leaves the table whole.
func FuzzTop(f *testing.F) {
	f.Add([]byte{1, 2, 3, 250, 4, 1}, uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, spread uint16) {
		var top Top
		sum := uint64(0)
		for i, x := range b {
			for k := range 40 {
				top.Count(pairOf(station((int(x)*40+k)%(int(spread)+1)), station(i%3)), 0, int(x))
				sum += uint64(x)
			}
		}
		for i := range top.used {
			flow := top.flows[i]
			if got := top.find(&flow.StationPair); got != &top.flows[i] {
				t.Fatalf("flow %d isn't found", i)
			}
			sum -= flow.Bytes
		}
		if sum != 0 {
			t.Fatalf("%d bytes are missing", sum)
		}
	})
}

func TestTopDoesNotAllocate(t *testing.T) {
	var top Top
	pair := pairOf(station(1), station(2))
	if n := testing.AllocsPerRun(1000, func() { top.Count(pair, 0, 1500); pair[4]++; pair[11] += 3 }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTop(b *testing.B) {
	for name, flows := range map[string]int{"one": 1, "some": 50, "too many": 5000} {
		b.Run(name, func(b *testing.B) {
			var top Top
			var pairs []*StationPair
			for i := range flows {
				pairs = append(pairs, pairOf(station(i), station(1)))
			}
			b.ResetTimer()
			for i := range b.N {
				top.Count(pairs[i%flows], 0, 1500)
			}
		})
	}
}

// Rates follow what is sent within seconds, and what ends is forgotten.
func TestFlows(t *testing.T) {
	var f Flows
	now := overlay.Instant(time.Hour)
	f.Add(now, nil)
	send := func(seconds int, bytes uint64) {
		for range seconds {
			now = now.Add(time.Second)
			var sent []Flow
			if bytes > 0 {
				sent = []Flow{{StationPair: *pairOf(station(1), station(2)), Place: overlay.AgentPlace(3), Bytes: bytes + 5, Over: 5}}
			}
			f.Add(now, sent)
		}
	}
	send(15, 1_250_000) // 10 Mbit/s
	got := f.Top(9)
	if len(got) != 1 || math.Abs(got[0].Rate-10e6) > 0.06*10e6 || got[0].Place != overlay.AgentPlace(3) {
		t.Errorf("%+v", got)
	}
	send(10, 0)
	if got := f.Top(9); len(got) != 1 || got[0].Rate > 0.5e6 {
		t.Errorf("10 s after its end: %+v", got)
	}
	send(60, 0)
	if got := f.Top(9); len(got) != 0 {
		t.Errorf("%+v isn't forgotten", got)
	}
	for i := range 5000 {
		now = now.Add(time.Second)
		f.Add(now, []Flow{{StationPair: *pairOf(station(i), station(i+1)), Bytes: uint64(i) << 30}})
	}
	if len(f.rates) > flowsKept {
		t.Errorf("%d are remembered", len(f.rates))
	}
	if top := f.Top(3); len(top) != 3 || !slices.IsSortedFunc(top, func(a, b FlowRate) int { return int(b.Rate - a.Rate) }) {
		t.Errorf("%+v", top)
	}
}
