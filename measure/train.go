package measure

import (
	"cmp"
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// MaxCars is how many packets a train has at most.
	MaxCars = 1600

	// trainWindow packets make a window: enough that the receiver's interrupts don't
	// show, few enough that a stall spoils one of several.
	trainWindow = 16
	leastWindow = 4
	// A window shows the bottleneck if its packets were sent so much faster than
	// they came: then they queued.
	queueing = 1.02
	// surely is the same for all windows of a short train, whose stamps say less.
	surely = 1.1
	// A window in which so much of the time passed between two packets was held up.
	heldUp = 0.5
	// bursting is how much faster than later the packets come that a token bucket
	// lets pass.
	bursting = 1.2
	// mostly all windows of a train queue that is well paced.
	mostly = 0.8
	// enoughWindows are what an interval is computed from; with less it is fewSpread.
	enoughWindows = 6
	leastSpread   = 0.005 // what stamps are good for
	fewSpread     = 0.05
	// disagree is how wide the interval is, of the rate, if windows disagree.
	disagree = 0.11
)

// A Car is a packet of a train that came.
type Car struct {
	Number uint16
	Sent   overlay.Instant // by the sender's clock
	Came   overlay.Instant // by the receiver's
}

// An Arrival is what a train shows of the path that it took. Rates are bits of IP
// packets a second.
type Arrival struct {
	Cars      int   // that came
	Windows   int   // that the rate is made of
	Rate      int64 // at which they came; 0 unknown
	Low, High int64 // its 95 % interval
	In        int64 // at which they were sent, in the same windows
	Burst     int   // bytes that passed faster before
	Queued    bool  // they came more slowly than they were sent: Rate is the bottleneck's
}

// Arrive estimates what a train of so many cars shows, each an IP packet of size
// bytes, from those that came, which it sorts. It goes by windows of 16 packets in
// the train's second half, or behind what a token bucket let pass: the median of
// the rates at which the windows came that were sent faster. What came is taken in
// the order of its stamps, so packets may overtake each other. Windows in which the
// sender or the receiver stalled don't count, nor those that come all at once
// thereafter. Times may be any.
func Arrive(cars []Car, planned, size int) Arrival {
	a := Arrival{Cars: len(cars)}
	n := len(cars)
	if n < 2*leastWindow || planned <= 0 || size <= 0 {
		return a
	}
	slices.SortFunc(cars, func(a, b Car) int { return cmp.Compare(a.Number, b.Number) })
	came := make([]overlay.Instant, n)
	for i, c := range cars {
		came[i] = c.Came
	}
	slices.Sort(came)
	start := knee(came)
	a.Burst = start * size
	if n < 4*trainWindow {
		start = max(start, n/4) // that makes a guess
	} else {
		start = max(start, n/2)
	}
	w := min(max((n-start)/3, leastWindow), trainWindow)
	if start = min(start, n-1-2*w); start < 0 {
		start, w = 0, (n-1)/2
	}
	bits := float64(size * 8)
	var all []trainSpan
	for i := start; i+w < n; i += max(w/2, 1) {
		if stalled(came[i : i+w+1]) {
			continue
		}
		out := rateOf(float64(w)*bits, came[i+w], came[i])
		in := rateOf(float64(int(cars[i+w].Number)-int(cars[i].Number))*bits, cars[i+w].Sent, cars[i].Sent)
		if out > 0 && !math.IsInf(out, 1) {
			all = append(all, trainSpan{in, out})
		}
	}
	a.summarize(all)
	if a.Windows >= leastWindow && a.Varies() {
		a.across(cars, came, min(start, n/4+a.Burst/size), bits)
	}
	return a
}

// across estimates what windows disagree about, by jitter most often: the median of the
// rates over half of the train each.
func (a *Arrival) across(cars []Car, came []overlay.Instant, start int, bits float64) {
	var all []trainSpan
	h := (len(cars) - start) / 2
	for i := start; i+h < len(cars); i++ {
		s := trainSpan{
			rateOf(float64(int(cars[i+h].Number)-int(cars[i].Number))*bits, cars[i+h].Sent, cars[i].Sent),
			rateOf(float64(h)*bits, came[i+h], came[i]),
		}
		if s.out > 0 && !math.IsInf(s.out, 1) {
			all = append(all, s)
		}
	}
	if len(all) < 2*leastWindow {
		return
	}
	in, out := medianOf(all, trainSpan.sent), medianOf(all, trainSpan.came)
	spread := 2 * medianOf(all, func(s trainSpan) float64 { return math.Abs(s.out - out) })
	spread = max(spread, 0.55*disagree*out) // they do still
	a.Queued = in >= queueing*out
	a.Rate, a.Low, a.High, a.In = whole(out), whole(out-spread), whole(out+spread), whole(in)
}

// stalled says whether most of the time of a window passed between two packets.
func stalled(came []overlay.Instant) bool {
	longest := time.Duration(0)
	for i := 1; i < len(came); i++ {
		longest = max(longest, came[i].Sub(came[i-1]))
	}
	return float64(longest) > heldUp*float64(came[len(came)-1].Sub(came[0]))
}

// A trainSpan is a window: the rates at which it was sent and came.
type trainSpan struct{ in, out float64 }

// summarize says what the windows show together.
func (a *Arrival) summarize(all []trainSpan) {
	// Those that came much faster than they were sent were held up before.
	all = slices.DeleteFunc(all, func(s trainSpan) bool { return s.out >= surely*s.in })
	if len(all) == 0 {
		return
	}
	kept := slices.DeleteFunc(slices.Clone(all), func(s trainSpan) bool { return s.in < queueing*s.out })
	if a.Queued = 2*len(kept) > len(all); a.Queued && a.Cars < 4*trainWindow {
		in, out := medianOf(kept, trainSpan.sent), medianOf(kept, trainSpan.came)
		a.Queued = in >= surely*out
	}
	if !a.Queued || float64(len(kept)) < mostly*float64(len(all)) {
		kept = all // to choose those that came late would find too little
	}
	a.Windows = len(kept)
	rate := medianOf(kept, trainSpan.came)
	// The median's spread, from the median deviation; windows overlap by half.
	deviation := 1.4826 * medianOf(kept, func(s trainSpan) float64 { return math.Abs(s.out - rate) })
	half := 1.2533 * z95 * deviation / math.Sqrt(float64(len(kept)+1)/2)
	least := leastSpread
	if len(kept) < enoughWindows {
		least = fewSpread
	}
	half = max(half, least*rate)
	a.Rate, a.Low, a.High = whole(rate), whole(rate-half), whole(rate+half)
	a.In = whole(medianOf(kept, trainSpan.sent))
}

func (s trainSpan) sent() float64 { return s.in }
func (s trainSpan) came() float64 { return s.out }

// Varies says whether the windows disagree by more than stamps explain: others use
// the path meanwhile, or something stalls.
func (a Arrival) Varies() bool {
	return float64(a.High-a.Low) > disagree*float64(a.Rate)
}

// knee returns behind how many packets the rate at which they came fell to that of
// the end, 0 if it was the same from the start.
func knee(came []overlay.Instant) int {
	n := len(came)
	tail := max(n/8, leastWindow)
	w := min(tail, 2*leastWindow)
	last := rateOf(float64(tail), came[n-1], came[n-1-tail])
	if n < 4*leastWindow || last <= 0 {
		return 0
	}
	if rateOf(float64(n/4), came[n/4], came[0]) < bursting*last {
		return 0
	}
	at := 0
	for i := w; i < n; i++ {
		if rateOf(float64(w), came[i], came[i-w]) < bursting*last {
			break
		}
		at = i
	}
	return at
}

// rateOf returns what a second's worth of amount is between two times; infinity if
// there is no time between them, or less.
func rateOf(amount float64, end, start overlay.Instant) float64 {
	if end <= start {
		return math.Inf(1)
	}
	took := uint64(end) - uint64(start) // of any two times
	return amount * float64(time.Second) / float64(took)
}

// whole returns a rate as an integer that can be multiplied.
func whole(rate float64) int64 { return int64(min(max(rate, 0), maxRate)) }

// maxRate bounds what is taken for a rate: more than any path carries.
const maxRate = 1e13

// medianOf returns the median of a figure of spans, of which there are some.
func medianOf(spans []trainSpan, figure func(trainSpan) float64) float64 {
	all := make([]float64, len(spans))
	for i, s := range spans {
		all[i] = figure(s)
	}
	slices.Sort(all)
	n := len(all)
	if n%2 == 1 || all[n/2] == all[n/2-1] {
		return all[n/2]
	}
	return all[n/2-1]/2 + all[n/2]/2
}
