package measure

import (
	"testing"
	"time"

	"farlan/overlay"
)

// Both ends learn the round trip without hold times, whatever their clocks say and
// however they drift, and how long datagrams queue each way, of one datagram a second
// and direction.
func TestDuoRTT(t *testing.T) {
	for _, c := range []struct {
		forth, back time.Duration
		drift       float64
	}{
		{500 * time.Microsecond, 500 * time.Microsecond, 0},
		{2500 * time.Microsecond, 2500 * time.Microsecond, 40e-6},
		{10 * ms, 30 * ms, -60e-6},
		{40 * ms, 40 * ms, 80e-6},
		{120 * ms, 30 * ms, 0},
		{400 * ms, 400 * ms, 30e-6},
	} {
		d := newDuo(7, c.forth, c.back)
		d.ends[1].drift, d.ends[1].hold, d.ends[0].hold = c.drift, 3*ms, ms
		worst, samples := time.Duration(0), [2]int{}
		want := c.forth + c.back
		d.seen = func(at int, rtt time.Duration) {
			worst = max(worst, (rtt - want).Abs())
			samples[at]++
		}
		d.run(start.Add(300*time.Second), nil)
		for i, e := range d.ends {
			rtt, ok := e.path.RTT(d.clock(i))
			if !ok || (rtt-want).Abs() > max(want/50, 300*time.Microsecond) {
				t.Errorf("%v: end %d has %v", c, i, rtt)
			}
			if floor, _ := e.path.Floor(d.clock(i)); floor > rtt || (floor-want).Abs() > max(want/50, 300*time.Microsecond) {
				t.Errorf("%v: end %d has a floor of %v", c, i, floor)
			}
			if forth, back := e.path.Queues(); forth > ms || back > ms {
				t.Errorf("%v: end %d sees queues of %v and %v in an empty path", c, i, forth, back)
			}
			if samples[i] < 250 || e.odd > 0 {
				t.Errorf("%v: end %d has %d samples, %d odd", c, i, samples[i], e.odd)
			}
			if perSecond := float64(e.probes) / 300; perSecond > 1.05 {
				t.Errorf("%v: end %d sends %.2f datagrams a second", c, i, perSecond)
			}
		}
		if worst > max(want/50, 200*time.Microsecond) {
			t.Errorf("%v: a sample was off by %v", c, worst)
		}
		t.Logf("%v: off by %v at most, %v samples, %v datagrams", c, worst, samples, [2]int{d.ends[0].probes, d.ends[1].probes})
	}
}

// Who is probed rarely is measured at both ends, too, and at the same cost.
func TestDuoRarely(t *testing.T) {
	for _, every := range []time.Duration{6 * time.Second, 20 * time.Second} {
		d := newDuo(3, 200*time.Microsecond, 200*time.Microsecond)
		d.ends[1].drift, d.every = 50e-6, every
		d.seen = func(at int, rtt time.Duration) {
			if (rtt - 400*time.Microsecond).Abs() > 300*time.Microsecond {
				t.Errorf("every %v: end %d has a sample of %v", every, at, rtt)
			}
		}
		var gap time.Duration
		d.run(start.Add(600*time.Second), func() {
			for i, e := range d.ends {
				if d.now > start.Add(5*every) {
					gap = max(gap, d.clock(i).Sub(e.path.Sampled()))
				}
			}
		})
		most := int(600*time.Second/every) + 2
		if d.ends[0].probes > most || d.ends[1].probes > most || gap > 2*every+2*time.Second {
			t.Errorf("every %v: %d and %d datagrams, want %d at most; a sample is up to %v old", every, d.ends[0].probes, d.ends[1].probes, most, gap)
		}
	}
}

// A queue shows on its own side only, at both ends, whatever the clocks do.
func TestDuoQueues(t *testing.T) {
	for _, drift := range []float64{0, 70e-6, -70e-6} {
		d := newDuo(5, 20*ms, 30*ms)
		d.ends[1].drift = drift
		d.delay[0], d.delay[1] = d.jittery(20*ms, 100*time.Microsecond, 0), d.jittery(30*ms, 100*time.Microsecond, 0)
		d.run(start.Add(200*time.Second), nil)
		d.delay[0] = d.jittery(35*ms, 5*ms, 0)
		d.run(start.Add(203*time.Second), nil)
		for i, e := range d.ends {
			forth, back := e.path.Queues()
			if i == 1 {
				forth, back = back, forth
			}
			if forth < 9*ms || forth > 21*ms || back > ms {
				t.Errorf("drift %v: end %d sees queues of %v there and %v back, want 10 to 20 ms and none", drift, i, forth, back)
			}
		}
	}
}

// The step that smoothing and minima follow only after many samples shows within 3 s, up
// and down, at both ends; what is no step doesn't.
func TestDuoShift(t *testing.T) {
	worst := [2]time.Duration{}
	for seed := range uint64(200) {
		d := newDuo(seed, 25*ms, 25*ms)
		j := time.Duration(seed%4) * ms
		loss := float64(seed%4) / 100
		d.delay[0], d.delay[1] = d.jittery(25*ms, j, loss), d.jittery(25*ms, j, loss)
		d.run(start.Add(30*time.Second+time.Duration(d.r.Int64N(int64(time.Second)))), nil)
		for k, level := range []time.Duration{60 * ms, 25 * ms} {
			d.delay[0], d.delay[1] = d.jittery(level, j, loss), d.jittery(level, j, loss)
			stepped := d.now
			var when [2]time.Duration
			d.run(stepped.Add(30*time.Second), func() {
				for i, e := range d.ends {
					if rtt, _ := e.path.RTT(d.clock(i)); when[i] == 0 && (rtt-2*level).Abs() <= 2*j+2*ms {
						when[i] = d.now.Sub(stepped)
					} else if when[i] != 0 && (rtt-2*level).Abs() > 2*j+2*ms {
						t.Fatalf("seed %d: end %d has %v after it had seen the step to %v", seed, i, rtt, 2*level)
					}
				}
			})
			for i, e := range d.ends {
				worst[k] = max(worst[k], when[i])
				if when[i] == 0 || when[i] > 3*time.Second && loss == 0 || when[i] > 5*time.Second {
					t.Errorf("seed %d: end %d sees the step to %v after %v", seed, i, 2*level, when[i])
				}
				if srtt, _, _ := e.path.Smoothed(); (srtt - 2*level).Abs() > 2*j+2*ms {
					t.Errorf("seed %d: smoothed %v", seed, srtt)
				}
			}
		}
	}
	t.Logf("the step to 120 ms shows after %v at most, back after %v", worst[0], worst[1])
}

func TestDuoSpikes(t *testing.T) {
	for seed := range uint64(50) {
		d := newDuo(seed, 25*ms, 25*ms)
		var until overlay.Instant
		spiky := func() time.Duration {
			if d.now.Before(until) || d.r.Float64() < 0.01 { // or a queue of a moment
				return 25*ms + time.Duration(d.r.Int64N(int64(200*ms)))
			}
			return 25 * ms
		}
		d.delay[0], d.delay[1] = spiky, spiky
		d.run(start.Add(10*time.Second), nil)
		d.run(start.Add(300*time.Second), func() {
			if d.now.Sub(start)%(20*time.Second) == 0 {
				until = d.now.Add(300 * ms)
			}
			for i, e := range d.ends {
				if rtt, _ := e.path.RTT(d.clock(i)); rtt > 51*ms {
					t.Fatalf("seed %d, at %v: end %d has %v", seed, d.now.Sub(start), i, rtt)
				}
			}
		})
	}
}

// The interval covers the true loss as often as it claims, by probes alone and with
// frames, each direction at its sender.
func TestDuoLoss(t *testing.T) {
	for _, c := range []struct {
		forth, back float64
		frames      time.Duration // every so often
	}{
		{0, 0, 0},
		{0.005, 0.05, 0},
		{0.02, 0.005, 0},
		{0.005, 0.02, 20 * ms},
		{0.05, 0, 10 * ms},
	} {
		const runs = 200
		covered, widest := [2]int{}, 0.0
		for seed := range uint64(runs) {
			d := newDuo(seed, 10*ms, 10*ms)
			d.delay[0], d.delay[1] = d.jittery(10*ms, 0, c.forth), d.jittery(10*ms, 0, c.back)
			d.run(start.Add(90*time.Second), func() {
				if c.frames > 0 && d.now.Sub(start)%c.frames == 0 {
					for i, e := range d.ends {
						e.frames = d.clock(i)
						d.send(i, aFrame, overlay.Probe{})
					}
				}
			})
			for i, truth := range []float64{c.forth, c.back} {
				got, low, high, ok := d.ends[i].path.Loss(d.clock(i))
				if !ok || low > got+1e-9 || got > high+1e-9 {
					t.Fatalf("%+v: end %d has %v in %v to %v, %v", c, i, got, low, high, ok)
				}
				if low <= truth+1e-9 && truth <= high {
					covered[i]++
				}
				widest = max(widest, high-low)
				if d.ends[i].odd > 0 {
					t.Fatalf("%d odd", d.ends[i].odd)
				}
			}
		}
		t.Logf("%+v: %v of %d intervals cover it; the widest has %.3f", c, covered, runs, widest)
		if covered[0] < runs*9/10 || covered[1] < runs*9/10 {
			t.Errorf("%+v: %v of %d intervals cover it", c, covered, runs)
		}
		if c.frames > 0 && widest > 0.03 || c.frames == 0 && widest > 0.3 {
			t.Errorf("%+v: an interval is %v wide", c, widest)
		}
	}
}

// A cut is seen at both ends, idle within 3.5 s, and with frames within a second or 7
// round trips; what answers isn't taken for cut.
func TestDuoCut(t *testing.T) {
	for _, rtt := range []time.Duration{ms, 40 * ms, 150 * ms, 300 * ms} {
		for _, kind := range []string{"nothing flows", "both send", "one answers"} {
			traffic := kind != "nothing flows"
			worst := time.Duration(0)
			for seed := range uint64(100) {
				d := newDuo(seed, rtt/2, rtt/2)
				d.answers = kind == "one answers"
				talk := func() {
					for i, e := range d.ends {
						if traffic && (i == 0 || kind == "both send") {
							e.frames = d.clock(i)
							d.send(i, aFrame, overlay.Probe{})
						}
						if d.now.Sub(start)%lookEvery == 0 && e.silence != Answering {
							e.path.Asked(d.clock(i)) // as the agent does
						}
					}
				}
				d.run(start.Add(20*time.Second+time.Duration(d.r.Int64N(int64(2*time.Second)))), func() {
					talk()
					for i, e := range d.ends {
						if s := e.path.State(d.clock(i)); s != Up {
							t.Fatalf("round trip %v: end %d is %v, %v after the start", rtt, i, s, d.now.Sub(start))
						}
					}
				})
				cut := d.now
				d.ends[0].mute, d.ends[1].mute = true, true
				var when [2]time.Duration
				d.run(cut.Add(12*time.Second), func() {
					talk()
					for i, e := range d.ends {
						// The agent looks every 100 ms only.
						if when[i] == 0 && e.path.State(d.clock(i)) == Suspect && d.now.Sub(start)%lookEvery == 0 {
							when[i] = d.now.Sub(cut)
						}
					}
				})
				for i, e := range d.ends {
					limit := 3500 * ms
					if traffic {
						limit = max(time.Second, 7*rtt)
					}
					if worst = max(worst, when[i]); when[i] == 0 || when[i] > limit {
						t.Errorf("round trip %v, %s, seed %d: end %d sees the cut after %v", rtt, kind, seed, i, when[i])
					}
					if s := e.path.State(d.clock(i)); s != Gone {
						t.Errorf("12 s after the cut it is %v", s)
					}
				}
				// It is back, perhaps as another session.
				d.ends[0].mute, d.ends[1].mute = false, false
				d.run(d.now.Add(2500*ms), nil)
				for i, e := range d.ends {
					if s := e.path.State(d.clock(i)); s != Up {
						t.Errorf("mended, end %d is %v", i, s)
					}
				}
			}
			t.Logf("round trip %v, %s: the cut shows after %v at most", rtt, kind, worst)
		}
	}
}

// Losses and overloaded agents alone don't make a peer suspect.
func TestDuoLossy(t *testing.T) {
	suspect := 0
	for seed := range uint64(20) {
		d := newDuo(seed, 20*ms, 20*ms)
		d.delay[0], d.delay[1] = d.jittery(20*ms, 5*ms, 0.01), d.jittery(20*ms, 5*ms, 0.01)
		d.ends[1].hold = 80 * ms
		d.run(start.Add(5*time.Minute), func() {
			for i, e := range d.ends {
				if e.path.State(d.clock(i)) != Up {
					suspect++
				}
			}
		})
	}
	if suspect > 0 {
		t.Errorf("suspect %d times", suspect)
	}
}
