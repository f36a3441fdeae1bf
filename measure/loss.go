package measure

import (
	"math"
	"time"

	"farlan/overlay"
)

const (
	lossWindow  = 60 * time.Second
	lossBuckets = 15
	lossBucket  = lossWindow / lossBuckets

	z95 = 1.959964 // of the normal distribution, both sides
)

// Counts returns what a Receiver has received: the highest counter, and how many
// datagrams. They go with probes, so that the sender knows its loss when nothing else
// flows; an acknowledgement that is owed stays owed.
func (r *Receiver) Counts() (highest, count uint64) { return r.ack.Highest, r.ack.Count }

// losses are the datagrams of one direction in the last minute, whatever they carried,
// by what the receiver says that it has. The zero value is ready.
type losses struct {
	due, came  uint64             // of this session, as far as it was told
	sent, lost [lossBuckets]int32 // a ring; lost is negative where late ones came
	bucket     int64              // the newest one, counted from the epoch
	first      uint64             // counter of this session from which on they count
	excuses    excuses
	outage     outage
}

// excuses are datagrams of a session whose loss proves nothing of the path.
type excuses struct {
	pending int             // whose fate isn't told yet
	taken   int             // that were taken for lost
	to      uint64          // counter that follows the newest
	at      overlay.Instant // when that was sent
}

// excuseFor is how long after it was sent the answer to an excused datagram may come.
const excuseFor = 2 * time.Second

// restart says that a new session began: its counters begin at 0. What was sent when
// something is told of it for the first time doesn't count: some of it came before the
// other end could open it.
func (l *losses) restart() { l.due, l.came, l.excuses, l.outage.to = 0, 0, excuses{}, 0 }

// told takes what the receiver says: the highest counter of this session that came, how
// many datagrams did, and how many were sent by now. It is false if that can't be, and
// true for what is older than what was told before, which is ignored.
func (l *losses) told(now overlay.Instant, highest, count, sent uint64) bool {
	due := highest + 1 // counters begin at 0
	if highest >= sent || count > due || count == 0 {
		return false
	}
	if due < l.due || count < l.came {
		return true
	}
	if l.due == 0 {
		l.first = sent
	}
	counts := l.due >= l.first // else a part of it was sent before
	more, lost := int(due-l.due), int((due-l.due)-(count-l.came))
	if l.due, l.came = due, count; !counts {
		return true
	}
	n := min(l.excuses.pending, max(lost, 0))
	l.excuses.pending, l.excuses.taken = l.excuses.pending-n, l.excuses.taken+n
	if due-uint64(more) < l.outage.to && l.excusesOutage(now, lost-n) {
		n = lost
	}
	l.note(now, more-n, lost-n)
	if e := &l.excuses; due >= e.to && now.Sub(e.at) > excuseFor {
		e.pending, e.taken = 0, 0 // they came, or were lost before losses counted
	}
	return true
}

// note notes what was sent and lost, in the bucket of now.
func (l *losses) note(now overlay.Instant, sent, lost int) {
	l.turn(now)
	i := l.bucket % lossBuckets
	l.sent[i] += int32(sent)
	l.lost[i] += int32(lost)
}

// toldLow is told by the low 32 bits of what the receiver says.
func (l *losses) toldLow(now overlay.Instant, highest, count uint32, sent uint64) bool {
	near := func(old uint64, low uint32) uint64 { return old + uint64(int64(int32(low-uint32(old)))) }
	return l.told(now, near(max(l.due, 1)-1, highest), near(l.came, count), sent)
}

// excuse says that so many datagrams that are sent now prove nothing by being lost; sent
// have been of the session then.
func (l *losses) excuse(now overlay.Instant, n int, sent uint64) {
	l.excuses.pending += n
	l.excuses.to, l.excuses.at = max(l.excuses.to, sent), now
}

// arrived says that so many excused datagrams arrived: what was taken for them was lost.
func (l *losses) arrived(now overlay.Instant, n int) {
	e := &l.excuses
	came := min(n, e.pending)
	wrong := min(n-came, e.taken)
	e.pending, e.taken = e.pending-came, e.taken-wrong
	l.note(now, wrong, wrong)
}

// turn empties the buckets that are too old.
func (l *losses) turn(now overlay.Instant) {
	for b := int64(now) / int64(lossBucket); l.bucket < b; {
		l.bucket = max(l.bucket, b-lossBuckets) + 1
		l.sent[l.bucket%lossBuckets], l.lost[l.bucket%lossBuckets] = 0, 0
	}
}

// rate returns which part of the datagrams of the last minute was lost, and its 95 %
// interval; ok is false if nothing is known.
func (l *losses) rate(now overlay.Instant) (fraction, low, high float64, ok bool) {
	var sent, lost int64
	newest := int64(now) / int64(lossBucket)
	for b := max(newest-lossBuckets, l.bucket-lossBuckets) + 1; b <= l.bucket; b++ {
		if b >= 0 {
			sent += int64(l.sent[b%lossBuckets])
			lost += int64(l.lost[b%lossBuckets])
		}
	}
	if sent <= 0 {
		return 0, 0, 0, false
	}
	fraction = float64(min(max(lost, 0), sent)) / float64(sent)
	low, high = scoreInterval(fraction, max(float64(sent)/l.bursts(newest, fraction), 1))
	return fraction, low, high, true
}

// bursts returns how much more the losses of the buckets differ than losses by chance would,
// at least 1: such as come in bursts say as much as fewer that don't depend on each other.
func (l *losses) bursts(newest int64, fraction float64) float64 {
	var chi2 float64
	n := -1
	for b := max(newest-lossBuckets, l.bucket-lossBuckets, -1) + 1; b <= l.bucket; b++ {
		i := b % lossBuckets
		want := float64(l.sent[i]) * fraction
		if l.sent[i] > 0 && want > 0 && fraction < 1 {
			chi2 += (float64(l.lost[i]) - want) * (float64(l.lost[i]) - want) / (want * (1 - fraction))
			n++
		}
	}
	return max(chi2/float64(max(n, 1)), 1)
}

// scoreInterval returns the 95 % interval of a fraction that n trials showed: Wilson's, with
// a correction for continuity (Newcombe, Statistics in Medicine 17, 1998, method 4). Without
// that it misses the truth too often where few trials show little, as idle paths do.
func scoreInterval(fraction, n float64) (low, high float64) {
	const z2 = z95 * z95
	bound := func(p float64) float64 { // above p
		root := math.Sqrt(max(z2+2-1/n+4*p*(n*(1-p)-1), 0))
		return min((2*n*p+z2+1+z95*root)/(2*(n+z2)), 1)
	}
	if fraction > 0 {
		low = max(1-bound(1-fraction), 0)
	}
	if high = 1; fraction < 1 {
		high = bound(fraction)
	}
	return low, high
}
