package measure

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"farlan/overlay"
)

// reply is one to a probe of p's, which the peer held.
func reply(q overlay.Probe, hold time.Duration) overlay.Probe {
	return overlay.Probe{Echo: q.Number, HoldMicros: uint32(hold.Microseconds())}
}

// answer has a probe answered after some time.
func answer(p *Path, now overlay.Instant, rtt time.Duration) Receipt {
	_, r := p.Receive(now.Add(rtt), reply(p.Probe(now), 0), true)
	return r
}

// A path whose peer answers every probe after 50 ms, until it doesn't.
func TestPathFailureAndReturn(t *testing.T) {
	p := NewPath(start)
	now := start
	for i, s := range []struct {
		until   time.Duration
		answers bool
		want    State // at the end
	}{
		{5 * time.Second, true, Up},
		{7 * time.Second, false, Up},                 // two missed: maybe loss
		{7300 * ms, false, Suspect},                  // three
		{13900 * ms, false, Suspect},                 // not for long enough
		{14100 * ms, false, Gone},                    // silent for 10 s, had one come a second before
		{17 * time.Second, true, Up},                 // back
		{19100 * ms, false, Up},                      // counts from nothing again
		{19300 * ms, false, Suspect},                 //
		{19600*ms + time.Second, true, Up},           //
		{20600*ms + 1500*time.Millisecond, true, Up}, //
	} {
		for ; now.Before(start.Add(s.until)); now = now.Add(100 * ms) {
			if p.Due(now, ProbeInterval, true) {
				if q := p.Probe(now); s.answers {
					p.Receive(now.Add(50*ms), reply(q, 0), true)
				}
			}
		}
		if got := p.State(now); got != s.want {
			t.Fatalf("step %d, at %v: %v, want %v", i, now.Sub(start), got, s.want)
		}
	}
}

// A path that is probed rarely is up between the probes, and its round trip is known;
// when it falls silent it is probed every second, and gone 9 s after the first that it
// doesn't answer at the latest.
func TestPathProbedRarely(t *testing.T) {
	const every, rtt = 20 * time.Second, 30 * ms
	p := NewPath(start)
	var sent []time.Duration
	alive, now := true, start
	run := func(until time.Duration) {
		for ; now.Before(start.Add(until)); now = now.Add(100 * ms) {
			if p.Due(now, every, true) {
				sent = append(sent, now.Sub(start))
				if q := p.Probe(now); alive {
					p.Receive(now.Add(rtt), reply(q, 0), true)
				}
			}
			if s := p.State(now); alive && s != Up {
				t.Fatalf("after %v it is %v", now.Sub(start), s)
			}
		}
	}
	run(100 * time.Second)
	if len(sent) != 5 { // all are its own, as the peer never asks
		t.Errorf("probed at %v, not every %v", sent, every)
	}
	if got, ok := p.RTT(now); !ok || got != rtt {
		t.Errorf("the round trip is %v, %v", got, ok)
	}
	alive, sent = false, nil
	run(104 * time.Second)
	first := start.Add(sent[0])
	if len(sent) != 3 || sent[2]-sent[0] != 2*ProbeInterval || p.State(first.Add(2100*ms)) != Up || p.State(first.Add(2300*ms)) != Suspect {
		t.Errorf("probed at %v, and it is %v, then %v", sent, p.State(first.Add(2100*ms)), p.State(first.Add(2300*ms)))
	}
	if gone := first.Add(GoneAfter - ProbeInterval); p.State(gone.Add(-time.Second)) != Suspect || p.State(gone) != Gone {
		t.Errorf("it is %v, then %v", p.State(gone.Add(-time.Second)), p.State(gone))
	}
}

// The minimum is that of a slow, obvious reference, but that it may rise a twelfth of
// the window early.
func TestPathMinimum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	type sample struct {
		at overlay.Instant
		v  time.Duration
	}
	for _, span := range []time.Duration{rttWindow, floorWindow} {
		var l lowest
		var all []sample
		now := start
		for range 5000 {
			now = now.Add(time.Duration(r.IntN(900)+100) * ms)
			v := time.Duration(r.IntN(100)+1) * ms
			l.add(now, v, span)
			all = append(all, sample{now, v})
			whole, part := time.Hour, time.Hour
			for _, s := range all[max(len(all)-4000, 0):] {
				if now.Sub(s.at) <= span {
					whole = min(whole, s.v)
				}
				if now.Sub(s.at) <= span*11/12 {
					part = min(part, s.v)
				}
			}
			if got, ok := l.value(now, span); !ok || got < whole || got > part {
				t.Fatalf("minimum %v, want %v to %v", got, whole, part)
			}
		}
		if got, _ := l.value(now.Add(time.Hour), span); got != all[len(all)-1].v && got > 100*ms {
			t.Errorf("after an hour of nothing %v", got)
		}
	}
}

// What was not asked for, comes again, from the future, or can't be changes no round trip.
func TestPathHostile(t *testing.T) {
	for name, c := range map[string]struct {
		q    func(n uint32) overlay.Probe // n is the number of the newest probe
		at   time.Duration                // after it was sent
		want Receipt
	}{
		"true":                  {func(n uint32) overlay.Probe { return overlay.Probe{Echo: n} }, 30 * ms, Sampled},
		"again":                 {func(n uint32) overlay.Probe { return overlay.Probe{Echo: n - 1} }, 30 * ms, Quiet},
		"never sent":            {func(n uint32) overlay.Probe { return overlay.Probe{Echo: n + 1} }, 30 * ms, Odd},
		"far ahead":             {func(n uint32) overlay.Probe { return overlay.Probe{Echo: n + 1<<30} }, 30 * ms, Odd},
		"far behind":            {func(n uint32) overlay.Probe { return overlay.Probe{Echo: n - 1<<30} }, 30 * ms, Quiet},
		"special":               {func(uint32) overlay.Probe { return overlay.Probe{Echo: overlay.ProbeSpecial} }, 30 * ms, Odd},
		"highest":               {func(uint32) overlay.Probe { return overlay.Probe{Echo: math.MaxUint32} }, 30 * ms, Odd},
		"before it was sent":    {func(n uint32) overlay.Probe { return overlay.Probe{Echo: n} }, -time.Second, Odd},
		"held for too long":     {func(n uint32) overlay.Probe { return overlay.Probe{Echo: n, HoldMicros: 31000} }, 30 * ms, Odd},
		"held for an hour":      {func(n uint32) overlay.Probe { return overlay.Probe{Echo: n, HoldMicros: math.MaxUint32} }, 30 * ms, Odd},
		"out of order":          {func(n uint32) overlay.Probe { return overlay.Probe{Number: 6} }, 30 * ms, Odd},
		"the same":              {func(n uint32) overlay.Probe { return overlay.Probe{Number: 7} }, 30 * ms, Odd},
		"half of all ahead":     {func(n uint32) overlay.Probe { return overlay.Probe{Number: 7 + 1<<31} }, 30 * ms, Odd},
		"any stamp":             {func(n uint32) overlay.Probe { return overlay.Probe{Number: 8, Sent: 1 << 31} }, 30 * ms, Quiet},
		"received what wasn't":  {func(n uint32) overlay.Probe { return overlay.Probe{Number: 8, Highest: 100, Count: 50} }, 30 * ms, Odd},
		"more than the highest": {func(n uint32) overlay.Probe { return overlay.Probe{Number: 8, Highest: 5, Count: 50} }, 30 * ms, Odd},
	} {
		p := NewPath(start)
		answer(p, start, 25*ms)
		p.Receive(start.Add(30*ms), overlay.Probe{Number: 7}, false)
		now := start.Add(time.Second)
		n := p.Probe(now).Number
		q := c.q(n)
		before := *p
		rtt, r := p.Receive(now.Add(c.at), q, false)
		if q.Count > 0 && !p.ToldLow(now, q, 20) {
			r = Odd
		}
		if r != c.want || (r == Sampled) != (rtt == 30*ms) || rtt != 0 && r != Sampled {
			t.Errorf("%s: %v, %v; want %v", name, rtt, r, c.want)
		}
		if got, _ := p.RTT(now); got != 25*ms && r != Sampled {
			t.Errorf("%s: a round trip of %v", name, got)
		}
		if r == Odd && (p.came != before.came && q.Count == 0 || p.rtt != before.rtt || p.flight != before.flight || p.losses != before.losses || p.forth != before.forth) {
			t.Errorf("%s: it was taken", name)
		}
		// And what is true afterwards is taken.
		if _, r := p.Receive(now.Add(40*ms), overlay.Probe{Number: 1000, Echo: n}, true); r == Odd || (r == Sampled) == (c.want == Sampled) {
			t.Errorf("%s, and then a true one: %v", name, r)
		}
	}
}

// A reply that comes later than another one counts, and an echo once.
func TestPathReordered(t *testing.T) {
	p := NewPath(start)
	first, second := reply(p.Probe(start), 0), reply(p.Probe(start.Add(10*ms)), 0)
	first.Number, second.Number = 7, 8
	if rtt, r := p.Receive(start.Add(40*ms), second, true); r != Sampled || rtt != 30*ms {
		t.Errorf("the second: %v, %v", rtt, r)
	}
	if rtt, r := p.Receive(start.Add(50*ms), first, true); r != Sampled || rtt != 50*ms || p.came != 8 {
		t.Errorf("the first: %v, %v", rtt, r)
	}
	if _, r := p.Receive(start.Add(60*ms), first, true); r != Odd {
		t.Errorf("again: %v", r)
	}
}

// A session that begins lets the peer's numbers begin again, and a way that is another
// one the windows, but not before something is known of it.
func TestPathRestartAndMoved(t *testing.T) {
	p := NewPath(start)
	answer(p, start, 20*ms)
	p.Receive(start.Add(ms), overlay.Probe{Number: 500}, false)
	p.Restart()
	if _, r := p.Receive(start.Add(2*ms), overlay.Probe{Number: 1}, false); r != Quiet || p.came != 1 {
		t.Errorf("the first of a new session: %v", r)
	}
	p.Moved()
	if rtt, ok := p.RTT(start); !ok || rtt != 20*ms {
		t.Errorf("%v, %v after a move", rtt, ok)
	}
	now := start.Add(time.Second)
	answer(p, now, 90*ms)
	srtt, jitter, _ := p.Smoothed()
	if rtt, _ := p.RTT(now); rtt != 90*ms || srtt != 90*ms || jitter != 0 {
		t.Errorf("%v, smoothed %v, jitter %v by the other way", rtt, srtt, jitter)
	}
}

// Smoothed is what RFC 6298 and RFC 3550 say.
func TestPathSmoothed(t *testing.T) {
	p := NewPath(start)
	if _, _, ok := p.Smoothed(); ok || p.Sampled() != 0 {
		t.Error("known before any sample")
	}
	srtt, jitter, last := 0.0, 0.0, 0.0
	for i, v := range []float64{50, 52, 49, 51, 55, 48} {
		now := start.Add(time.Duration(i) * time.Second)
		answer(p, now, time.Duration(v*float64(ms)))
		if i == 0 {
			srtt, last = v, v
		}
		srtt, jitter, last = srtt+(v-srtt)/8, jitter+(math.Abs(v-last)-jitter)/16, v
		got, j, ok := p.Smoothed()
		if !ok || math.Abs(float64(got)/float64(ms)-srtt) > 1e-3 || math.Abs(float64(j)/float64(ms)-jitter) > 1e-3 {
			t.Errorf("sample %d: %v and %v, want %.3f and %.3f", i, got, j, srtt, jitter)
		}
		if at := p.Sampled(); at != now.Add(time.Duration(v*float64(ms))) {
			t.Errorf("sampled at %v", at)
		}
	}
}

// An agent that was suspended for a while doesn't hold that against its peers.
func TestPathForgive(t *testing.T) {
	p := NewPath(start)
	var q overlay.Probe
	for i := range Misses {
		q = p.Probe(start.Add(time.Duration(i) * time.Second))
	}
	now := start.Add(time.Minute)
	p.Forgive(now)
	if s := p.State(now); s != Up {
		t.Errorf("after a pause the peer is %v", s)
	}
	if _, r := p.Receive(now, reply(q, 0), true); r == Sampled {
		t.Error("the pause is a round trip")
	}
	now = now.Add(ms)
	for i := range Misses {
		p.Probe(now.Add(time.Duration(i) * time.Second))
	}
	if s := p.State(now.Add(2500 * ms)); s != Suspect {
		t.Errorf("what comes after the pause doesn't count: %v", s)
	}
}

// Many paths fit: they hold no more than they did when they were measured by less.
func TestPathSize(t *testing.T) {
	size := unsafe.Sizeof(Path{})
	t.Logf("a path takes %d bytes", size)
	if size > 1700 {
		t.Errorf("a path takes %d bytes", size)
	}
	p := NewPath(start)
	now := start
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Second)
		p.Receive(now.Add(20*ms), reply(p.Probe(now), 0), true)
		p.Told(now, uint64(p.number), uint64(p.number), 1<<40)
		p.RTT(now)
		p.Loss(now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever a peer sends, in whatever order and with whatever stamps, nothing panics, and
// no round trip is longer than since the first probe, or not positive.
func FuzzPath(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9})
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Fuzz(func(t *testing.T, events []byte) {
		p, now, sent := NewPath(start), start, uint64(0)
		for ; len(events) >= 10; events = events[10:] {
			x := binary.BigEndian.Uint64(events[2:])
			now = now.Add(time.Duration(events[1]) * time.Duration(events[1]) * ms)
			q := overlay.Probe{
				Number: uint32(x), Sent: uint32(x >> 8), Echo: uint32(x >> 60), HoldMicros: uint32(x >> 16 & 0xfffff),
				Highest: uint32(x >> 32), Count: uint32(x >> 40),
			}
			at := now.Add(-time.Duration(x>>56) * ms)
			switch events[0] % 8 {
			case 0:
				p.Probe(now)
				sent++
			case 1, 2:
				if events[0]&8 != 0 {
					q.Echo = uint32(x >> 24)
				}
				rtt, r := p.Receive(at, q, events[0]%8 == 1)
				if (r == Sampled) != (rtt > 0) || rtt > now.Sub(start) {
					t.Fatalf("%v is a round trip: %v", rtt, r)
				}
				if events[0]&16 != 0 {
					p.ToldLow(now, q, sent)
				}
			case 3:
				p.Told(now, x, x>>1, sent)
			case 4:
				p.Answer(now, uint32(x), at)
			case 5:
				p.Due(now, time.Duration(x>>1), x&1 == 0)
				p.Silent(now, overlay.Instant(x>>1))
			case 6:
				p.Forgive(now)
			case 7:
				if x&1 == 0 {
					p.Restart()
				} else {
					p.Moved()
				}
			}
			if rtt, ok := p.RTT(now); ok && (rtt <= 0 || rtt > now.Sub(start)) {
				t.Fatalf("round trip %v", rtt)
			}
			if l, low, high, ok := p.Loss(now); ok && !(0 <= low && low <= l+1e-9 && l <= high+1e-9 && high <= 1) {
				t.Fatalf("loss %v, from %v to %v", l, low, high)
			}
			if forth, back := p.Queues(); forth < 0 || back < 0 || forth > onewayJump || back > onewayJump {
				t.Fatalf("queues of %v and %v", forth, back)
			}
			_ = p.State(now).String()
		}
	})
}

func BenchmarkPath(b *testing.B) {
	p := NewPath(start)
	now := start
	for b.Loop() {
		now = now.Add(time.Second)
		p.Receive(now.Add(20*ms), reply(p.Probe(now), 0), true)
	}
}
