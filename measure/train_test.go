package measure

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

// A trainPath is a path as trains see it: a bottleneck with a token bucket and a
// queue behind a faster wire, whatever else uses it, and two hosts that stall.
type trainPath struct {
	rate, bucket float64       // bit/s of IP packets, bytes
	queue        int           // bytes; more are lost
	perCar       time.Duration // that the sender needs at least
	stall        time.Duration // of sender or receiver, at a random place
	late         bool          // it is the receiver that stalls
	loss, swap   float64       // of packets
	cross        float64       // bit/s of others' packets
	jitter       time.Duration // of the receiver's stamps
	vary         time.Duration // of the delay behind the bottleneck, either way
	overtake     bool          // packets do, where it varies
	r            *rand.Rand

	now   overlay.Instant
	free  overlay.Instant // when the bottleneck has sent all that waits
	level float64         // of the bucket
	other overlay.Instant // when the next of the others' packets comes
	last  overlay.Instant // when the newest arrived
}

func newTrainPath(rate float64, seed uint64) *trainPath {
	return &trainPath{
		rate: rate, queue: 1 << 20, perCar: 6 * time.Microsecond, jitter: 2 * time.Microsecond,
		r: rand.New(rand.NewPCG(seed, 5)), now: start, free: start, other: start,
	}
}

// pass sends a packet into the bottleneck and returns when it leaves.
func (p *trainPath) pass(at overlay.Instant, size int) (left overlay.Instant, ok bool) {
	if p.bucket > 0 {
		if at > p.free {
			p.level = min(p.bucket, p.level+at.Sub(p.free).Seconds()*p.rate/8)
			p.free = at
		}
		if p.level >= float64(size) {
			p.level -= float64(size)
			return at, true
		}
		missing := float64(size) - p.level
		p.level = 0
		p.free = p.free.Add(time.Duration(missing * 8 / p.rate * 1e9))
		return p.free, true
	}
	if p.free.Sub(at).Seconds()*p.rate/8 > float64(p.queue) {
		return 0, false
	}
	p.free = max(p.free, at).Add(time.Duration(float64(size) * 8 / p.rate * 1e9))
	return p.free, true
}

// varied delays a packet by chance, as the lab's emulator does.
func (p *trainPath) varied(came overlay.Instant) overlay.Instant {
	if p.vary > 0 {
		came = came.Add(time.Duration(p.r.Int64N(int64(2*p.vary)+1)) - p.vary)
		if !p.overtake {
			came = max(came, p.last)
		}
		p.last = came
	}
	return came
}

// run sends a train and returns what came of it.
func (p *trainPath) run(t TrainPlan) (cars []Car) {
	p.now = p.now.Add(60 * time.Millisecond)
	at, due := p.now, p.now
	stallAt := -1
	if p.stall > 0 && p.r.IntN(2) == 0 {
		stallAt = p.r.IntN(t.Cars)
	}
	var held overlay.Instant // until when the receiver stalls
	for i := range t.Cars {
		if due = due.Add(t.Gap(i)); at < due {
			at = due
		} else {
			due = at
		}
		sent := at
		if i == stallAt && !p.late {
			at = at.Add(p.stall) // after the packet had its stamp: the worst
		}
		for p.cross > 0 && p.other <= at {
			_, _ = p.pass(p.other, 1500)
			p.other = p.other.Add(time.Duration(p.r.ExpFloat64() * 1500 * 8 / p.cross * 1e9))
		}
		came, ok := p.pass(at, t.Size)
		at = at.Add(p.perCar)
		if !ok || p.r.Float64() < p.loss {
			continue
		}
		if i == stallAt && p.late {
			held = came.Add(p.stall)
		}
		came = p.varied(came)
		came = max(came, held).Add(time.Duration(p.r.Int64N(int64(p.jitter) + 1)))
		cars = append(cars, Car{uint16(i), sent.Add(clockSkew), came.Add(20 * time.Millisecond)})
	}
	for i := 1; i < len(cars); i++ {
		if p.r.Float64() < p.swap {
			cars[i].Came, cars[i-1].Came = cars[i-1].Came, cars[i].Came
		}
	}
	p.now = max(at, p.free)
	p.r.Shuffle(len(cars), func(i, j int) { cars[i], cars[j] = cars[j], cars[i] })
	return cars
}

// search measures the path.
func (p *trainPath) search(most int64) (Found, bool) {
	p.level = p.bucket
	s := NewSearch(1500, most)
	for {
		t, ok := s.Next()
		if !ok {
			return s.Result()
		}
		s.Took(Arrive(p.run(t), t.Cars, t.Size))
	}
}

// A search finds the rate of an idle bottleneck, whatever its bucket, though hosts
// stall and packets are lost or overtake each other, and sends no more than it may.
func TestSearchFindsTheBottleneck(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(p *trainPath)
		median float64 // of the errors
	}{
		"idle":            {func(*trainPath) {}, 0.005},
		"bucket of 64 kB": {func(p *trainPath) { p.bucket = 65536 }, 0.02},
		"bucket of 16 kB": {func(p *trainPath) { p.bucket = 16384 }, 0.02},
		"loss of 1 %":     {func(p *trainPath) { p.loss = 0.01 }, 0.01},
		"reordering":      {func(p *trainPath) { p.swap = 0.05 }, 0.01},
		"sender stalls":   {func(p *trainPath) { p.stall = time.Duration(1+p.r.IntN(4)) * time.Millisecond }, 0.01},
		"receiver stalls": {func(p *trainPath) { p.stall, p.late = time.Duration(1+p.r.IntN(4))*time.Millisecond, true }, 0.01},
	} {
		for _, mbit := range []float64{1, 5, 10, 50, 100, 200, 500, 950} {
			const runs = 41
			var errs []float64
			worst, most, bytes, limits, nothing := 0.0, 300_000, 0, map[Limit]int{}, 0
			if mbit > 200 {
				most = 1_200_000
			}
			for seed := range uint64(runs) {
				p := newTrainPath(mbit*1e6, seed)
				c.set(p)
				f, ok := p.search(0)
				if !ok {
					nothing++ // it is held up all the time
				}
				if ok && (f.Low > f.Rate || f.High < f.Rate) {
					t.Fatalf("%s, %v Mbit/s, seed %d: %+v, %v", name, mbit, seed, f, ok)
				}
				off := math.Abs(float64(f.Rate)/p.rate - 1)
				errs, worst, bytes = append(errs, off), max(worst, off), max(bytes, f.Bytes)
				limits[f.Limit]++
			}
			slices.Sort(errs)
			t.Logf("%s, %v Mbit/s: median error %.2f %%, p90 %.2f, worst %.1f, %d bytes at most, limits %v",
				name, mbit, 100*errs[runs/2], 100*errs[runs*9/10], 100*worst, bytes, limits)
			if errs[runs/2] > c.median || bytes > most || nothing > runs/20 {
				t.Errorf("%s, %v Mbit/s: median error %.2f %%, %d bytes", name, mbit, 100*errs[runs/2], bytes)
			}
			if name == "idle" && limits[ByPath] != runs {
				t.Errorf("%v Mbit/s, idle: limits %v", mbit, limits)
			}
		}
	}
}

// Where others use the bottleneck, what is found is what can be achieved, and said
// to be that.
func TestSearchAmongOthers(t *testing.T) {
	for _, mbit := range []float64{10, 50, 100, 200} {
		const runs = 40
		said := 0
		for seed := range uint64(runs) {
			p := newTrainPath(mbit*1e6, seed)
			p.cross = 0.3 * p.rate
			f, ok := p.search(0)
			if f.Limit == ByTraffic {
				said++
			}
			if share := float64(f.Rate) / p.rate; !ok || share < 0.55 || share > 1.02 {
				t.Errorf("%v Mbit/s, seed %d: %v of it, %+v", mbit, seed, share, f)
			}
		}
		t.Logf("%v Mbit/s, of which others take 30 %%: %d of %d searches say so", mbit, said, runs)
		if said < runs*9/10 {
			t.Errorf("%v Mbit/s: %d of %d searches say that others use the path", mbit, said, runs)
		}
	}
}

// What is faster than it may be sent is a lower bound, and the pace is kept.
func TestSearchKeepsToItsMost(t *testing.T) {
	for _, most := range []int64{1e6, 20e6, 300e6} {
		p := newTrainPath(900e6, 1)
		f, ok := p.search(most)
		if off := math.Abs(float64(f.Rate)/float64(most) - 1); !ok || f.Limit != ByMost || off > 0.02 || f.High != math.MaxInt64 {
			t.Errorf("at most %d: %+v, %v", most, f, ok)
		}
	}
	p := newTrainPath(10e9, 1) // the sender can't send 10 Gbit/s
	if f, ok := p.search(0); !ok || f.Limit != BySender || f.Rate < 1.5e9 || f.Bytes > 1_200_000 {
		t.Errorf("a path of 10 Gbit/s: %+v, %v", f, ok)
	}
}

// A train makes little queue, at any guess.
func TestSearchKeepsTheQueueShort(t *testing.T) {
	for mbit := int64(1); mbit <= 2000; mbit *= 2 {
		s := NewSearch(1500, 0)
		s.Next()
		s.Took(Arrival{Cars: 16, Windows: 4, Rate: mbit * 1e6, In: 2e9, Queued: true})
		plan, ok := s.Next()
		took := time.Duration(0)
		for i := range plan.Cars {
			took += plan.Gap(i)
		}
		queue := time.Duration(float64(plan.Cars*plan.Size*8)/float64(mbit)*1e3) - took
		bound := max(queueTime*11/10, time.Duration(float64(plan.Cars*plan.Size*8)/float64(mbit)*1e3)/8)
		if !ok || queue > bound || took > 2*longestTrain {
			t.Errorf("%d Mbit/s: %d cars in %v make a queue of %v", mbit, plan.Cars, took, queue)
		}
	}
}

// Whatever the stamps are, nothing panics, and an estimate makes sense.
func FuzzArrive(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, uint16(100), uint16(1500), int64(1<<62))
	f.Fuzz(func(t *testing.T, b []byte, planned, size uint16, far int64) {
		var cars []Car
		for i, x := range b[:min(len(b), MaxCars)] {
			c := Car{Number: uint16(i), Sent: overlay.Instant(int64(x) * far), Came: overlay.Instant(int64(i*1000) + int64(x)*far>>3)}
			if x%7 == 0 {
				c.Number = uint16(x) << 8
			}
			cars = append(cars, c)
		}
		a := Arrive(cars, int(planned), int(size))
		if a.Rate < 0 || a.Low < 0 || a.Low > a.Rate || a.High < a.Rate || a.In < 0 || a.Burst < 0 || a.Windows < 0 || a.Rate > maxRate {
			t.Fatalf("%+v", a)
		}
		s := NewSearch(int(size), far)
		for range 20 {
			if _, ok := s.Next(); !ok {
				break
			}
			s.Took(a)
		}
		if found, _ := s.Result(); found.Bytes > manyBytes+MaxCarSize {
			t.Fatalf("%d bytes", found.Bytes)
		}
	})
}
