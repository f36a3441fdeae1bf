package measure

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"farlan/overlay"
)

// A bottleneck is a flow over a link of a fixed rate with a queue, from a
// Delivery to a Receiver whose clock is far off, and its acknowledgements.
type bottleneck struct {
	rate   float64 // bit/s
	bucket float64 // bytes that pass at once after a pause
	rtt    time.Duration
	jitter time.Duration // of stamps, which stay in order
	loss   float64       // of datagrams, and of acknowledgements
	queue  int           // bytes; more are lost
	batch  int           // datagrams in a run, and received at once
	r      *rand.Rand

	d       Delivery
	rx      Receiver
	now     overlay.Instant
	counter uint64
	level   float64 // of the token bucket, negative by what waits
	at      overlay.Instant
	arrive  []arrival
	acks    []ackArrival
}

type arrival struct {
	at      overlay.Instant
	counter uint64
}

type ackArrival struct {
	at  overlay.Instant
	ack overlay.Ack
}

const (
	payload   = 1400
	clockSkew = 12345 * time.Second
	// stampJitter is that of a busy receiver: interrupts are put off.
	stampJitter = 500 * time.Microsecond
)

// waits returns how many bytes wait in the queue now.
func (b *bottleneck) waits() float64 {
	b.level = min(b.bucket, b.level+b.now.Sub(b.at).Seconds()*b.rate/8)
	b.at = b.now
	return -b.level
}

// send sends a run now.
func (b *bottleneck) send() {
	b.waits()
	for range b.batch {
		counter := b.counter
		b.counter++
		if b.r.Float64() < b.loss || -b.level > float64(b.queue) {
			continue
		}
		b.level -= payload
		wait := time.Duration(max(-b.level, 0) * 8 / b.rate * 1e9)
		at := b.now.Add(b.rtt/2 + wait)
		if b.jitter > 0 {
			at = at.Add(time.Duration(b.r.Int64N(int64(b.jitter))))
		}
		if n := len(b.arrive); n > 0 {
			at = max(at, b.arrive[n-1].at)
		}
		b.arrive = append(b.arrive, arrival{at, counter})
	}
	b.d.Sent(b.now, b.counter)
}

// run lets time pass until end, in small steps, and calls source in each.
func (b *bottleneck) run(end overlay.Instant, source func()) {
	for ; b.now < end; b.now = b.now.Add(100 * time.Microsecond) {
		source()
		n := 0
		for n < len(b.arrive) && b.arrive[n].at <= b.now {
			n++
		}
		for got := b.arrive[:n]; len(got) > 0; {
			k := min(len(got), b.batch)
			newest := got[k-1]
			b.rx.Received(b.now, newest.counter, k, k*payload, newest.at.Add(clockSkew))
			if b.rx.Due(b.now) {
				b.acks = append(b.acks, ackArrival{b.now.Add(b.rtt / 2), b.rx.Take(b.now)})
			}
			got = got[k:]
		}
		b.arrive = b.arrive[n:]
		if b.rx.Due(b.now) {
			b.acks = append(b.acks, ackArrival{b.now.Add(b.rtt / 2), b.rx.Take(b.now)})
		}
		for len(b.acks) > 0 && b.acks[0].at <= b.now {
			if b.r.Float64() >= b.loss {
				b.d.Acked(b.now, b.acks[0].ack)
			}
			b.acks = b.acks[1:]
		}
	}
}

func newBottleneck(rate float64, rtt time.Duration, batch int) *bottleneck {
	return &bottleneck{
		rate: rate, rtt: rtt, batch: batch, now: start, at: start,
		queue: int(rate/8/10) + 100*payload, r: rand.New(rand.NewPCG(1, 2)),
	}
}

// A flow that always has something to send shows the rate of its bottleneck.
func TestDeliveryRate(t *testing.T) {
	for _, mbit := range []float64{1, 10, 100, 500} {
		for _, ms := range []int{1, 20, 100, 300} {
			for _, loss := range []float64{0, 0.01} {
				for _, bucket := range []float64{0, 65536} {
					batch := 4
					if mbit > 50 {
						batch = 32
					}
					if testing.Short() && mbit > 10 {
						continue
					}
					b := newBottleneck(mbit*1e6, time.Duration(ms)*time.Millisecond, batch)
					b.loss, b.bucket, b.jitter = loss, bucket, stampJitter
					keep := max(mbit*1e6/8/50, 30*payload) // 20 ms of queue
					b.run(start.Add(10*time.Second), func() {
						if pause := b.now.Sub(start) % (2 * time.Second); bucket > 0 && pause < 100*time.Millisecond {
							b.d.AppLimited() // so the bucket fills up again and again
							return
						}
						for b.waits() < keep {
							b.send()
						}
					})
					got, ok := b.d.Rate(b.now)
					rate, lower, age := got.Value, got.Bound, got.Age
					off := float64(rate)/b.rate - 1
					t.Logf("%v Mbit/s, %d ms, loss %v, bucket %v: %+.2f %%", mbit, ms, loss, bucket, 100*off)
					if !ok || lower || math.Abs(off) > 0.05 || age > time.Second {
						t.Errorf("%v Mbit/s, %d ms, loss %v, bucket %v: %.3f Mbit/s, lower bound %v, age %v",
							mbit, ms, loss, bucket, float64(rate)/1e6, lower, age)
					}
				}
			}
		}
	}
}

// A flow that could have sent more shows a lower bound, and so does not unmake
// what one that couldn't has shown before; bursts show the bottleneck although
// nothing waits at the sender.
func TestDeliveryAppLimited(t *testing.T) {
	const rate = 20e6
	b := newBottleneck(rate, 30*time.Millisecond, 4)
	trickle := func() { // 5 Mbit/s
		if b.now.Sub(start)%(9*time.Millisecond) == 0 {
			b.send()
			b.d.AppLimited()
		}
	}
	b.run(start.Add(10*time.Second), trickle)
	got, lower, _, ok := rateNow(&b.d, b.now)
	if !ok || !lower || got > 8e6 || got < 4e6 {
		t.Errorf("5 Mbit/s of 20: %.3f Mbit/s, lower bound %v", float64(got)/1e6, lower)
	}
	b.run(b.now.Add(5*time.Second), func() {
		for b.waits() < 50e3 {
			b.send()
		}
	})
	backlogged := b.now
	b.run(b.now.Add(30*time.Second), trickle)
	got, lower, age, _ := rateNow(&b.d, b.now)
	if lower || math.Abs(float64(got)/rate-1) > 0.05 || (age-b.now.Sub(backlogged)).Abs() > time.Second {
		t.Errorf("30 s after a backlogged flow: %.3f Mbit/s, lower bound %v, age %v", float64(got)/1e6, lower, age)
	}

	b = newBottleneck(rate, 30*time.Millisecond, 4)
	b.run(start.Add(10*time.Second), func() { // 200 ms at 40 Mbit/s in every second
		if at := b.now.Sub(start) % time.Second; at < 200*time.Millisecond && at%(1100*time.Microsecond) == 0 {
			b.send()
			b.d.AppLimited()
		}
	})
	got, lower, _, _ = rateNow(&b.d, b.now)
	if lower || math.Abs(float64(got)/rate-1) > 0.05 {
		t.Errorf("bursts at twice the rate: %.3f Mbit/s, lower bound %v", float64(got)/1e6, lower)
	}
}

func rateNow(d *Delivery, now overlay.Instant) (rate int64, bound bool, age time.Duration, ok bool) {
	r, ok := d.Rate(now)
	return r.Value, r.Bound, r.Age, ok
}

// A few samples that aren't limited make no estimate yet.
func TestDeliveryEnough(t *testing.T) {
	var d Delivery
	now := start
	for i := range 2 * enoughSamples {
		now = now.Add(rateSpacing)
		d.full.add(now, 100e6)
		d.low.add(now, 50e6)
		if rate, lower, _, ok := rateNow(&d, now); !ok || rate != 100e6 || lower != (i+1 < enoughSamples) {
			t.Errorf("after %d samples: %d, lower bound %v", i+1, rate, lower)
		}
	}
	for range rateSamples {
		now = now.Add(rateSpacing)
		d.low.add(now, 120e6)
	}
	if rate, lower, _, _ := rateNow(&d, now); rate != 120e6 || !lower {
		t.Errorf("limited samples above the estimate: %d, lower bound %v", rate, lower)
	}
}

func TestReceiverSteps(t *testing.T) {
	const ms = time.Millisecond
	var r Receiver
	now := start
	if r.Due(now) || r.Next() != 0 {
		t.Error("due before anything came")
	}
	for i, s := range []struct {
		after time.Duration
		n     int
		due   bool
		next  time.Duration // after now; -1: never
	}{
		{0, 1, false, 10 * ms},
		{9 * ms, 1, false, ms},
		{ms, 0, true, 0}, // 10 ms after the first: taken
		{ms, 0, false, -1},
		{ms, 15, false, 10 * ms},
		{ms, 1, true, -ms}, // 16
		{0, 40, false, ms}, // the last was just now
		{ms, 0, true, 0},
		{50 * ms, 40, true, 0},
	} {
		now = now.Add(s.after)
		if s.n > 0 {
			r.Received(now, uint64(i), s.n, 100*s.n, now)
		}
		next := r.Next().Sub(now)
		if r.Next() == 0 {
			next = -1
		}
		if r.Due(now) != s.due || next != s.next {
			t.Errorf("step %d: due %v in %v, want %v in %v", i, r.Due(now), next, s.due, s.next)
		}
		if r.Due(now) {
			r.Take(now)
		}
	}
	r.Counted(1000, 1, 60, now)
	if r.Due(now.Add(time.Hour)) {
		t.Error("an acknowledgement makes one due")
	}
	if !r.Stamped() {
		t.Error("the newest was stamped")
	}
	if a := r.Take(now); a != (overlay.Ack{Highest: 1000, Count: 1 + 1 + 15 + 1 + 40 + 40 + 1, Bytes: 9860, Stamp: now}) {
		t.Errorf("%+v", a)
	}
	if r.Counted(1001, 1, 0, 0); r.Stamped() { // through TCP
		t.Error("the newest wasn't stamped")
	}
}

// What a sample is, step by step: a megabyte is sent in each.
func TestDeliverySamples(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		pause, sending, arriving time.Duration
		limited                  bool
		stamp                    time.Duration // added to the receiver's clock
		full, low                int64         // Mbit/s of the sample that follows, 0: none
	}
	for name, steps := range map[string][]step{
		"arrives as it is sent":     {{0, 100 * ms, 100 * ms, false, 0, 0, 0}, {0, 100 * ms, 100 * ms, false, 0, 80, 0}},
		"arrives more slowly":       {{0, 100 * ms, 200 * ms, false, 0, 0, 0}, {0, 100 * ms, 200 * ms, false, 0, 40, 0}},
		"arrives all at once":       {{0, 100 * ms, 1 * ms, false, 0, 0, 0}, {0, 100 * ms, 1 * ms, false, 0, 80, 0}},
		"limited":                   {{0, 100 * ms, 100 * ms, true, 0, 0, 0}, {0, 100 * ms, 100 * ms, true, 0, 0, 80}},
		"limited, a little slower":  {{0, 100 * ms, 110 * ms, true, 0, 0, 0}, {0, 100 * ms, 110 * ms, true, 0, 0, 72}},
		"limited, but squeezed":     {{0, 100 * ms, 200 * ms, true, 0, 0, 0}, {0, 100 * ms, 200 * ms, true, 0, 40, 0}},
		"after a pause":             {{0, 100 * ms, 100 * ms, false, 0, 0, 0}, {time.Second, 100 * ms, 100 * ms, false, 0, 0, 0}},
		"after an hour":             {{0, 100 * ms, 100 * ms, false, 0, 0, 0}, {time.Hour, 100 * ms, 100 * ms, false, 0, 0, 0}},
		"the clock went back":       {{0, 100 * ms, 100 * ms, false, 0, 0, 0}, {0, 100 * ms, 100 * ms, false, -time.Second, 0, 0}},
		"the clock went far ahead":  {{0, 100 * ms, 100 * ms, false, 0, 0, 0}, {0, 100 * ms, 100 * ms, false, time.Hour, 0, 0}},
		"the clock is right, again": {{0, 100 * ms, 100 * ms, false, -time.Hour, 0, 0}, {0, 100 * ms, 100 * ms, false, 0, 80, 0}},
	} {
		var d Delivery
		now, stamp, counter := start, start.Add(clockSkew), uint64(0)
		for i, s := range steps {
			now = now.Add(s.pause)
			stamp = stamp.Add(s.pause + s.arriving + s.stamp)
			full, low := d.full.last, d.low.last
			for range 100 {
				if s.limited {
					d.AppLimited()
				}
				now = now.Add(s.sending / 100)
				counter += 10
				d.Sent(now, counter)
			}
			d.Acked(now, overlay.Ack{Highest: counter - 1, Count: counter, Bytes: counter * 1000, Stamp: stamp})
			mbit := func(r *rates, was int) int64 {
				if r.last == was {
					return 0
				}
				return r.rate[r.last] / 1e6
			}
			if f, l := mbit(&d.full, full), mbit(&d.low, low); f != s.full || l != s.low {
				t.Errorf("%s, step %d: samples of %d and %d (limited) Mbit/s, want %d and %d", name, i, f, l, s.full, s.low)
			}
		}
	}
}

// Acknowledgements that can't be true, late ones and repeated ones change
// nothing; a receiver's clock that is set costs a moment's samples.
func TestDeliveryIgnores(t *testing.T) {
	var d Delivery
	d.Acked(start, overlay.Ack{Highest: 1, Count: 1, Bytes: 1, Stamp: 1})
	now := start
	for i := range uint64(100) {
		now = start.Add(time.Duration(i) * time.Millisecond)
		d.Sent(now, 10*(i+1))
	}
	good := overlay.Ack{Highest: 500, Count: 480, Bytes: 480e3, Stamp: 1e9}
	d.Acked(now, good)
	for _, a := range []overlay.Ack{
		good,
		{Highest: 400, Count: 490, Bytes: 490e3, Stamp: 1e9},
		{Highest: 600, Count: 479, Bytes: 490e3, Stamp: 2e9},
		{Highest: 600, Count: 490, Bytes: 470e3, Stamp: 2e9},
		{Highest: 600, Count: 602, Bytes: 490e3, Stamp: 2e9}, // more than were sent
		{Highest: 1000 + untold, Count: 490, Bytes: 490e3, Stamp: 2e9},
		{Highest: 600, Count: 490, Bytes: 480e3 + 10*maxPayload + 1, Stamp: 2e9},
		{Highest: math.MaxUint64, Count: math.MaxUint64, Bytes: math.MaxUint64, Stamp: math.MaxInt64},
		{Highest: 600, Count: 490, Bytes: 490e3, Stamp: -1},
		{Highest: 10, Count: 490, Bytes: 490e3, Stamp: 2e9},
	} {
		before := d
		if d.Acked(now, a); d != before {
			t.Errorf("%+v was taken", a)
		}
	}
	d.Acked(now, overlay.Ack{Highest: 999, Count: 980, Bytes: 980e3, Stamp: 5e8}) // the clock went back
	if _, ok := d.Rate(now); ok {
		t.Error("a sample across a clock that was set")
	}
	if d.Restart(); d.ack != (overlay.Ack{}) {
		t.Error("an acknowledgement survives its session")
	}
}

func TestDeliveryAllocatesNothing(t *testing.T) {
	now, counter := start, uint64(0)
	var d Delivery
	var r Receiver
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Millisecond)
		counter += 16
		d.Sent(now, counter)
		r.Received(now, counter-1, 16, 16*payload, now)
		if r.Due(now) {
			d.Acked(now, r.Take(now))
		}
		d.Rate(now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever is said, estimates are within what was sent, and nothing panics.
func FuzzDelivery(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 255, 4, 0, 0, 0, 0, 0, 0, 1, 0, 9})
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Fuzz(func(t *testing.T, events []byte) {
		var d Delivery
		var r Receiver
		now, counter := start, uint64(0)
		for ; len(events) >= 10; events = events[10:] {
			x := binary.BigEndian.Uint64(events[1:])
			now = now.Add(time.Duration(events[9]) * 500 * time.Microsecond)
			switch events[0] % 8 {
			case 0, 1:
				n := int(x%64) + 1
				counter += uint64(n)
				d.Sent(now, counter)
				if events[0]&8 == 0 {
					r.Received(now, counter-1, n, n*payload, now)
				}
			case 2:
				d.Sent(now, x)
			case 3:
				d.Acked(now, overlay.Ack{Highest: x, Count: x >> 1, Bytes: x >> 2, Stamp: overlay.Instant(x)})
			case 4:
				if a := r.Take(now); events[0]&8 == 0 {
					d.Acked(now, a)
				} else {
					a.Highest += x % 3
					a.Count += x >> 8 % 3
					a.Bytes += x >> 16 % 9999
					a.Stamp += overlay.Instant(int32(x >> 32))
					d.Acked(now, a)
				}
			case 5:
				d.AppLimited()
			case 6:
				now = now.Add(-time.Second)
			case 7:
				if x%16 == 0 {
					d.Restart()
					r = Receiver{}
				}
				r.Received(now, x, int(int8(x)), int(int16(x>>8)), overlay.Instant(x>>3))
			}
			if rate, _, age, ok := rateNow(&d, now); ok && (rate < 0 || rate > maxSample*8*1000 || age < 0) {
				t.Fatalf("rate %d, age %v", rate, age)
			}
			if d.slices < 0 || d.slices > flightSlices {
				t.Fatalf("%d slices", d.slices)
			}
		}
	})
}

func BenchmarkDelivery(b *testing.B) {
	b.Run("Sent", func(b *testing.B) {
		var d Delivery
		now, counter := start, uint64(0)
		for b.Loop() {
			now += 300000
			counter += 32
			d.Sent(now, counter)
		}
	})
	b.Run("Received", func(b *testing.B) {
		var r Receiver
		now, counter := start, uint64(0)
		for b.Loop() {
			now += 300000
			counter += 32
			r.Received(now, counter, 32, 32*payload, now)
			if r.Due(now) {
				r.Take(now)
			}
		}
	})
	b.Run("Sent+Acked", func(b *testing.B) {
		var d Delivery
		var a overlay.Ack
		now := start
		for b.Loop() {
			now += 300000
			a = overlay.Ack{Highest: a.Highest + 32, Count: a.Count + 32, Bytes: a.Bytes + 32*payload, Stamp: now}
			d.Sent(now, a.Highest+1)
			d.Acked(now, a)
		}
	})
}
