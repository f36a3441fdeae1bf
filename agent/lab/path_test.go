package lab

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"farlan/overlay"
)

const ms = time.Millisecond

// at returns the instant d after the tests' beginning.
func at(d time.Duration) overlay.Instant { return overlay.Instant(0).Add(d) }

func TestPathSteps(t *testing.T) {
	type step struct {
		now    time.Duration
		size   int
		change func(*Shape)
		want   time.Duration // arrival
		drop   Drop
	}
	plain := Shape{Queue: Queue{Time: 50 * ms}}
	tests := []struct {
		name  string
		shape Shape
		steps []step
	}{
		{"nothing in the way", plain, []step{{now: 3 * ms, size: 1500, want: 3 * ms}}},
		{"delay", Shape{Delay: 25 * ms, Queue: plain.Queue}, []step{
			{now: 0, size: 1500, want: 25 * ms},
			{now: 1 * ms, size: 40, want: 26 * ms},
		}},
		{"rate is a clock", Shape{Rate: 12000, Delay: 10 * ms, Queue: plain.Queue}, []step{
			{now: 0, size: 1500, want: 11 * ms},
			{now: 0, size: 1500, want: 12 * ms},
			{now: 0, size: 750, want: 12*ms + 500*time.Microsecond},
			{now: 100 * ms, size: 1500, want: 111 * ms}, // idle time isn't saved up
		}},
		{"queue by time", Shape{Rate: 12000, Queue: Queue{Time: 2 * ms}}, []step{
			{now: 0, size: 1500, want: 1 * ms},
			{now: 0, size: 1500, want: 2 * ms},
			{now: 0, size: 1500, want: 3 * ms}, // waits just 2 ms
			{now: 0, size: 40, drop: DropFull},
			{now: 1 * ms, size: 1500, want: 4 * ms}, // one has left
		}},
		{"queue by bytes", Shape{Rate: 12000, Queue: Queue{Bytes: 1500}}, []step{
			{now: 0, size: 1500, want: 1 * ms},
			{now: 0, size: 1500, want: 2 * ms},
			{now: 0, size: 1500, drop: DropFull},
		}},
		{"MTU is a black hole", Shape{MTU: 1400, Queue: plain.Queue}, []step{
			{now: 0, size: 1400},
			{now: 0, size: 1401, drop: DropMTU},
		}},
		{"cut and heal", plain, []step{
			{now: 1 * ms, size: 100, want: 1 * ms},
			{now: 2 * ms, size: 100, change: func(s *Shape) { s.Cut = true }, drop: DropCut},
			{now: 3 * ms, size: 100, change: func(s *Shape) { s.Cut = false }, want: 3 * ms},
		}},
		{"a path that becomes shorter keeps the order", Shape{Delay: 50 * ms, Queue: plain.Queue}, []step{
			{now: 0, size: 100, want: 50 * ms},
			{now: 10 * ms, size: 100, change: func(s *Shape) { s.Delay = 5 * ms }, want: 50 * ms},
			{now: 60 * ms, size: 100, want: 65 * ms},
		}},
		{"unless it may reorder", Shape{Delay: 50 * ms, Reorder: true, Queue: plain.Queue}, []step{
			{now: 0, size: 100, want: 50 * ms},
			{now: 10 * ms, size: 100, change: func(s *Shape) { s.Delay = 5 * ms }, want: 15 * ms},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			p := Path{Shape: test.shape}
			for i, s := range test.steps {
				if s.change != nil {
					s.change(&p.Shape)
				}
				arrival, drop := p.Decide(at(s.now), s.size, rnd)
				if drop != s.drop || drop == Kept && arrival != at(s.want) {
					t.Fatalf("step %d: arrives at %v, drop %d; want %v, drop %d",
						i, arrival.Sub(0), drop, s.want, s.drop)
				}
			}
		})
	}
}

func TestPathCounts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	p := Path{Shape: Shape{Rate: 12000, MTU: 1500, Queue: Queue{Time: ms}}}
	for _, size := range []int{1500, 1500, 1500, 1600} {
		p.Decide(at(0), size, rnd)
	}
	if p.Packets != 2 || p.Bytes != 3000 || p.Dropped[DropFull] != 1 || p.Dropped[DropMTU] != 1 {
		t.Errorf("counted %d packets, %d bytes, dropped %v", p.Packets, p.Bytes, p.Dropped)
	}
}

// TestPathLoss sends a million packets: the share that is lost must be within
// five standard deviations, and losses must not come in runs.
func TestPathLoss(t *testing.T) {
	const n = 1_000_000
	for _, text := range []string{"0.1%", "1%", "0.3", "100%"} {
		var loss Loss
		if err := loss.Set(text); err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(7, 7))
		p := Path{Shape: Shape{Loss: loss, Queue: Queue{Time: ms}}}
		lost, pairs, before := 0, 0, false
		for i := range n {
			_, drop := p.Decide(at(time.Duration(i)), 100, rnd)
			if drop == DropLoss {
				lost++
				if before {
					pairs++
				}
			}
			before = drop == DropLoss
		}
		q := float64(loss) / 1e6
		if d := math.Abs(float64(lost) - n*q); d > 5*math.Sqrt(n*q*(1-q))+1 {
			t.Errorf("loss %s: lost %d of %d", text, lost, n)
		}
		if want := n * q * q; math.Abs(float64(pairs)-want) > 5*math.Sqrt(want)+5 {
			t.Errorf("loss %s: %d pairs lost in a row, want about %.0f", text, pairs, want)
		}
	}
}

// TestPathJitter checks the delay's range, mean and order.
func TestPathJitter(t *testing.T) {
	const n = 100_000
	for _, reorder := range []bool{false, true} {
		rnd := rand.New(rand.NewPCG(3, 4))
		p := Path{Shape: Shape{Delay: 25 * ms, Jitter: 2 * ms, Reorder: reorder, Queue: Queue{Time: ms}}}
		var sum time.Duration
		var last overlay.Instant
		swaps := 0
		for i := range n {
			sent := at(time.Duration(i) * 10 * ms) // so far apart that order costs nothing
			if reorder {
				sent = at(time.Duration(i) * ms)
			}
			arrival, _ := p.Decide(sent, 100, rnd)
			d := arrival.Sub(sent)
			if d < 23*ms || d > 27*ms {
				t.Fatalf("delay %v is not within 25 ± 2 ms", d)
			}
			if arrival < last {
				swaps++
			}
			last = arrival
			sum += d
		}
		if mean := sum / n; (mean - 25*ms).Abs() > 50*time.Microsecond {
			t.Errorf("reorder %v: mean delay %v, want 25 ms", reorder, mean)
		}
		if (swaps > 0) != reorder {
			t.Errorf("reorder %v: %d packets came out of order", reorder, swaps)
		}
	}
}

// TestPathRate sends twice what fits: the path must carry its rate to the bit.
func TestPathRate(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	p := Path{Shape: Shape{Rate: 100_000, Queue: Queue{Time: 50 * ms}}}
	var last overlay.Instant
	for i := range 100_000 {
		if arrival, drop := p.Decide(at(time.Duration(i)*60*time.Microsecond), 1500, rnd); drop == Kept {
			last = arrival
		}
	}
	if rate := float64(p.Bytes) * 8 / last.Sub(0).Seconds(); math.Abs(rate-1e8) > 1e3 {
		t.Errorf("carried %.0f bit/s, want 100 Mbit/s", rate)
	}
}

func TestPathDoesNotAllocate(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	p := Path{Shape: Shape{Rate: 1e6, Delay: ms, Jitter: ms, Loss: 1000, Queue: Queue{Time: ms}}}
	if n := testing.AllocsPerRun(1000, func() { p.Decide(at(0), 1500, rnd) }); n != 0 {
		t.Errorf("Decide allocates %v times", n)
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]string{
		"100Mbit": "100Mbit", "0.5Gbit": "500Mbit", "1000Mbit": "1Gbit", "64kbit": "64kbit",
		"1.5Mbit": "1.5Mbit", "0": "unlimited", "unlimited": "unlimited",
		"-1Mbit": "", "100": "", "Mbit": "", "NaNMbit": "", "1e30Gbit": "", "100 Mbit": "",
	} {
		var r Rate
		checkUnit(t, text, want, r.Set(text), r.String())
	}
	for text, want := range map[string]string{
		"0.1%": "0.1%", "0.001": "0.1%", "0": "0%", "1": "100%", "1.1": "", "-1%": "", "x": "", "NaN": "",
	} {
		var l Loss
		checkUnit(t, text, want, l.Set(text), l.String())
	}
	for text, want := range map[string]string{
		"50ms": "50ms", "256KB": "256KB", "0ms": "", "-1KB": "", "256": "", "2h": "",
	} {
		var q Queue
		checkUnit(t, text, want, q.Set(text), q.String())
	}
}

// checkUnit compares what a text was read as with want; "" wants an error.
func checkUnit(t *testing.T, text, want string, err error, got string) {
	t.Helper()
	switch {
	case want == "" && err == nil:
		t.Errorf("%q was read as %q, want an error", text, got)
	case want != "" && (err != nil || got != want):
		t.Errorf("%q was read as %q (%v), want %q", text, got, err, want)
	}
}

func TestShapeValidate(t *testing.T) {
	good := Shape{Delay: 25 * ms, Jitter: 2 * ms, Queue: Queue{Time: DefaultQueue}}
	if err := good.Validate(); err != nil {
		t.Errorf("%+v: %v", good, err)
	}
	for name, spoil := range map[string]func(*Shape){
		"jitter beyond the delay": func(s *Shape) { s.Jitter = 26 * ms },
		"negative delay":          func(s *Shape) { s.Delay = -1 },
		"no queue":                func(s *Shape) { s.Queue = Queue{} },
		"tiny MTU":                func(s *Shape) { s.MTU = 20 },
	} {
		s := good
		spoil(&s)
		if s.Validate() == nil {
			t.Errorf("%s: %+v is taken for valid", name, s)
		}
	}
}
