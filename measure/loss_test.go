package measure

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// Losses by any reports: those that can't be are refused, old ones ignored, the window
// moves on, and the counters of probes, which are short, mean the same.
func TestLosses(t *testing.T) {
	var l losses
	if _, _, _, ok := l.rate(start); ok {
		t.Error("known before anything")
	}
	if !l.told(start, 5, 2, 10) || !l.told(start, 9, 6, 10) { // what was lost before doesn't count
		t.Error("nothing was told")
	}
	for i, c := range []struct {
		after           time.Duration
		highest, count  uint64
		sent            uint64
		good            bool
		lost, fractions uint64 // lost of fractions
	}{
		{0, 109, 96, 210, true, 10, 100},
		{0, 210, 156, 210, false, 10, 100},          // what wasn't sent
		{0, 160, 162, 210, false, 10, 100},          // more than there were
		{0, 160, 0, 210, false, 10, 100},            // nothing is never told
		{0, 60, 46, 210, true, 10, 100},             // old
		{time.Second, 209, 196, 210, true, 10, 200}, // none was lost
		{time.Second, 209, 201, 210, true, 5, 200},  // late ones came
		{57 * time.Second, 309, 291, 310, true, 15, 300},
		{30 * time.Second, 409, 341, 410, true, 60, 200},
		{2 * time.Minute, 509, 441, 510, true, 0, 100},
	} {
		at := start
		for range c.after / time.Second {
			at = at.Add(time.Second)
		}
		if i > 5 {
			at = start.Add(c.after)
		}
		if i >= 8 {
			at = start.Add(57*time.Second + c.after)
		}
		if good := l.told(at, c.highest, c.count, c.sent); good != c.good {
			t.Errorf("step %d: %v", i, good)
		}
		got, low, high, ok := l.rate(at)
		want := float64(c.lost) / float64(c.fractions)
		if !ok || math.Abs(got-want) > 1e-9 || low > got || high < got {
			t.Errorf("step %d: %v in %v to %v, want %v", i, got, low, high, want)
		}
	}
	l.restart()
	if !l.told(start.Add(180*time.Second), 9, 10, 20) {
		t.Error("a new session's counters don't begin again")
	}
	var long, short losses
	r := rand.New(rand.NewPCG(4, 5))
	highest, count, now := uint64(1<<32-5000), uint64(1<<32-6000), start
	long.told(now, highest, count, highest+1)
	short.told(now, highest, count, highest+1)
	for range 100 {
		highest, count, now = highest+uint64(r.IntN(100))+100, count+uint64(r.IntN(100)), now.Add(time.Second)
		if !long.told(now, highest, count, math.MaxUint64) || !short.toldLow(now, uint32(highest), uint32(count), math.MaxUint64) || long != short {
			t.Fatalf("at %d, %d: %+v by long counters, %+v by short ones", highest, count, long, short)
		}
	}
}

// The interval is the one in Newcombe's tables, and contains the truth in nearly 19 of 20
// cases whatever that is: computed, not tried.
func TestScoreInterval(t *testing.T) {
	for _, c := range []struct{ lost, n, low, high float64 }{
		{81, 263, 0.2535, 0.3682}, {15, 148, 0.0598, 0.1644}, {0, 20, 0, 0.2005}, {1, 29, 0.0018, 0.1963}, {20, 20, 0.7995, 1},
	} {
		if low, high := scoreInterval(c.lost/c.n, c.n); math.Abs(low-c.low) > 1e-4 || math.Abs(high-c.high) > 1e-4 {
			t.Errorf("%v of %v: %v to %v", c.lost, c.n, low, high)
		}
	}
	for _, n := range []float64{20, 76, 300, 3000} {
		for _, p := range []float64{0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 0.5, 0.97} {
			covered := 0.0
			chance := n * math.Log1p(-p) // of so many lost, as a logarithm
			for lost := 0.0; lost <= n; lost++ {
				if low, high := scoreInterval(lost/n, n); low <= p && p <= high {
					covered += math.Exp(chance)
				}
				chance += math.Log((n - lost) / (lost + 1) * p / (1 - p))
			}
			if covered < 0.945 {
				t.Errorf("%v lost of %v: the interval has it in %.3f of cases", p, n, covered)
			}
		}
	}
}

// The interval has the truth in nine of ten cases, whether losses come by chance or ten in a
// row, and is no wider than it must be where they come by chance.
func TestLossInterval(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const runs = 400
	for _, c := range []struct {
		perSecond, burst int
		lost, widest     float64
	}{
		{1, 1, 0.02, 0.14}, {45, 1, 0.002, 0.006}, {45, 1, 0.02, 0.014}, {45, 10, 0.02, 0.05}, {500, 10, 0.01, 0.02},
	} {
		covered, width := 0, 0.0
		for range runs {
			var l losses
			now, sent, count := start, uint64(1), uint64(1)
			l.told(now, 0, 1, 1)
			burst := 0
			for range 70 {
				now = now.Add(time.Second)
				for range c.perSecond {
					if sent++; burst == 0 && r.Float64() < c.lost/float64(c.burst) {
						burst = c.burst
					}
					if burst == 0 {
						count++
					} else {
						burst--
					}
				}
				l.told(now, sent-1, count, sent)
			}
			_, low, high, _ := l.rate(now)
			if low <= c.lost && c.lost <= high {
				covered++
			}
			width += (high - low) / runs
		}
		t.Logf("%d a second, %.1f %% lost, %d in a row: %d of %d intervals have it, %.2f %% wide", c.perSecond, 100*c.lost, c.burst, covered, runs, 100*width)
		if covered*10 < runs*9 || width > c.widest {
			t.Error("too few, or too wide")
		}
	}
}

// What tries a size or a way may be lost and is no loss, and counts as nothing if it
// arrives either.
func TestExcusedLosses(t *testing.T) {
	var l losses
	now := start
	l.excuse(now, 7, 7)
	l.told(now, 0, 1, 1)
	l.arrived(now, 7)                    // as all did that were sent before
	l.told(now, 100, 96, math.MaxUint64) // of 100, 5 are lost
	l.excuse(now, 12, 113)
	now = now.Add(lossBucket)
	l.told(now, 200, 187, math.MaxUint64) // of 100 more, 9 are lost: the 9 that were too long
	l.arrived(now, 3)                     // the other three weren't
	if got, _, _, ok := l.rate(now); !ok || math.Abs(got-5.0/191) > 1e-9 {
		t.Errorf("%v, %v, want %v", got, ok, 5.0/191)
	}
	var none losses
	none.excuse(now, 5, 5)
	none.arrived(now, 9)
	if got, low, high, ok := none.rate(now); ok {
		t.Errorf("nothing was told: %v, %v, %v", got, low, high)
	}
}

// What was sent before the other end told anything doesn't count, nor does it if it is told
// later; tries of then excuse nothing that is lost later.
func TestLossesAtTheStart(t *testing.T) {
	var l losses
	now := start
	l.excuse(now, 5, 8)
	l.told(now, 2, 3, 8)                   // the next five are too long, and lost
	l.told(now.Add(time.Second), 9, 5, 12) // of ten
	if got, _, _, ok := l.rate(now); ok {
		t.Errorf("%v of what was sent before", got)
	}
	now = now.Add(3 * time.Second)
	l.told(now, 19, 15, 20)
	if got, _, _, ok := l.rate(now); !ok || got != 0 {
		t.Errorf("%v, %v", got, ok)
	}
	l.told(now, 29, 20, 30)
	if got, _, _, ok := l.rate(now); !ok || got != 5.0/20 {
		t.Errorf("%v, %v, want a quarter", got, ok)
	}
}

// A whole train is excused when it leaves, and what came of it counts: however late what
// is lost is told, nothing of it shows, then or when the minute is over, and the losses
// of others do.
func TestExcusedTrain(t *testing.T) {
	for _, after := range []time.Duration{0, time.Second, lossBucket, 2 * lossBucket} {
		var l losses
		now, sent, count := start, uint64(1000), uint64(1000)
		l.told(now, sent-1, count, sent)
		check := func(what string, least, most float64) {
			t.Helper()
			if got, _, _, ok := l.rate(now); !ok || got < least || got > most {
				t.Errorf("told after %v: %.4f is lost %s, want %v to %v", after, got, what, least, most)
			}
		}
		sent, count = sent+100, count+99
		l.told(now, sent-1, count, sent)
		l.excuse(now, 178, sent+178)
		sent, count = sent+178, count+120 // 58 are lost
		if after == 0 {
			l.told(now, sent-1, count, sent)
		}
		l.arrived(now, 120)
		check("before", 0, 0.01)
		now = now.Add(after)
		l.told(now, sent-1, count, sent)
		check("with the train", 1.0/220, 0.01)
		for now.Sub(start) < 2*lossWindow {
			now = now.Add(time.Second)
			sent, count = sent+100, count+99
			l.told(now, sent-1, count, sent)
			if now.Sub(start) > 20*time.Second {
				check("later", 0.009, 0.0101)
			}
		}
	}
}
