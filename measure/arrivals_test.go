package measure

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

var (
	alice = overlay.AgentID{1}
	bob   = overlay.AgentID{2}
)

func ask(id uint32, cars uint16) overlay.Train {
	return overlay.Train{Verb: overlay.TrainAsk, ID: id, Cars: cars, Size: 1500}
}

// One train runs into an agent at a time: another peer waits until the first has been
// asked for, or has had its time; whoever gives a train up may send another one.
func TestArrivalsOneAtATime(t *testing.T) {
	a, forAlice, forBob := NewArrivals(), NewCredit(), NewCredit()
	now := start
	may := func(from overlay.AgentID, train overlay.Train, want time.Duration) {
		t.Helper()
		credit := forAlice
		if from == bob {
			credit = forBob
		}
		if wait, ok := a.Ask(now, from, train, credit); !ok || wait != want {
			t.Errorf("%v may go in %v, %v; want %v", from, wait, ok, want)
		}
	}
	may(alice, ask(1, 100), 0)
	may(alice, ask(1, 100), 0) // the grant was lost
	may(bob, ask(1, 100), busyWait)
	if a.Car(now, bob, overlay.Train{ID: 1}, start) {
		t.Error("a car of a train that wasn't let in counts")
	}
	for i := range uint16(100) {
		now = now.Add(time.Millisecond)
		if !a.Car(now, alice, overlay.Train{ID: 1, Number: i, Sent: now.Add(-time.Duration(i) * 100 * time.Microsecond)}, now) {
			t.Fatalf("car %d doesn't count", i)
		}
	}
	if a.Car(now, alice, overlay.Train{ID: 1, Number: 7}, now) || a.Car(now, alice, overlay.Train{ID: 1, Number: 100}, now) {
		t.Error("a car counts that came before, or that there can't be")
	}
	may(bob, ask(2, 100), busyWait)
	for range 2 { // the report was lost
		r, found, ok := a.End(now, alice, overlay.Train{ID: 1})
		if got, good := Reported(TrainPlan{Cars: 100, Size: 1500}, r); !ok || !good || got != found || r.Rate/1e5 != 120 || !r.Queued {
			t.Errorf("report %+v, %v, %v", r, ok, good)
		}
	}
	may(bob, ask(2, 100), 0)
	if _, _, ok := a.End(now, alice, overlay.Train{ID: 1}); ok {
		t.Error("a train that another one has replaced is reported")
	}
	may(bob, ask(3, 50), 0) // it gave up the one before
	may(alice, ask(4, 50), busyWait)
	now = now.Add(trainTimeout)
	may(alice, ask(4, 50), 0)
}

// A member that asks for ever gets in no more than its share, and all together no
// more than theirs.
func TestArrivalsAreBounded(t *testing.T) {
	a := NewArrivals()
	var credits [8]*Credit
	for i := range credits {
		credits[i] = NewCredit()
	}
	const hours = 10
	var in [8]int
	total := 0
	for now := start; now.Sub(start) < hours*time.Hour; now = now.Add(time.Second) {
		for i := range credits {
			from := overlay.AgentID{byte(i)}
			if i > 0 && now.Sub(start) < hours/2*time.Hour {
				break // the first one alone, for a time
			}
			train := ask(uint32(now), 800)
			if wait, ok := a.Ask(now, from, train, credits[i]); ok && wait == 0 {
				in[i] += 800 * 1500
				total += 800 * 1500
				a.End(now, from, train)
			}
		}
	}
	const seconds = hours * 3600
	if in[0] > peerBurst+peerRate*seconds || in[0] < peerRate*seconds/3 || total > inBurst+inRate*seconds {
		t.Errorf("%d bytes of one, %d of all", in[0], total)
	}
	for name, train := range map[string]overlay.Train{
		"no car": ask(1, 0), "too many": ask(1, MaxCars+1),
		"none of a size": {Verb: overlay.TrainAsk, Cars: 100}, "too long": {Verb: overlay.TrainAsk, Cars: 100, Size: 9000},
	} {
		if _, ok := NewArrivals().Ask(start, alice, train, NewCredit()); ok {
			t.Errorf("a train with %s is let in", name)
		}
	}
}

// A report that can't be true is none.
func TestReportsThatCannotBe(t *testing.T) {
	plan := TrainPlan{Cars: 100, Size: 1500}
	good := overlay.Train{Cars: 100, Windows: 6, Rate: 100e6, Low: 99e6, High: 101e6, In: 130e6, Queued: true}
	if _, ok := Reported(plan, good); !ok {
		t.Fatal("a good one is refused")
	}
	for name, spoil := range map[string]func(r *overlay.Train){
		"more cars than were sent":  func(r *overlay.Train) { r.Cars = 101 },
		"more windows than cars":    func(r *overlay.Train) { r.Windows = 101 },
		"negative":                  func(r *overlay.Train) { r.Rate, r.Low = -1, -1 },
		"huge":                      func(r *overlay.Train) { r.Rate, r.High = math.MaxInt64, math.MaxInt64 },
		"not a number's bits":       func(r *overlay.Train) { r.Rate = int64(math.Float64bits(math.NaN())); r.High = r.Rate },
		"an interval that isn't":    func(r *overlay.Train) { r.Low, r.High = r.High, r.Low },
		"beside its interval":       func(r *overlay.Train) { r.Rate = 200e6 },
		"sent at a negative rate":   func(r *overlay.Train) { r.In = -1 },
		"sent at a huge rate":       func(r *overlay.Train) { r.In = math.MaxInt64 },
		"a burst of more than sent": func(r *overlay.Train) { r.Burst = math.MaxUint32 },
		"a rate of no windows":      func(r *overlay.Train) { r.Windows = 0 },
	} {
		r := good
		spoil(&r)
		if a, ok := Reported(plan, r); ok {
			t.Errorf("%s: taken: %+v", name, a)
		}
	}
}

func FuzzReported(f *testing.F) {
	f.Add(slices.Repeat([]byte{0x7f}, 50))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, 50)...)
		word := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[i:])) }
		r := overlay.Train{
			Cars: uint16(b[0]), Windows: uint16(b[1]), Rate: word(2), Low: word(10), High: word(18), In: word(26),
			Burst: binary.BigEndian.Uint32(b[34:]), Queued: b[38]&1 != 0,
		}
		plan := TrainPlan{Cars: firstCars, Size: 1500}
		a, ok := Reported(plan, r)
		if !ok {
			return
		}
		s := NewSearch(1500, 0)
		for {
			if _, more := s.Next(); !more {
				break
			}
			s.Took(a)
		}
		if found, ok := s.Result(); found.Bytes > manyBytes || ok && (found.Rate < 0 || found.Low > found.Rate || found.High < found.Rate) {
			t.Fatalf("%+v made %+v", r, found)
		}
	})
}

func TestCarAllocatesNothing(t *testing.T) {
	a := NewArrivals()
	a.Ask(start, alice, ask(1, MaxCars), NewCredit())
	number := uint16(0)
	if n := testing.AllocsPerRun(1000, func() {
		a.Car(start, alice, overlay.Train{ID: 1, Number: number, Sent: start}, start)
		number++
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
