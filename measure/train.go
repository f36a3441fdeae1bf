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
	// A gap is farLonger than all others that isn't of the path's doing.
	farLonger = 3
	// bursting is how much faster than later the packets come that a token bucket
	// lets pass.
	bursting = 1.2
	// mostly all windows of a train queue that is well paced.
	mostly = 0.8
	// enoughWindows are what an interval is computed from; with less it is fewSpread.
	enoughWindows = 6
	leastSpread   = 0.005 // what stamps are good for
	fewSpread     = 0.05
	fewOpen       = 0.5
	muchOpen      = 2 // nothing is known
	// disagree is how wide the interval is, of the rate, if windows disagree.
	disagree = 0.11
	// scatteredBy is by how much windows differ, of the rate, among the packets of others.
	scatteredBy = 0.04
	// agreed is how close windows are, of the rate, that agree.
	agreed = 0.1
	// Windows that agree within no less than a wide-th of the rate may know less of it
	// than the slope does.
	wide = 25
	// loose is how wrong a rate may be, as a factor, where nothing agrees.
	loose = 3
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
	Shared    bool  // they came as among others' packets
}

// Arrive estimates what a train of so many cars shows, each an IP packet of size
// bytes, from those that came, which it sorts. It goes by windows of 16 packets in
// the train's second half, or behind what a token bucket let pass: the median of
// the rates at which the windows came that were sent faster. What came is taken in
// the order of its stamps, so packets may overtake each other. Windows in which the
// sender or the receiver stalled don't count, nor those that come all at once
// thereafter. Where they disagree, by jitter most often, and where it says more, it goes
// by the slope of the whole. Times may be any.
func Arrive(cars []Car, planned, size int) Arrival {
	a := Arrival{Cars: len(cars)}
	n := len(cars)
	if n < leastSlope || planned <= 0 || size <= 0 {
		return a
	}
	slices.SortFunc(cars, func(a, b Car) int { return cmp.Compare(a.Number, b.Number) })
	came := make([]overlay.Instant, n)
	for i, c := range cars {
		came[i] = c.Came
	}
	slices.Sort(came)
	burst, bits := knee(came), float64(size*8)
	a.Burst = burst * size
	start := n / 2 // a longer burst is rather a stall near the end, or else windows disagree
	if n < 4*trainWindow {
		start = max(burst, n/4) // that makes a guess
	}
	w := min(max((n-start)/3, leastWindow), trainWindow)
	if start = min(start, n-1-2*w); start < 0 {
		start, w = 0, (n-1)/2
	}
	behind := lostBehind(cars)
	usable, all := windows(cars, came, start, w, behind, bits)
	agree, sloped := agreeing(usable, all, came), a
	if a.summarize(usable); !agree || a.High-a.Low > a.Rate/wide {
		switch ok := sloped.slope(cars, burst, behind, bits); {
		case ok && (!agree || sloped.High-sloped.Low < (a.High-a.Low)/2):
			a = sloped
		case !ok && !agree:
			a.Burst = 0 // for all that is known
			a.loosen()
		}
	}
	if n < 4*trainWindow && a.Varies() {
		a.loosen()
	}
	a.Shared = n >= 4*trainWindow && scattered(usable) && !bunched(came[start:])
	return a
}

// windows returns the windows of w cars each, overlapping by half, that can be used, and
// how many there are in all. What was lost behind the bottleneck had its time there.
func windows(cars []Car, came []overlay.Instant, start, w int, behind bool, bits float64) (usable []trainSpan, all int) {
	for i := start; i+w < len(cars); i += max(w/2, 1) {
		sent, passed := int(cars[i+w].Number)-int(cars[i].Number), w
		if behind {
			passed = sent
		}
		s := trainSpan{
			in:  rateOf(float64(sent)*bits, cars[i+w].Sent, cars[i].Sent),
			out: rateOf(float64(passed)*bits, came[i+w], came[i]),
		}
		all++
		// Those that came much faster than they were sent were held up before.
		if !stalled(came[i:i+w+1]) && s.out > 0 && !math.IsInf(s.out, 1) && s.out < surely*s.in {
			usable = append(usable, s)
		}
	}
	return usable, all
}

// agreeing says whether the windows that can be used of a train that came so show the
// same rate, and not by chance: two thirds of all do, or of those that are left by one
// that held up all; all do of a train that is short.
func agreeing(usable []trainSpan, all int, came []overlay.Instant) bool {
	if len(usable) == 0 {
		return false
	}
	rate, near := medianOf(usable, trainSpan.came), 0
	for _, s := range usable {
		if math.Abs(s.out-rate) <= agreed*rate {
			near++
		}
	}
	least := leastWindow
	if once(came) {
		all, least = len(usable), 2
	}
	if len(came) < 4*trainWindow {
		return near == all && near > 1
	}
	return 3*near >= 2*all && near >= least
}

// once says whether one gap is by far the longest: the train was held up there.
func once(came []overlay.Instant) bool {
	longest, second := time.Duration(0), time.Duration(0)
	for i := 1; i < len(came); i++ {
		if gap := came[i].Sub(came[i-1]); gap > longest {
			longest, second = gap, longest
		} else {
			second = max(second, gap)
		}
	}
	return longest > farLonger*second
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
	deviation := max(1.4826*medianOf(kept, func(s trainSpan) float64 { return math.Abs(s.out - rate) }), spreadOf(kept))
	half := 1.2533 * z95 * deviation / math.Sqrt(float64(len(kept)+1)/2)
	least := leastSpread
	if len(kept) < enoughWindows {
		least = fewSpread
	}
	half = max(half, least*rate)
	a.Rate, a.Low, a.High = whole(rate), whole(rate-half), whole(rate+half)
	a.In = whole(medianOf(kept, trainSpan.sent))
}

// spreadOf returns half of the range in which two thirds of the windows came.
func spreadOf(spans []trainSpan) float64 {
	all := make([]float64, len(spans))
	for i, s := range spans {
		all[i] = s.out
	}
	slices.Sort(all)
	return (all[len(all)-1-len(all)/6] - all[len(all)/6]) / 2
}

// scattered says whether windows came at rates that differ by more than stamps explain.
func scattered(usable []trainSpan) bool {
	return len(usable) >= enoughWindows && spreadOf(usable) > scatteredBy*medianOf(usable, trainSpan.came)
}

func (s trainSpan) sent() float64 { return s.in }
func (s trainSpan) came() float64 { return s.out }

// Varies says whether the interval is wider than stamps explain: others use the path
// meanwhile, delays vary, or something stalls.
func (a Arrival) Varies() bool {
	return float64(a.High-a.Low) > disagree*float64(a.Rate)
}

// open returns how much an arrival leaves open, of its rate. Few windows may agree by
// chance.
func (a Arrival) open() float64 {
	open := float64(a.High-a.Low) / float64(max(a.Rate, 1))
	if a.Windows < enoughWindows {
		open = max(open, fewOpen)
	}
	return open
}

// surer says whether a says more than b: the one that leaves less open does, or of two
// that leave little, or much, the longer one.
func (a Arrival) surer(b Arrival) bool {
	switch x, y := a.open(), b.open(); {
	case b.Rate == 0:
		return true
	case max(x, y) <= disagree || min(x, y) >= muchOpen:
		return a.Cars >= b.Cars
	default:
		return x <= y
	}
}

// loosen says that little is known of the rate.
func (a *Arrival) loosen() { a.Low, a.High = min(a.Low, a.Rate/loose), max(a.High, loose*a.Rate) }

// unsure says whether next to nothing is known of the rate.
func (a Arrival) unsure() bool { return a.High-a.Low > a.Rate }

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
