package route

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"farlan/overlay"
)

// A pair stays on its path for little, moves for much in turn, and at once when it broke.
func TestChoose(t *testing.T) {
	const direct, relay = 100_000, 30_000
	make := func(directKbit, relayKbit, relayRTT uint32) *Graph {
		return newWorld(30).link(0, 2, direct, directKbit).link(0, 1, relayRTT, relayKbit).link(1, 2, relayRTT, relayKbit).graph()
	}
	straight, around := Path{0, 2}, Path{0, 1, 2}
	const any, never = 0, 1<<32 - 1
	for _, c := range []struct {
		name    string
		g       *Graph
		current Path
		load    uint32
		lot     uint32
		want    Path
		why     Reason
	}{
		{"the widest at first", make(10_000, 80_000, relay), nil, 0, never, around, None},
		{"not its turn", make(1, 20_000, relay), straight, 10_000, never, straight, NotItsTurn},
		{"its turn", make(1, 20_000, relay), straight, 10_000, any, around, None},
		{"it carries nothing", make(10_000, 80_000, relay), straight, 0, never, around, None},
		{"a quarter wider is too little by a relay", make(80_000, 100_000, direct), straight, 0, any, straight, TooLittle},
		{"more is enough", make(80_000, 100_010, direct), straight, 0, any, around, None},
		{"an eighth wider is too little", make(90_000, 80_000, direct/2), around, 0, any, around, TooLittle},
		{"more is enough for the direct link", make(90_010, 80_000, direct/2), around, 0, any, straight, None},
		{"as wide and much shorter", make(80_000, 80_000, relay), straight, 0, any, around, None},
		{"as wide and little shorter", make(80_000, 80_000, 40_000), straight, 0, any, straight, TooLittle},
		{"its own load fills the relay", make(10_000, 1, relay), around, 80_000, any, around, None},
		{"another's load does", make(10_000, 1, relay), around, 500, any, straight, None},
		{"it has what it wants", make(5_000, 80_000, relay), straight, 5_000, any, straight, Enough},
		{"it wants more", make(500, 80_000, relay), straight, 9_500, any, around, None},
		{"the relay went", newWorld(3).link(0, 2, direct, 10_000).link(0, 1, relay, 80_000).graph(), around, 0, never, straight, None},
		{"the direct rate isn't known", make(0, 80_000, relay), around, 0, any, straight, None},
		{"the relay's isn't", make(10_000, 0, relay), straight, 0, any, straight, None},
		{"a path of others is none", make(10_000, 80_000, relay), Path{1, 2}, 0, never, around, None},
		{"nobody is reached", newWorld(3).link(0, 1, relay, 1).graph(), around, 5, any, nil, None},
	} {
		var f Finder
		got := f.Choose(c.g, Pair{0, 2, c.current, c.load, c.lot}, nil)
		if !slices.Equal(got.Path, c.want) || got.Why != c.why {
			t.Errorf("%s: %v, %v; want %v, %v", c.name, got.Path, got.Why, c.want, c.why)
		}
	}
}

// Two heavy pairs of an agent that would share a relay are spread if another one is
// nearly as good; if it is much worse, they share.
func TestTwoPairsAreSpread(t *testing.T) {
	for _, c := range []struct {
		second uint32 // kbit/s of the second relay
		same   bool
	}{{90_000, false}, {20_000, true}} {
		w := newWorld(5) // 0 sends to 3 and 4 by 1 or 2
		for v, kbit := range []uint32{1: 100_000, 2: c.second} {
			w.nodes[v].UpKbit, w.nodes[v].DownKbit = kbit, kbit
			for _, u := range []int{0, 3, 4} {
				if v > 0 {
					w.link(v, u, 20_000, 500_000)
				}
			}
		}
		w.link(0, 3, 80_000, 5_000).link(0, 4, 80_000, 5_000)
		g := w.graph()
		var f Finder
		one := f.Choose(g, Pair{0, 3, nil, 0, 0}, nil).Path
		two := f.Choose(g, Pair{0, 4, nil, 0, 0}, []Load{{one, -60_000}}).Path
		if one[1] != 1 || (two[1] == one[1]) != c.same {
			t.Errorf("second relay of %d kbit/s: %v and %v", c.second, one, two)
		}
	}
}

// Lots are even, and others in each epoch.
func TestLot(t *testing.T) {
	quarter, twice := 0, 0
	for e := range uint64(100) {
		for i := range 100 {
			if Lot(e, id(i), id(i+1)) < 1<<30 {
				quarter++
				if Lot(e+1, id(i), id(i+1)) < 1<<30 {
					twice++
				}
			}
		}
	}
	if quarter < 2350 || quarter > 2650 || twice < 525 || twice > 725 {
		t.Errorf("%d lots of 10,000 in the lowest quarter, %d of these two in a row", quarter, twice)
	}
}

// Who has more room to go to moves more often, and who may be in others' way less often.
func TestOdds(t *testing.T) {
	const direct, relayed = false, true
	wide := func(kbit uint32) Figures { return Figures{RateKbit: kbit, CostMicros: 100} }
	for _, c := range []struct {
		agents     int
		from, to   bool
		now, best  Figures
		percentage uint64
	}{
		{100, relayed, direct, wide(100), wide(200), 50},
		{100, relayed, direct, wide(100), wide(1000), 90},
		{100, direct, relayed, wide(100), wide(125), 6},
		{100, direct, relayed, wide(100), wide(200), 16},
		{100, direct, relayed, wide(100), wide(500), 100},
		{4, direct, relayed, wide(100), wide(150), 100},
		{100, relayed, relayed, wide(100), wide(200), 7},
		{100, relayed, relayed, wide(100), wide(2400), 50},
		{3, relayed, relayed, wide(100), wide(200), 66},
		{2, relayed, relayed, wide(100), wide(100), 50},
		{100, relayed, relayed, wide(100), Figures{RateKbit: 100, CostMicros: 50}, 7},
		{100, relayed, direct, wide(100), wide(0), 96},
		{100, direct, relayed, wide(0), wide(1), 100},
		{100, relayed, relayed, wide(1), wide(1<<32 - 1), 51},
	} {
		if got := odds(c.agents, c.from, c.to, room(c.now, c.best)) * 100 >> 32; got != c.percentage {
			t.Errorf("%+v: moves with %d %%", c, got)
		}
	}
}

// What an explanation says would change the choice does, and a little less doesn't.
func TestExplainedChangesAreTrue(t *testing.T) {
	tried, stays := make(map[string]int), 0
	const load = 30
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 5))
		w := randomWorld(r, 9, 0.3, false)
		from := int32(r.IntN(9))
		to := (from + 1 + int32(r.IntN(8))) % 9
		var f Finder
		choose := func(c overlay.Class, g *Graph, current Path) Path {
			if c == overlay.ClassBulk {
				return f.Choose(g, Pair{from, to, current, load, 0}, nil).Path
			}
			return f.delayTo(g, from, to, none)
		}
		for _, c := range []overlay.Class{overlay.ClassDelay, overlay.ClassBulk} {
			current := choose(c, w.graph(), nil)
			x := f.Explain(w.graph(), c, Pair{from, to, current, load, 0}, nil)
			if !slices.Equal(x.Chosen.Path, choose(c, w.graph(), current)) || len(x.Changes) != max(0, len(x.Chosen.Path)-1) {
				t.Fatalf("seed %d: %v explains %d links of another path", seed, x.Chosen.Path, len(x.Changes))
			}
			for _, change := range x.Changes {
				l := w.find(int(change.From), int(change.To))
				was := *l
				expect := func(want Path, what string) {
					t.Helper()
					tried[fmt.Sprint(c, what)]++
					if got := choose(c, w.graph(), x.Chosen.Path); !slices.Equal(got, want) {
						t.Errorf("seed %d, class %d, %+v: %s: %v instead of %v, want %v", seed, c, change, what, got, x.Chosen.Path, want)
					}
					*l = was
				}
				if c == overlay.ClassDelay && change.Instead != nil {
					l.QueueMicros += change.Micros + 1
					expect(change.Instead, "a microsecond too slow")
					if change.Micros > 0 {
						l.QueueMicros += change.Micros - 1
						expect(x.Chosen.Path, "just fast enough")
					}
				}
				if c == overlay.ClassBulk && change.Kbit > load && slices.Equal(current, x.Chosen.Path) {
					l.RateKbit = change.Kbit - load
					expect(change.Instead, "too narrow")
					if was.RateKbit != 0 {
						l.RateKbit = change.Kbit + 1 - load
						expect(x.Chosen.Path, "just wide enough")
					}
				} else if c == overlay.ClassBulk {
					stays++
				}
			}
		}
	}
	t.Logf("tried %v; %d links stay however narrow", tried, stays)
	for _, n := range tried {
		if n < 50 {
			t.Error("too few cases to tell")
		}
	}
}

// An explanation gives each rejected path the reason that it was rejected for.
func TestExplainedReasons(t *testing.T) {
	w := newWorld(8) // from 0 to 1
	w.link(0, 1, 200_000, 10_000)
	for v, rtt := range []uint32{2: 30_000, 3: 10_000, 4: 40_000, 5: 30_000} {
		if v >= 2 {
			w.link(0, v, rtt, 80_000).link(v, 1, rtt, 80_000)
		}
	}
	w.nodes[3].NoTransit = true
	w.find(4, 1).RateKbit = 500_000
	w.find(0, 4).RateKbit = 500_000
	g := w.graph()
	var f Finder
	reasons := func(x Explanation) map[string]Reason {
		all := map[string]Reason{fmt.Sprint(x.Chosen.Path): None}
		for _, o := range x.Rejected {
			all[fmt.Sprint(o.Path)] = o.Reason
		}
		return all
	}
	delay := reasons(f.Explain(g, overlay.ClassDelay, Pair{From: 0, To: 1}, nil))
	if delay["[0 2 1]"]+delay["[0 5 1]"] != Tie {
		t.Errorf("relays 2 and 5 are alike: %v", delay)
	}
	for path, why := range map[string]Reason{"[0 1]": Longer, "[0 4 1]": Longer, "[0 3 1]": NoTransit} {
		if delay[path] != why {
			t.Errorf("delay: %s is %v, want %v", path, delay[path], why)
		}
	}
	bulk := reasons(f.Explain(g, overlay.ClassBulk, Pair{From: 0, To: 1, Current: Path{0, 2, 1}, LoadKbit: 1000}, nil))
	for path, why := range map[string]Reason{"[0 2 1]": None, "[0 1]": Narrower, "[0 4 1]": Enough, "[0 5 1]": Tie, "[0 3 1]": NoTransit} {
		if got, ok := bulk[path]; !ok || got != why {
			t.Errorf("bulk: %s is %v (%v), want %v", path, got, ok, why)
		}
	}
	w.find(0, 2).RateKbit = 1
	limited := Pair{From: 0, To: 1, Current: Path{0, 2, 1}, LoadKbit: 5000, Lot: 1<<32 - 1}
	bulk = reasons(f.Explain(w.graph(), overlay.ClassBulk, limited, nil))
	if bulk["[0 2 1]"] != None || bulk["[0 4 1]"] != NotItsTurn || bulk["[0 1]"] != NotItsTurn {
		t.Errorf("it waits: %v", bulk)
	}
	limited.LoadKbit = 75_000
	w.find(0, 4).RateKbit = 80_000
	if bulk = reasons(f.Explain(w.graph(), overlay.ClassBulk, limited, nil)); bulk["[0 4 1]"] != TooLittle {
		t.Errorf("it isn't worth it: %v", bulk)
	}
	w.find(0, 1).Up = false
	w.find(4, 1).RateKbit = 0
	g = w.graph()
	bulk = reasons(f.Explain(g, overlay.ClassBulk, Pair{From: 0, To: 1}, nil))
	if bulk["[0 1]"] != Down || bulk["[0 4 1]"] != RateUnknown {
		t.Errorf("bulk: %v", bulk)
	}
	long := newWorld(10).link(0, 9, 900_000, 1)
	for v := 1; v < 10; v++ {
		long.link(v-1, v, 1000, 1)
	}
	if x := reasons(f.Explain(long.graph(), overlay.ClassDelay, Pair{From: 0, To: 9}, nil)); x["[0 1 2 3 4 5 6 7 8 9]"] != TooLong {
		t.Errorf("nine links: %v", x)
	}
	if x := f.Explain(g, overlay.ClassDelay, Pair{From: 0, To: 7}, nil); x.Chosen.Path != nil || x.Chosen.Reason != NoPath || x.Rejected[0].Reason != NoLink {
		t.Errorf("whom nobody has a link to: %+v", x)
	}
	for r := None; r <= NotItsTurn; r++ {
		if r.String() == "" || r.String() == "unknown" {
			t.Errorf("reason %d has no text", r)
		}
	}
}
