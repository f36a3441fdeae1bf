package measure

import (
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// settled is the part of a train after which delays that vary have settled: where no
	// packet overtakes another, the slowest soon hold up all.
	settled = 8
	// leastSlope is how many cars have a slope.
	leastSlope = 2 * leastWindow
	// farOff is by how many deviations a car is off that a host held up.
	farOff = 4
	// mostOff bounds the interval, of the rate.
	mostOff = 0.9
	// Cars that come closer together than tight, of the gap between them on the average,
	// were put so by jitter, or by a host: those of others would keep them apart. If so
	// many do, that explains what windows disagree about.
	tight, manyTight = 0.4, 0.2
	// fewLost is up to which part of the cars a loss is taken for chance, and not for a
	// queue that overflows.
	fewLost = 0.2
	evener  = 1.2
)

// A course is how a train's cars came: one every gap nanoseconds, which may be wrong by
// off (95 %), give or take spread.
type course struct{ gap, off, spread float64 }

// slope estimates what windows disagree about, by delays that vary most often: from the
// course of all the cars, of which a jitter spoils no more than its part of the time that
// the train takes. burst cars came faster before, or jitter makes it seem so. It is false
// if there are too few cars.
func (a *Arrival) slope(cars []Car, burst int, behind bool, bits float64) bool {
	start := len(cars) / settled
	if burst >= start {
		late, ok := courseOf(cars[burst:], behind)
		early := float64(burst)*late.gap - float64(cars[burst].Came-cars[0].Came)
		switch {
		case !ok:
			return false
		case early > farOff*late.spread:
			start = burst
		default:
			a.Burst = 0
		}
	}
	if half := len(cars) / 2; start < half {
		late, ok := courseOf(cars[half:], behind)
		ahead := float64(half - start)
		if early := late.gap*ahead - float64(cars[half].Came-cars[start].Came); ok && early > 1.5*late.off*ahead+2*late.spread {
			start = half // a bucket, though what varies hides where it ends
		}
	}
	part := cars[start:]
	c, ok := courseOf(part, behind)
	if !ok {
		return false
	}
	first, last := part[0], part[len(part)-1]
	in := rateOf(float64(int(last.Number)-int(first.Number))*bits, last.Sent, first.Sent)
	out := bits * float64(time.Second) / c.gap
	off := min(max(c.off/c.gap, leastSpread), mostOff)
	a.Windows = max(2*len(part)/trainWindow, 1)
	a.Rate, a.Low, a.High, a.In = whole(out), whole(out/(1+off)), whole(out/(1-off)), whole(in)
	least := queueing
	if a.Cars < 4*trainWindow {
		least = surely
	}
	a.Queued = in >= max(least, 1+off/2)*out
	return a.Rate > 0
}

// courseOf fits a line through the times at which cars came, which are in the order of
// their numbers; ok is false if there are too few, or they came in no time.
func courseOf(cars []Car, behind bool) (c course, ok bool) {
	n := len(cars)
	if n < leastSlope {
		return c, false
	}
	rank, number, came := coordinates(cars)
	if behind {
		c = fit(number, came)
	} else {
		c = fit(rank, came)
	}
	if lost := number[n-1] - rank[n-1]; lost < fewLost*float64(n) { // it may be otherwise
		c.off += c.gap * lost / float64(n)
	}
	return c, c.gap > 0
}

// lostBehind says whether the cars that are missing were lost behind the bottleneck and
// had their time there, as those hadn't for which it had no room: if they are few, and
// without their time the others don't come more evenly.
func lostBehind(cars []Car) bool {
	rank, number, came := coordinates(cars)
	n := len(cars)
	lost := number[n-1] - rank[n-1]
	return lost > 0 && lost < fewLost*float64(n) && fit(number, came).spread <= evener*fit(rank, came).spread
}

// coordinates returns for each car the how manieth it is of those that came, which it is
// of all, and when it came; from the first one on.
func coordinates(cars []Car) (rank, number, came []float64) {
	for i, c := range cars {
		rank = append(rank, float64(i))
		number = append(number, float64(int(c.Number)-int(cars[0].Number)))
		came = append(came, float64(c.Came-cars[0].Came))
	}
	return rank, number, came
}

// fit fits a line through y over x, of which there are as many, in order: at first by the
// median of slopes over two thirds each (as Theil and Sen do over all), then by least
// squares without what is far off.
func fit(x, y []float64) course {
	n := len(x)
	apart := 2 * n / 3
	slopes, rest := make([]float64, n-apart), make([]float64, n)
	for i := range slopes {
		slopes[i] = (y[i+apart] - y[i]) / max(x[i+apart]-x[i], 1)
	}
	gap := middle(slopes)
	residuals := func(gap, from float64) {
		for i := range rest {
			rest[i] = y[i] - from - gap*x[i]
		}
	}
	residuals(gap, 0)
	from := middle(slices.Clone(rest))
	residuals(gap, from)
	off := make([]float64, n)
	for i, r := range rest {
		off[i] = math.Abs(r)
	}
	far := farOff*1.4826*middle(off) + 1
	var sum, sumX, sumY float64
	for i, r := range rest {
		if math.Abs(r) <= far {
			sum, sumX, sumY = sum+1, sumX+x[i], sumY+y[i]
		}
	}
	var xx, xy float64
	for i, r := range rest {
		if math.Abs(r) <= far {
			xx += (x[i] - sumX/sum) * (x[i] - sumX/sum)
			xy += (x[i] - sumX/sum) * (y[i] - sumY/sum)
		}
	}
	gap = xy / xx
	residuals(gap, (sumY-gap*sumX)/sum)
	kept := slices.DeleteFunc(rest, func(r float64) bool { return math.Abs(r) > 2*far })
	variance, alike := scatter(kept)
	// Neighbours are late together: so many say as much as fewer that don't depend on
	// each other, by Student's distribution.
	free := max(float64(len(kept))/alike, 3)
	wide := math.Sqrt(variance*alike/xx) * z95 * (1 + 6/free)
	return course{gap: gap, off: wide, spread: math.Sqrt(variance)}
}

// scatter returns the variance of what a fit leaves, and how many neighbours are alike:
// the sum of its correlations with itself.
func scatter(rest []float64) (variance, alike float64) {
	n := len(rest)
	with := func(lag int) (sum float64) {
		for i := lag; i < n; i++ {
			sum += rest[i] * rest[i-lag]
		}
		return sum / float64(max(n, 1))
	}
	variance, alike = with(0), 1
	for lag := 1; lag < n/3 && variance > 0; lag++ {
		r := with(lag) / variance
		if r < 0.05 {
			break
		}
		alike += 2 * r
	}
	return variance * float64(n) / float64(max(n-2, 1)), alike
}

// bunched says whether so many cars came tightly after another that others' packets
// aren't what spreads them. came is sorted.
func bunched(came []overlay.Instant) bool {
	n, count := len(came), 0
	mean := float64(came[n-1]-came[0]) / float64(max(n-1, 1))
	for i := 1; i < n; i++ {
		if float64(came[i]-came[i-1]) < tight*mean {
			count++
		}
	}
	return float64(count) > manyTight*float64(n)
}

// middle returns the median of some numbers, which it sorts.
func middle(all []float64) float64 {
	slices.Sort(all)
	n := len(all)
	if n%2 == 1 {
		return all[n/2]
	}
	return all[n/2-1]/2 + all[n/2]/2
}
