package measure

import (
	"time"

	"farlan/overlay"
)

const (
	// A train that was let in has so long to come before another one may.
	trainTimeout = 3 * time.Second
	// busyWait is what others are told to wait meanwhile.
	busyWait = 100 * time.Millisecond
	// What trains may bring into an agent: all of them together, and those of one
	// peer; bytes a second, after so many at once. A member that asks for ever gets
	// 50 kB/s, as much as a call; what people ask for goes through.
	inRate, inBurst     = 100_000, 200_000_000
	peerRate, peerBurst = 50_000, 100_000_000
)

// A Credit is what trains of one peer may still bring into an agent. Use NewCredit.
type Credit overlay.Bucket

// NewCredit returns a full credit.
func NewCredit() *Credit {
	b := overlay.NewBucket(peerRate, peerBurst)
	return (*Credit)(&b)
}

// Arrivals lets trains into an agent, one at a time and within bounds, and notes
// what comes. What is said of a train that isn't there is refused. Its memory is
// that of one train: 38 kB. Not safe for concurrent use; Car does not allocate. Use
// NewArrivals.
type Arrivals struct {
	all     overlay.Bucket
	from    overlay.AgentID
	id      uint32
	planned int
	size    int
	until   overlay.Instant // when it is given up, 0: there is none
	came    []Car
	seen    [MaxCars]bool
}

// NewArrivals returns arrivals at which no train is expected.
func NewArrivals() *Arrivals {
	return &Arrivals{all: overlay.NewBucket(inRate, inBurst)}
}

// Ask answers a peer that wants to send a train: how long it has to wait before it
// asks again, 0 if it may go; ok is false if it asks for what can't be.
func (a *Arrivals) Ask(now overlay.Instant, from overlay.AgentID, t overlay.Train, credit *Credit) (wait time.Duration, ok bool) {
	cars, size := int(t.Cars), int(t.Size)
	if cars == 0 || cars > MaxCars || size < overlay.DatagramSize/2 || size > MaxCarSize {
		return 0, false
	}
	if now.Before(a.until) {
		if a.from == from && a.id == t.ID && a.planned == cars && a.size == size && len(a.came) == 0 {
			return 0, true // the grant was lost
		}
		if a.from != from {
			return busyWait, true
		} // else it has given up the one before
	}
	bytes := int64(cars * size)
	if wait := max(a.all.Wait(now, bytes), (*overlay.Bucket)(credit).Wait(now, bytes)); wait > 0 {
		return wait, true
	}
	a.all.Take(now, bytes)
	(*overlay.Bucket)(credit).Take(now, bytes)
	a.from, a.id, a.planned, a.size = from, t.ID, cars, size
	a.until = now.Add(trainTimeout)
	if cap(a.came) < cars {
		a.came = make([]Car, 0, MaxCars)
	}
	a.came = a.came[:0]
	clear(a.seen[:])
	return 0, true
}

// Car notes a car that came, at the time of the kernel's stamp, and says whether it
// belongs to the train that is expected.
func (a *Arrivals) Car(now overlay.Instant, from overlay.AgentID, t overlay.Train, stamp overlay.Instant) bool {
	if !a.expects(now, from, t) || int(t.Number) >= a.planned || a.seen[t.Number] || stamp <= 0 {
		return false
	}
	a.seen[t.Number] = true
	a.came = append(a.came, Car{t.Number, t.Sent, stamp})
	return true
}

// End says what came of a train whose last car has left, as a report; another
// agent's may come then. It may be asked again. ok is false if there is no such
// train.
func (a *Arrivals) End(now overlay.Instant, from overlay.AgentID, t overlay.Train) (report overlay.Train, found Arrival, ok bool) {
	if a.from != from || a.id != t.ID || a.planned == 0 {
		return report, found, false
	}
	a.until = min(a.until, now)
	found = Arrive(a.came, a.planned, a.size)
	return found.Report(t.ID), found, true
}

// Expecting says whether a train that was let in may still come.
func (a *Arrivals) Expecting(now overlay.Instant) bool { return now.Before(a.until) }

func (a *Arrivals) expects(now overlay.Instant, from overlay.AgentID, t overlay.Train) bool {
	return now.Before(a.until) && a.from == from && a.id == t.ID
}

// Report returns what an arrival is as an item.
func (a Arrival) Report(id uint32) overlay.Train {
	return overlay.Train{
		Verb: overlay.TrainReport, ID: id, Cars: uint16(a.Cars), Windows: uint16(a.Windows),
		Rate: a.Rate, Low: a.Low, High: a.High, In: a.In, Burst: uint32(a.Burst), Queued: a.Queued, Shared: a.Shared,
	}
}

// Reported returns what a report says of a train that was planned so; ok is false if
// it can't be true: then it is no report. A peer that lies within what can be true
// spoils what is known of the path to itself.
func Reported(plan TrainPlan, r overlay.Train) (a Arrival, ok bool) {
	a = Arrival{
		Cars: int(r.Cars), Windows: int(r.Windows), Rate: r.Rate, Low: r.Low, High: r.High, In: r.In,
		Burst: int(r.Burst), Queued: r.Queued, Shared: r.Shared,
	}
	ok = a.Cars <= plan.Cars && a.Windows <= a.Cars && a.Burst <= plan.Cars*plan.Size &&
		0 <= a.Low && a.Low <= a.Rate && a.Rate <= a.High && a.High <= 2*maxRate && 0 <= a.In && a.In <= maxRate &&
		(a.Rate == 0) == (a.Windows == 0)
	return a, ok
}
