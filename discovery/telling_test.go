package discovery

import (
	"math/rand/v2"
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// tellTest is an agent's telling of one link or more, by steps.
type tellTest struct {
	t      *testing.T
	k      Telling
	now    overlay.Instant
	agents int
	links  []Link
	count  int
}

func newTellTest(t *testing.T, agents int) *tellTest {
	w := &tellTest{t: t, now: at(0), agents: agents}
	for i := 1; i < min(agents, 33); i++ {
		w.links = append(w.links, Link{Peer: overlay.AgentID{byte(i)}, Pair: measure.Pair{RTT: 50 * time.Millisecond, RTTSource: measure.Measured, MTU: 1400}})
	}
	w.look()
	w.after(65 * time.Minute) // it is renewed each ten minutes, or rarer
	return w
}

// look tells if it is due, and says whether it was.
func (w *tellTest) look() bool {
	links := append([]Link(nil), w.links...)
	if !w.k.Due(w.now, links, Facts{}, w.agents) {
		return false
	}
	w.k.Told(w.now, links, Facts{}, w.agents)
	w.count++
	return true
}

// after looks each second for a while and returns when it was told first, -1 never.
func (w *tellTest) after(d time.Duration) time.Duration {
	first := time.Duration(-1)
	for passed := time.Second; passed <= d; passed += time.Second {
		w.now = w.now.Add(time.Second)
		if w.look() && first < 0 {
			first = passed
		}
	}
	return first
}

// What is news, and how soon it is told by one of ten agents that has said nothing for
// long.
func TestTelling(t *testing.T) {
	const ms, slow = time.Millisecond, tellAfter + time.Second
	for _, c := range []struct {
		name   string
		change func(p *measure.Pair)
		within time.Duration // -1: isn't news
	}{
		{"nothing", func(*measure.Pair) {}, -1},
		{"2 %", func(p *measure.Pair) { p.RTT = 51 * ms }, -1},
		{"5 %", func(p *measure.Pair) { p.RTT = 52600 * time.Microsecond }, slow},
		{"a step", func(p *measure.Pair) { p.RTT = 120 * ms }, time.Second},
		{"a loss of the round trip", func(p *measure.Pair) { p.RTT, p.RTTSource = 0, measure.Unknown }, time.Second},
		{"little jitter", func(p *measure.Pair) { p.Jitter = 4 * ms }, -1},
		{"jitter", func(p *measure.Pair) { p.Jitter = 6 * ms }, slow},
		{"a queue", func(p *measure.Pair) { p.Queue = 30 * ms }, slow},
		{"loss", func(p *measure.Pair) { p.Loss, p.LossHigh, p.LossKnown = 0.02, 0.03, true }, slow},
		{"a capacity", func(p *measure.Pair) { p.Capacity, p.CapacitySource = 1e8, measure.Passive }, slow},
		{"an MTU", func(p *measure.Pair) { p.MTU = 1300 }, slow},
		{"available", func(p *measure.Pair) { p.Available = 1e7 }, slow},
	} {
		w := newTellTest(t, 10)
		c.change(&w.links[3].Pair)
		if got := w.after(30 * time.Second); got != c.within {
			t.Errorf("%s: told after %v, want %v", c.name, got, c.within)
		}
	}
	w := newTellTest(t, 10)
	w.links = w.links[1:]
	if got := w.after(30 * time.Second); got != time.Second {
		t.Errorf("a link that is gone is told after %v", got)
	}
	// 10 % more than what was told to be between 0 and 1 % is news, half a per cent isn't.
	lossy := measure.Pair{Loss: 0.005, LossHigh: 0.01, LossKnown: true}
	for loss, want := range map[float64]News{0.007: NoNews, 0.013: NoNews, 0.02: SlowNews, 0.1: Urgent} {
		if got := NewsOf(lossy, measure.Pair{Loss: loss, LossLow: loss - 0.004, LossHigh: loss + 0.004, LossKnown: true}); got != want {
			t.Errorf("loss of %v: %v, want %v", loss, got, want)
		}
	}
	fast := measure.Pair{Capacity: 1e8, CapacitySource: measure.Passive}
	for rate, want := range map[int64]News{1.04e8: NoNews, 1.06e8: SlowNews, 0.9e8: SlowNews, 0.2e8: Urgent} {
		if got := NewsOf(fast, measure.Pair{Capacity: rate, CapacitySource: measure.Passive}); got != want {
			t.Errorf("%d bit/s: %v, want %v", rate, got, want)
		}
	}
}

// However restless the paths are, what is told stays within the share of an agent, and
// a step is told within the burst.
func TestTellingRate(t *testing.T) {
	for _, agents := range []int{2, 10, 33, 100, 1000} {
		w := newTellTest(t, agents)
		r := rand.New(rand.NewPCG(1, uint64(agents)))
		w.count = 0
		const hours = 3
		restless := func() {
			for i := range w.links {
				w.links[i].RTT = time.Duration(float64(50*time.Millisecond) * (0.8 + 0.4*r.Float64()))
			}
		}
		for range hours * 3600 {
			restless()
			w.after(time.Second)
		}
		share := rowsEvery(agents)
		want := int(hours*time.Hour/share) + tellBursts(agents) + 1
		t.Logf("%d agents: %d records in %d hours, one each %v", agents, w.count, hours, (hours * time.Hour / time.Duration(w.count)).Round(time.Second))
		if w.count > want || w.count < want/2 {
			t.Errorf("%d agents: %d records, want %d at most", agents, w.count, want)
		}

		w = newTellTest(t, agents)
		w.count = 0
		w.after(2 * time.Hour)
		t.Logf("%d agents: %d records in 2 quiet hours", agents, w.count)
		if w.count > 12 {
			t.Errorf("%d agents tell %d times in 2 hours that nothing changed", agents, w.count)
		}
		// Quiet, but for chance: steps are told soon.
		for i := range tellBurst - 1 {
			w.links[0].RTT += w.links[0].RTT / 2
			if got := w.after(time.Minute); got < 0 || got > tellGapMost {
				t.Errorf("%d agents: step %d is told after %v", agents, i+1, got)
			}
		}
	}
}

// What is told of new paths in a small network is corrected at once, a few times; in a
// large one it waits as all news do.
func TestTellingFresh(t *testing.T) {
	for _, agents := range []int{3, fullMost, fullMost + 1} {
		w := newTellTest(t, agents)
		last := len(w.links) - 1
		added := w.links[last]
		w.links = w.links[:last]
		w.after(time.Hour)
		w.links = append(w.links, added)
		gap := w.after(10 * time.Second) // 1 s, or as many agents' gap
		wait := max(time.Second, time.Duration(agents)*tellGap).Truncate(time.Second) + time.Second
		if agents > fullMost {
			wait = tellAfter + time.Second
		}
		w.links[0].RTT = 47 * time.Millisecond
		if got := w.after(wait); got < 0 || agents > fullMost && got < tellAfter {
			t.Errorf("%d agents: a correction is told after %v (the new link after %v), want %v", agents, got, gap, wait)
		}
		w.count = 0
		for range 20 {
			w.links[0].RTT ^= 1 << 22 // 4 ms
			w.after(time.Second)
		}
		if w.count > tellBursts(agents) {
			t.Errorf("%d agents: told %d times in 20 s", agents, w.count)
		}
		w.links[0].RTT += 40 * time.Millisecond
		if got := w.after(5 * time.Second); got < 0 {
			t.Errorf("%d agents: after that a step isn't told", agents)
		}
	}
}

// What is over before it was told isn't.
func TestTellingWaits(t *testing.T) {
	w := newTellTest(t, 10)
	for range 20 {
		w.links[0].RTT += 4 * time.Millisecond
		first := w.after(4 * time.Second)
		w.links[0].RTT -= 4 * time.Millisecond
		if again := w.after(2 * time.Second); first >= 0 || again >= 0 {
			t.Fatal("told of 4 seconds")
		}
	}
}

// What must be told again is told at once.
func TestTellingAgain(t *testing.T) {
	w := newTellTest(t, 10)
	w.look()
	w.k.Again()
	if !w.look() {
		t.Error("not at once")
	}
	var k TrafficTelling
	if k.Due(at(0), Traffic{}, 10) {
		t.Error("no traffic ever is told")
	}
	k.Tell(at(0), Traffic{}, 10)
	k.Again()
	if !k.Due(at(0), Traffic{}, 10) {
		t.Error("not at once")
	}
}

// What an agent decides of its links is told in the epoch in which it was decided even when
// the paths were so restless that all its share is spent, but not oftener for ever.
func TestDecisionsAreTold(t *testing.T) {
	w := newTellTest(t, 1000)
	for range 20 {
		w.links[1].RTT *= 2
		w.after(time.Minute)
	}
	for i, change := range []func(l *Link){
		func(l *Link) { l.Holds = true },
		func(l *Link) { l.Leaving = true },
		func(l *Link) { l.Holds, l.Leaving, l.Accepts = false, false, true },
		func(l *Link) { l.Accepts = false },
	} {
		w.links[1].RTT *= 2
		change(&w.links[0])
		if got := w.after(15 * time.Second); got < 0 || got > tellGapMost {
			t.Errorf("change %d is told after %v", i, got)
		}
	}
	w.count = 0
	for range 3600 {
		w.links[0].Holds = !w.links[0].Holds
		w.after(time.Second)
	}
	if w.count > int(time.Hour/moveEvery)+moveBurst {
		t.Errorf("a link that flaps is told of %d times in an hour", w.count)
	}
}
