package measure

import (
	"math"
	"testing"
	"time"
)

// A bottleneck that becomes slower under a flow that never leaves anything waiting at
// its sender is seen within 10 s; one that only suffers others' queue, with a trickle,
// makes nothing forgotten.
func TestDeliveryRateSinks(t *testing.T) {
	b := newBottleneck(100e6, 20*time.Millisecond, 8)
	b.jitter = stampJitter
	filled := func() { // never empty, seldom growing
		for b.waits() < b.rate/8*0.04 {
			b.send()
			b.d.AppLimited()
		}
	}
	b.run(start.Add(500*time.Millisecond), func() { // while TCP finds its pace, it queues
		for b.waits() < b.now.Sub(start).Seconds()*b.rate/8/8 {
			b.send()
		}
	})
	b.run(start.Add(12*time.Second), filled)
	r, ok := b.d.Rate(b.now)
	if !ok || r.Bound || math.Abs(float64(r.Value)/100e6-1) > 0.05 || r.Age > time.Second {
		t.Fatalf("before: %+v", r)
	}
	cut := b.now
	b.rate = 20e6
	for {
		b.run(b.now.Add(100*time.Millisecond), filled)
		if r, _ = b.d.Rate(b.now); !r.Bound && math.Abs(float64(r.Value)/20e6-1) < 0.05 {
			break
		}
		if b.now.Sub(cut) > 10*time.Second {
			t.Fatalf("10 s after the cut: %+v", r)
		}
	}
	t.Logf("a cut from 100 to 20 Mbit/s shows after %v", b.now.Sub(cut))
	b.run(b.now.Add(30*time.Second), filled)
	if r, _ = b.d.Rate(b.now); r.Bound || math.Abs(float64(r.Value)/20e6-1) > 0.05 {
		t.Errorf("30 s later: %+v", r)
	}
	b.run(b.now.Add(20*time.Second), func() { // 1 Mbit/s, amid another's queue
		if b.now.Sub(start)%(100*time.Millisecond) == 0 {
			b.send()
			b.d.AppLimited()
		}
	})
	if r, _ = b.d.Rate(b.now); math.Abs(float64(r.Value)/20e6-1) > 0.05 {
		t.Errorf("after a trickle: %+v", r)
	}
	if now, bound, ok := b.d.Now(b.now); ok && !bound && now > 2e6 {
		t.Errorf("%d are delivered now", now)
	}
}

// Headers count: rates are those of IP packets.
func TestDeliveryCountsHeaders(t *testing.T) {
	b := newBottleneck(10e6, 10*time.Millisecond, 4)
	b.d.Around = 28
	b.run(start.Add(5*time.Second), func() {
		for b.waits() < 50e3 {
			b.send()
		}
	})
	want := 10e6 * (payload + 28) / payload
	if r, ok := b.d.Rate(b.now); !ok || math.Abs(float64(r.Value)/want-1) > 0.005 || r.Low > r.Value || r.High < r.Value {
		t.Errorf("%+v, want %.0f", r, want)
	}
}

// The interval is honest: with few samples nothing is known of what is above.
func TestRateInterval(t *testing.T) {
	var d Delivery
	now := start
	for i := range 200 {
		now = now.Add(rateSpacing)
		d.full.add(now, int64(100e6+i%10*1e5))
		r, ok := d.Rate(now)
		if !ok || r.Low > r.Value || r.High != 0 && r.High < r.Value {
			t.Fatalf("after %d: %+v", i+1, r)
		}
		if known := r.High != 0; known && i < 50 || !known && i > 150 {
			t.Errorf("after %d samples: %+v", i+1, r)
		}
	}
}
