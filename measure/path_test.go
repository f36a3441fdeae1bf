package measure

import (
	"math/rand/v2"
	"testing"
	"time"

	"farlan/overlay"
)

const start = overlay.Instant(time.Hour)

// A path whose peer answers every probe after rtt, until it doesn't.
func TestPathFailureAndReturn(t *testing.T) {
	p := NewPath(start)
	type step struct {
		until   time.Duration
		answers bool
		want    State // at the end
	}
	now := start
	for i, s := range []step{
		{5 * time.Second, true, Up},
		{7 * time.Second, false, Up},                     // two missed: maybe loss
		{8500 * time.Millisecond, false, Suspect},        // three
		{14 * time.Second, false, Suspect},               // not for long enough
		{15500 * time.Millisecond, false, Gone},          // silent for 10 s
		{17 * time.Second, true, Up},                     // back
		{19100 * time.Millisecond, false, Up},            // counts from nothing again
		{20500 * time.Millisecond, false, Suspect},       //
		{20600*time.Millisecond + time.Second, true, Up}, //
	} {
		for ; now.Before(start.Add(s.until)); now = now.Add(100 * time.Millisecond) {
			if now.Sub(start)%ProbeInterval == 0 {
				n := p.Probe(now)
				if s.answers {
					p.Reply(now.Add(50*time.Millisecond), n, 0)
				}
			}
			p.Tick(now)
		}
		if got := p.State(now); got != s.want {
			t.Fatalf("step %d, at %v: %v, want %v", i, now.Sub(start), got, s.want)
		}
	}
}

// A path that is probed rarely is up between the probes, and its round trip is known;
// when it falls silent it is probed every second, and gone 10 s later at the latest.
func TestPathProbedRarely(t *testing.T) {
	const every, rtt = 20 * time.Second, 30 * time.Millisecond
	p := NewPath(start)
	var sent []time.Duration
	alive, due := true, start
	run := func(until time.Duration) {
		for now := due; now.Before(start.Add(until)); now = now.Add(100 * time.Millisecond) {
			p.Tick(now)
			if !now.Before(due) || p.Overdue(now) {
				due = now.Add(every)
				sent = append(sent, now.Sub(start))
				if n := p.Probe(now); alive {
					p.Reply(now.Add(rtt), n, 0)
				}
			}
			if s := p.State(now); alive && s != Up {
				t.Fatalf("after %v it is %v", now.Sub(start), s)
			}
		}
		due = max(due, start.Add(until))
	}
	run(100 * time.Second)
	if len(sent) != 5 {
		t.Errorf("probed at %v, not every %v", sent, every)
	}
	now := start.Add(100 * time.Second)
	if got, ok := p.RTT(now); !ok || got != rtt {
		t.Errorf("the round trip is %v, %v", got, ok)
	}
	alive, sent, due = false, nil, now
	for i, want := range []State{Up, Up, Up, Suspect} {
		p.Tick(now)
		if p.State(now) != want || i > 0 && !p.Overdue(now) {
			t.Errorf("%d s after the first lost probe it is %v, and overdue %v", i, p.State(now), p.Overdue(now))
		}
		p.Probe(now)
		now = now.Add(ProbeInterval)
	}
	if now = start.Add(100*time.Second + GoneAfter - ProbeInterval); p.State(now.Add(-1)) != Suspect || p.State(now) != Gone {
		t.Errorf("it is %v, then %v", p.State(now.Add(-1)), p.State(now))
	}
}

func TestPathRTT(t *testing.T) {
	p := NewPath(start)
	if _, ok := p.RTT(start); ok {
		t.Error("a round trip is known before any")
	}
	now := start
	probe := func(rtt, hold time.Duration) {
		n := p.Probe(now)
		got, ok := p.Reply(now.Add(rtt+hold), n, hold)
		if !ok || got != rtt {
			t.Fatalf("round trip %v, %v; want %v", got, ok, rtt)
		}
		now = now.Add(ProbeInterval)
	}
	for _, ms := range []int{50, 40, 60, 45} {
		probe(time.Duration(ms)*time.Millisecond, 3*time.Millisecond)
	}
	if rtt, ok := p.RTT(now); !ok || rtt != 40*time.Millisecond {
		t.Errorf("minimum %v, %v", rtt, ok)
	}
	for range 11 { // the route became longer: the minimum follows within its window
		probe(120*time.Millisecond, 0)
	}
	if rtt, _ := p.RTT(now); rtt != 120*time.Millisecond {
		t.Errorf("minimum after a change %v", rtt)
	}
	if srtt, _, ok := p.Smoothed(); !ok || srtt < 90*time.Millisecond || srtt > 120*time.Millisecond {
		t.Errorf("smoothed %v", srtt)
	}
}

// The minimum is that of a slow, obvious reference.
func TestPathMinimum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	p := NewPath(start)
	var all []sample
	now := start
	for range 2000 {
		now = now.Add(time.Duration(r.IntN(900)+100) * time.Millisecond)
		rtt := time.Duration(r.IntN(100)+1) * time.Millisecond
		n := p.Probe(now.Add(-rtt))
		p.Reply(now, n, 0)
		all = append(all, sample{now, rtt})
		want := time.Hour
		for _, s := range all {
			if now.Sub(s.at) <= minRTTWindow {
				want = min(want, s.rtt)
			}
		}
		if got, ok := p.RTT(now); !ok || got != want {
			t.Fatalf("minimum %v, want %v", got, want)
		}
	}
}

func TestPathIgnoresForgedReplies(t *testing.T) {
	p := NewPath(start)
	n := p.Probe(start)
	for _, number := range []uint32{0, n + 1, n + window, 1 << 31} {
		if _, ok := p.Reply(start.Add(time.Millisecond), number, 0); ok {
			t.Errorf("the reply to probe %d was taken", number)
		}
	}
	if _, ok := p.Reply(start.Add(-1), n, 0); ok {
		t.Error("a reply from the past was taken")
	}
	if _, ok := p.Reply(start.Add(time.Millisecond), n, 0); !ok {
		t.Error("the reply was not taken")
	}
	if _, ok := p.Reply(start.Add(time.Millisecond), n, 0); ok {
		t.Error("a reply was taken twice")
	}
	if rtt, ok := p.Reply(start.Add(time.Second), p.Probe(start), time.Hour); !ok || rtt != 0 {
		t.Errorf("a peer that claims to have held a probe longer than it was away: %v, %v", rtt, ok)
	}
}

func TestPathLoss(t *testing.T) {
	p := NewPath(start)
	if _, ok := p.Loss(); ok {
		t.Error("loss is known before any probe")
	}
	now := start
	for i := range 200 {
		n := p.Probe(now)
		if i%4 != 0 {
			p.Reply(now.Add(time.Millisecond), n, 0)
		}
		now = now.Add(ProbeInterval)
		p.Tick(now)
	}
	if loss, ok := p.Loss(); !ok || loss != 0.25 {
		t.Errorf("loss %v, want 0.25", loss)
	}
	if s := p.State(now); s != Up {
		t.Errorf("a path that loses every fourth probe is %v", s)
	}
}

// An agent that was suspended for a while doesn't hold that against its peers.
func TestPathForgive(t *testing.T) {
	p := NewPath(start)
	for range Misses {
		p.Probe(start)
	}
	now := start.Add(time.Minute)
	p.Forgive(now)
	p.Tick(now)
	if s := p.State(now); s != Up {
		t.Errorf("after a pause the peer is %v", s)
	}
	if _, ok := p.Loss(); ok {
		t.Error("a pause counts as loss")
	}
	now = now.Add(time.Millisecond)
	for range Misses {
		p.Probe(now)
	}
	now = now.Add(ProbeInterval)
	p.Tick(now)
	if s := p.State(now); s != Suspect {
		t.Errorf("what comes after the pause doesn't count: %v", s)
	}
}

// TestSilent: what is answered is not silent, whatever is sent and however late
// the answers come; a cut shows within a second, with traffic and without.
func TestSilent(t *testing.T) {
	const step = 100 * time.Millisecond
	for name, x := range map[string]struct {
		rtt, cut time.Duration // cut 0: never
		traffic  bool
	}{
		"idle":            {rtt: 20 * time.Millisecond},
		"traffic":         {rtt: 20 * time.Millisecond, traffic: true},
		"far":             {rtt: 600 * time.Millisecond, traffic: true},
		"cut":             {rtt: 20 * time.Millisecond, traffic: true, cut: 20 * time.Second},
		"cut while idle":  {rtt: 20 * time.Millisecond, cut: 20 * time.Second},
		"far, and is cut": {rtt: 300 * time.Millisecond, traffic: true, cut: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			start := overlay.Instant(time.Hour)
			p := NewPath(start)
			type reply struct {
				at     overlay.Instant
				number uint32
			}
			var air []reply
			var sent overlay.Instant
			for now := start; now < start.Add(30*time.Second); now = now.Add(step) {
				for len(air) > 0 && air[0].at <= now {
					p.Reply(air[0].at, air[0].number, 0)
					air = air[1:]
				}
				alive := x.cut == 0 || now.Sub(start) < x.cut
				if now.Sub(start)%ProbeInterval == 0 {
					if n := p.Probe(now); alive {
						air = append(air, reply{now.Add(x.rtt), n})
					}
				}
				if x.traffic {
					if sent = now; alive && now.Sub(start) > x.rtt {
						p.Heard(now)
					}
				}
				s := p.Silent(now, sent)
				if alive && s == Cut || alive && s == Ask && x.rtt < askPatience {
					t.Fatalf("%v: silence %d of a peer that answers", now.Sub(start), s)
				}
				if late := now.Sub(start) - x.cut; !alive && s != Cut && late >= 4*x.rtt+time.Second+ProbeInterval {
					t.Fatalf("%v after the cut: silence %d", late, s)
				} else if !alive && s == Cut {
					t.Logf("noticed after %v", late)
					return
				}
			}
			if x.cut != 0 {
				t.Fatal("a cut was not noticed")
			}
		})
	}
}
