package measure

import (
	"math"
	"time"
)

const (
	// What a measurement may send, in bytes of IP packets, all trains together: see
	// Search. What is asked and answered, and Ethernet's headers, come on top: 300 kB
	// and 1.2 MB in all.
	fewBytes  = 292_000
	manyBytes = 1_165_000
	// fastFrom is the rate from which manyBytes are needed.
	fastFrom = 220e6

	// The first train is as long as what TCP sends before it hears anything.
	firstCars = 16
	// A train may be so much longer than the one before if that queued, or if not.
	growQueued, growFree = 8, 4
	// growUnsure is what it may be longer if that showed next to nothing.
	growUnsure = 2
	// A train lasts at least trainTime, and has at least leastCars.
	trainTime = 10 * time.Millisecond
	leastCars = 112
	// worthCars is the shortest train that is worth being sent as the last one.
	worthCars = 48
	// Cars leave at 1.3 times the guess, or at leastPace times it where more would
	// make more than queueTime of queue.
	pace, leastPace = 1.3, 1.1
	queueTime       = 20 * time.Millisecond
	// mostAbove is how much more than the guess the rate is taken for that the guess
	// leaves open.
	mostAbove    = 2
	longestTrain = 2 * time.Second
	maxFruitless = 3
	// MaxCarSize is the longest packet, bytes: jumbo frames would take all that may
	// be sent for a few windows.
	MaxCarSize = 1500
)

// A TrainPlan says how a train leaves: Head cars as fast as they can, the others at
// Pace, bits of IP packets a second. Most bounds the rate of all, 0 nothing does.
type TrainPlan struct {
	Cars, Head int
	Size       int // bytes of each IP packet
	Pace, Most int64
}

// Gap returns how long after the car before car i leaves.
func (t TrainPlan) Gap(i int) time.Duration {
	rate := t.Pace
	if i < t.Head || rate <= 0 {
		rate = t.Most
	} else if t.Most > 0 {
		rate = min(rate, t.Most)
	}
	if rate <= 0 || i == 0 {
		return 0
	}
	return time.Duration(float64(t.Size*8) * float64(time.Second) / float64(rate))
}

// A Limit says what a measured rate is limited by.
type Limit uint8

// The limits.
const (
	_         Limit = iota
	ByPath          // cars queued on the path: the rate is its own
	BySender        // cars left no faster: the path carries at least so much
	ByMost          // nor were they allowed to
	ByTraffic       // they queued among the packets of others: the rate is what can be achieved now
)

// A Search finds out what a path carries by a few trains, each planned by what the
// one before showed. A small one guesses; if it doesn't queue, it went through a
// token bucket or the path is fast, and a longer one follows, up to one that is long
// enough for the rate it shows, behind a head that empties the bucket. All trains
// together are of at most 292 kB where the path carries up to 200 Mbit/s, 1165 kB
// where it carries more. Not safe for concurrent use. Use NewSearch.
type Search struct {
	size  int
	most  int64
	spent int
	last  TrainPlan
	found Arrival // by the last train
	best  Arrival
	burst int   // bytes
	peak  int64 // the most that a train showed for certain that queued
	asked bool
	// Trains that showed nothing: lost, or stalled all the way.
	fruitless int
}

// NewSearch returns a search by IP packets of size bytes, at no more than most
// bits a second; 0: as fast as they go.
func NewSearch(size int, most int64) *Search {
	return &Search{size: min(size, MaxCarSize), most: most}
}

// Next returns the next train, or ok is false: the search is over.
func (s *Search) Next() (t TrainPlan, ok bool) {
	t = TrainPlan{Size: s.size, Most: s.most}
	switch left := s.left(); {
	case s.fruitless >= maxFruitless || s.size <= 0:
		return t, false
	case !s.asked:
		t.Cars, t.Head = firstCars, firstCars
	case s.found.unsure() && left >= worthCars && s.last.Cars < growUnsure*firstCars:
		t.Cars = min(growUnsure*s.last.Cars, left)
		t.Head = t.Cars
	case !s.found.Queued && s.last.Pace > 0 && left >= worthCars && s.found.In < 2*s.last.Pace:
		s.found.Rate *= 2 // the guess was too low
		t = s.paced(t, left)
	case !s.found.Queued:
		t.Cars = min(growFree*s.last.Cars, left, MaxCars)
		t.Head = t.Cars
		if s.last.Cars >= min(s.want(), leastCars*4) || t.Cars < worthCars {
			return t, false // long enough, and still nothing queues
		}
	default:
		t = s.paced(t, left)
		if s.last.Cars >= t.Cars && s.last.Pace > 0 && s.found.Windows >= enoughWindows || t.Cars < worthCars {
			return t, false
		}
	}
	if s.most > 0 { // a slow train must end
		t.Cars = min(t.Cars, max(int(longestTrain.Seconds()*float64(s.most)/float64(s.size*8)), firstCars))
		t.Head = min(t.Head, t.Cars)
	}
	s.last, s.asked = t, true
	s.spent += t.Cars * s.size
	return t, true
}

// left returns how many cars may still be sent.
func (s *Search) left() int {
	budget := fewBytes
	if max(s.found.Low, s.best.Low) > fastFrom && s.spent+worthCars*s.size > fewBytes { // else it may be a bucket
		budget = manyBytes
	}
	return max(budget-s.spent, 0) / s.size
}

// want returns how many cars a train must have at the rate that the last one found.
func (s *Search) want() int {
	if s.found.Varies() {
		return MaxCars // delays vary: the longer, the less that matters
	}
	n := trainTime.Seconds() * float64(s.found.Rate) / float64(s.size*8)
	return int(min(max(n, leastCars), MaxCars))
}

// paced plans a train for a rate that is roughly known.
func (s *Search) paced(t TrainPlan, left int) TrainPlan {
	guess := float64(s.found.Rate)
	if s.burst > 0 {
		t.Head = s.burst*5/4/s.size + 1
	}
	most := int(longestTrain.Seconds() * guess / float64(s.size*8))
	t.Cars = min(s.want()+t.Head, s.grown(), left, MaxCars, max(most, firstCars)+t.Head)
	t.Head = min(t.Head, t.Cars/2)
	bits := float64((t.Cars - t.Head) * s.size * 8)
	faster, queue := pace, queueTime
	if s.found.Varies() { // it must queue in any case
		faster, queue = min(pace*float64(s.found.High)/guess, pace*mostAbove), 2*queueTime
	}
	if spare := queue.Seconds() * guess / bits; spare < 1 {
		faster = min(max(1/(1-spare), leastPace), faster)
	}
	t.Pace = whole(faster * guess)
	return t
}

// grown returns how long the next train may be, by the last one.
func (s *Search) grown() int {
	if s.found.Varies() {
		return MaxCars
	}
	return growQueued * s.last.Cars
}

// Took says what the train found that was planned last.
func (s *Search) Took(a Arrival) {
	if a.Rate <= 0 {
		s.fruitless++
		return
	}
	if a.Queued && s.found.Queued && a.Rate > s.found.Rate*2 {
		s.burst = 0 // the one before was stalled
	}
	s.found = a
	if a.Queued && s.last.Head >= a.Burst/s.size {
		s.burst = max(s.burst, a.Burst)
	}
	if a.Queued && float64(a.In) > surely*float64(a.Rate) && !a.Varies() {
		s.peak = max(s.peak, a.Low)
	}
	better := a.surer(s.best) || !s.best.Queued
	if !a.Queued && !s.best.Queued && s.best.Windows >= enoughWindows { // the higher bound
		better = a.Windows >= enoughWindows && min(a.In, a.Rate) > min(s.best.In, s.best.Rate)
	}
	if !a.Queued && s.best.Queued { // the sender was slow, unless the path has got faster
		less := s.best.High
		if s.best.Windows < enoughWindows {
			less = s.best.Rate
		}
		better = min(a.In, a.Rate) > less && !a.Varies()
	}
	switch {
	case better:
		s.best = a
	case a.Varies() && s.best.Queued && !s.best.Varies():
		s.found = s.best // goes on with what is known
	}
}

// A Found is the result of a search, in bits of IP packets a second.
type Found struct {
	Rate, Low, High int64
	Peak            int64 // the most that any train found: what the path carries at least
	Burst           int   // bytes that pass faster than Rate
	Bytes           int   // sent
	Limit           Limit
}

// Result returns what the search has found; ok is false if nothing.
func (s *Search) Result() (f Found, ok bool) {
	b := s.best
	if b.Rate <= 0 {
		return Found{Bytes: s.spent}, false
	}
	f = Found{Rate: b.Rate, Low: b.Low, High: b.High, Peak: max(s.peak, b.Rate), Burst: s.burst, Bytes: s.spent, Limit: ByPath}
	switch {
	case !b.Queued && s.most > 0 && float64(b.In) > 0.9*float64(s.most):
		f.Limit = ByMost
	case !b.Queued:
		f.Limit = BySender
	case s.peak > b.Rate+max(b.Rate/50, (b.High-b.Rate)*2/5) || b.Shared: // beyond what both may be wrong by
		f.Limit = ByTraffic
	}
	if !b.Queued {
		f.Rate = min(f.Rate, max(b.In, 1))
		f.Low, f.High = min(f.Low, f.Rate), math.MaxInt64
	}
	return f, true
}
