package overlay

import (
	"math/rand/v2"
	"testing"
	"time"
)

func reservedFlow(i int) *source {
	s := greedy()
	s.class = GuaranteedClass(i)
	return s
}

// promise gives a line's class i a rate.
func (l *line) promise(i int, rate int64, most bool) {
	l.t.Helper()
	if !l.s.Guarantee(i, rate, most) {
		l.t.Fatalf("%d bit/s are refused", rate)
	}
}

func rateOf(s *source, d time.Duration) float64 {
	return float64(s.carried) * 8 / d.Seconds()
}

// What has a rate guaranteed gets it, whatever else there is, and the rest has what is left;
// neither pings nor flows that send little wait for it longer than for bulk.
func TestGuarantee(t *testing.T) {
	for _, rate := range []int64{5 * mbit, 100 * mbit, 1000 * mbit} {
		const d = 4 * time.Second
		want := float64(rate) * 0.6
		for _, most := range []bool{true, false} {
			r, p, s := reservedFlow(3), ping(), sparse()
			sources := []*source{r, p, s}
			for range 8 {
				sources = append(sources, greedy())
			}
			l := newLine(t, rate, sources...)
			l.promise(3, rate*6/10, most)
			l.run(d)
			l.conserved()
			full := time.Duration(1700 * 8e9 / rate)
			t.Logf("%d Mbit/s: %.2f of it, ping %v, sparse %v", rate/mbit, rateOf(r, d)/float64(rate), p.late, s.late)
			if got := rateOf(r, d); got < 0.97*want || got > 1.02*want {
				t.Errorf("%d Mbit/s: %.2f Mbit/s, want %.2f", rate/mbit, got/mbit, want/mbit)
			}
			if got := float64(l.carried) * 8 / d.Seconds(); got < 0.95*float64(rate) {
				t.Errorf("%.1f Mbit/s of %d passed", got/mbit, rate/mbit)
			}
			if limit := 25*time.Millisecond + 6*full; p.late > limit || s.late > limit+20*time.Millisecond {
				t.Errorf("a ping waited %v, the sparse flow %v", p.late, s.late)
			}
		}
	}
}

// Alone, a class has all of the line, or no more than its rate if that is the most.
func TestGuaranteeBorrows(t *testing.T) {
	for _, most := range []bool{true, false} {
		const rate, d = 100 * mbit, 3 * time.Second
		want := map[bool]float64{true: 0.3, false: 1}[most] * rate
		r := reservedFlow(0)
		l := newLine(t, rate, r)
		l.promise(0, rate*3/10, most)
		l.run(d)
		l.conserved()
		if got := rateOf(r, d); got < 0.95*want || got > 1.02*want {
			t.Errorf("most %v: %.1f Mbit/s, want %.1f", most, got/mbit, want/mbit)
		}
		// What was borrowed isn't owed when others come.
		bulk := greedy()
		bulk.number, bulk.sentAt, bulk.due = 1, make(map[uint32]Instant), l.now
		l.sources, r.carried = append(l.sources, bulk), 0
		l.run(d)
		if got := rateOf(r, d); got < 0.28*rate || got > 0.32*rate {
			t.Errorf("then %.1f Mbit/s, want 30", got/mbit)
		}
	}
}

// Several have their rates each; all together no more than nine tenths.
func TestGuaranteesTogether(t *testing.T) {
	const rate, d = 100 * mbit, 4 * time.Second
	a, b, c, bulk := reservedFlow(0), reservedFlow(1), reservedFlow(31), greedy()
	l := newLine(t, rate, a, b, c, bulk)
	l.promise(0, 10*mbit, false)
	l.promise(1, 50*mbit, true)
	l.promise(31, 30*mbit, false)
	for _, bad := range []struct {
		i    int
		rate int64
	}{{2, mbit}, {1, 51 * mbit}, {-1, 1000}, {MaxGuarantees, 1000}, {0, -1}} {
		if l.s.Guarantee(bad.i, bad.rate, false) {
			t.Errorf("class %d is given %d bit/s", bad.i, bad.rate)
		}
	}
	l.run(d)
	l.conserved()
	for i, want := range []float64{10, 50, 30, 10} {
		if got := rateOf(l.sources[i], d) / mbit; got < 0.96*want || got > 1.05*want+0.3 {
			t.Errorf("flow %d: %.2f Mbit/s, want %.0f", i, got, want)
		}
	}
	l.promise(1, 20*mbit, true)
	l.promise(2, 30*mbit, true)
}

// What waits when a guarantee ends leaves with bulk, in order, and all of it.
func TestGuaranteeEnds(t *testing.T) {
	s := NewShaper(10 * mbit)
	if !s.Guarantee(4, 5*mbit, true) {
		t.Fatal("refused")
	}
	now := Instant(time.Second)
	f := Frame{Head: make([]byte, 200)}
	for i := range 40 {
		f.Head[20] = byte(i)
		class := GuaranteedClass(4)
		if i >= 30 {
			class = ClassBulk
		}
		if !s.Enqueue(now, AgentPlace(1), class, 9, &f) {
			t.Fatal("not taken")
		}
		if i == 20 {
			_, _, _, _ = s.Dequeue(now)
		}
		if i == 29 {
			if n := s.Guaranteed(4); n != 29*200 {
				t.Errorf("%d bytes wait", n)
			}
			s.Guarantee(4, 0, false)
		}
	}
	if s.Guaranteed(4) != 0 || s.Guaranteed(99) != 0 {
		t.Error("something waits of what has ended")
	}
	for want := 1; want < 40; {
		now += Instant(time.Millisecond)
		if _, class, f, ok := s.Dequeue(now); ok {
			if class != ClassBulk || f.Head[20] != byte(want) {
				t.Fatalf("frame %d, class %d, want %d", f.Head[20], class, want)
			}
			want++
		}
	}
	if s.Lost() != 0 || s.Backlog() != [Classes]int{} {
		t.Errorf("%d lost, %v wait", s.Lost(), s.Backlog())
	}
	if !s.Guarantee(4, 0, false) || !s.Guarantee(5, 0, false) {
		t.Error("ended twice")
	}
}

// Whatever comes and goes, in whatever order: memory keeps to its bound, nothing is lost
// uncounted, and Next says when something can leave.
func TestGuaranteesAtRandom(t *testing.T) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 7))
		l := newLine(t, 50*mbit)
		in, out := 0, 0
		f := Frame{Head: make([]byte, 1514)}
		for range 20_000 {
			switch i := r.IntN(5); r.IntN(12) {
			case 0:
				l.s.Guarantee(i, r.Int64N(20*mbit), r.IntN(2) == 0)
			case 1:
				l.s.Guarantee(i, 0, false)
			case 2, 3, 4, 5:
				size := 60 + r.IntN(1454)
				if l.s.Enqueue(l.now, 1, Class(r.IntN(8)), r.Uint32(), &Frame{Head: f.Head[:size]}) {
					in++
				}
			default:
				at, waits := l.s.Next(l.now)
				if _, _, _, ok := l.s.Dequeue(l.now); ok {
					l.s.Charge(r.IntN(3000))
					out++
				} else if waits && at <= l.now {
					if at, waits = l.s.Next(l.now); waits && at <= l.now { // else all was dropped
						t.Fatal("nothing leaves when Next says that it does")
					}
				} else {
					l.now += Instant(r.Int64N(1e6))
				}
			}
			l.checkMemory()
		}
		if lost := int(l.s.Lost()); in != out+lost+l.s.segments() {
			t.Errorf("seed %d: %d in, %d out, %d lost, %d wait", seed, in, out, lost, l.s.segments())
		}
	}
}

func TestGuaranteeDoesNotAllocate(t *testing.T) {
	s := NewShaper(100 * mbit)
	for i := range MaxGuarantees {
		s.Guarantee(i, 2*mbit, i%2 == 0)
	}
	f, now := Frame{Head: make([]byte, 1400)}, Instant(time.Second)
	turn := func() {
		for i := range 64 {
			s.Enqueue(now, 1, Class(i%(MaxGuarantees+2)), uint32(i), &f)
		}
		for range 200 {
			now += Instant(200 * time.Microsecond)
			if _, _, _, ok := s.Dequeue(now); ok {
				s.Charge(1480)
			}
		}
	}
	turn()
	if n := testing.AllocsPerRun(50, turn); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
