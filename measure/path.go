// Package measure estimates what paths between agents are like: latency, loss,
// jitter, and whether the other end is there at all. It is pure: times are
// arguments, and it does no I/O.
package measure

import (
	"time"

	"farlan/overlay"
)

const (
	rttWindow   = 10 * time.Second
	floorWindow = 5 * time.Minute
	flights     = 24 // probes and replies remembered; more than a second's at the fastest ping
	// driftMost is by how much clocks drift apart at most (parts of a million): the
	// holds that one tells are by so much too long or short on the other.
	driftMost = 100
	// blurMost is how much of that a round trip may have, or a fiftieth of it.
	blurMost = 200 * time.Microsecond
	// stampError is by how much the stamps of one clock, one the kernel's and one not,
	// may be apart.
	stampError = 50 * time.Microsecond
)

// A Path is what is known of the way to a peer and back. The zero value is not
// ready: use NewPath. Not safe for concurrent use. It takes about 1.5 kB.
//
// It is measured by frames, whose acknowledgements tell when they came, and by probes,
// which are answered at once. Each datagram, probe or reply,
// has a number and the sender's time, and echoes the newest one of the other direction
// with how long ago that came: so both ends learn the round trip, (t4−t1) − (t3−t2),
// from the same two datagrams (as in NTP, RFC 5905 § 8, and RFC 9616 § 3), and how long
// datagrams queue either way. Both also say what they have received, which tells loss.
// Who asks: see Due.
type Path struct {
	number uint32 // of the newest probe or reply
	flight [flights]flight
	frame  frame
	came   uint32          // the newest of the peer's
	cameAt overlay.Instant // 0: there is none in this session

	srtt, jitter time.Duration   // α = 1/8 (RFC 6298 § 2); J += (|D|−J)/16 (RFC 3550 § 6.4.1)
	last         time.Duration   // newest sample
	sampled      overlay.Instant // when that was, 0: there is none
	moved        bool            // it was of another way
	rtt, floor   lowest          // of rttWindow and floorWindow
	band         band
	forth, back  oneWay
	losses       losses
	life
}

// A flight is a probe or reply that may be echoed.
type flight struct {
	number uint32
	sent   overlay.Instant // 0: it was echoed, or doesn't count
}

// NewPath returns a path to a peer that was heard from just now.
func NewPath(now overlay.Instant) *Path { return &Path{life: life{heard: now}} }

// Moved says that the way is another one from here on: what is known stays until there
// is a sample of it.
func (p *Path) Moved() { p.moved = true }

// Restart says that a new session began. The peer may have been started anew: its
// numbers begin again, and so do the counters.
func (p *Path) Restart() {
	p.came, p.cameAt, p.frame = 0, 0, frame{}
	p.losses.restart()
}

// Probe returns the next probe, which is sent now.
func (p *Path) Probe(now overlay.Instant) overlay.Probe {
	p.asking(now)
	return p.next(now, p.came, p.cameAt)
}

// Answer returns the reply to the probe of a number that came at some time; it is sent
// now.
func (p *Path) Answer(now overlay.Instant, number uint32, at overlay.Instant) overlay.Probe {
	return p.next(now, number, at)
}

func (p *Path) next(now overlay.Instant, echo uint32, at overlay.Instant) overlay.Probe {
	if p.number++; p.number >= overlay.ProbeSpecial {
		p.number = 1
	}
	p.flight[p.number%flights] = flight{p.number, now}
	q := overlay.Probe{Number: p.number, Sent: Micros(now), Echo: echo}
	if hold := now.Sub(at).Microseconds(); at == 0 || hold < 0 || hold >= 1<<32 {
		q.Echo = 0
	} else {
		q.HoldMicros = uint32(hold)
	}
	return q
}

// Micros returns the low 32 bits of an instant in microseconds: what probes carry.
func Micros(t overlay.Instant) uint32 { return uint32(int64(t) / 1000) }

// A Receipt says what a probe or reply was good for.
type Receipt uint8

// The receipts.
const (
	Quiet   Receipt = iota // it says nothing new
	Sampled                // there is a round trip
	Odd                    // it can't be: out of order, or an echo of what wasn't sent, or then
)

// Receive takes a probe of the peer's, or a reply to one of ours, which came at some
// time by the kernel's stamp. It returns the round trip if there is one. What is Odd
// changes nothing. A reply to ours says that the peer was heard from: what is sent arrives.
// A probe may have come by another way than ours take: see Heard.
func (p *Path) Receive(at overlay.Instant, q overlay.Probe, reply bool) (rtt time.Duration, r Receipt) {
	if !reply {
		p.wasAsked(at)
	}
	switch ahead := int32(q.Number - p.came); {
	case q.Number == 0 || q.Number >= overlay.ProbeSpecial:
	case p.cameAt == 0 || ahead > 0 && !at.Before(p.cameAt):
		p.came, p.cameAt = q.Number, at
		p.back.sample(at, Micros(at)-q.Sent)
	default:
		r = Odd
	}
	if q.Echo == 0 {
		return 0, r
	}
	rtt, echo := p.echoed(at, q)
	if echo != Quiet {
		r = echo // what comes late is an answer all the same
	}
	if reply && r != Odd {
		p.Heard(at)
	}
	return rtt, r
}

// echoed takes an echo of ours.
func (p *Path) echoed(at overlay.Instant, q overlay.Probe) (time.Duration, Receipt) {
	f := &p.flight[q.Echo%flights]
	switch {
	case int32(q.Echo-p.number) > 0 || q.Echo >= overlay.ProbeSpecial:
		return 0, Odd
	case f.number != q.Echo || f.sent == 0:
		return 0, Quiet // it is too old, or was echoed before: the peer heard nothing newer
	}
	hold := time.Duration(q.HoldMicros) * time.Microsecond
	sent := f.sent
	rtt, blur := at.Sub(sent)-hold, hold*driftMost/1e6
	if at.Before(sent) || rtt < -blur-stampError {
		return 0, Odd
	}
	f.sent = 0
	return p.returned(at, sent, q.Sent-q.HoldMicros, rtt, blur)
}

// returned takes a round trip, of a datagram that was sent at some time, and came at
// another of the peer's clock. Clocks that drift apart make it wrong by blur at most.
func (p *Path) returned(at, sent overlay.Instant, came uint32, rtt, blur time.Duration) (time.Duration, Receipt) {
	p.forth.sample(at, came-Micros(sent))
	if rtt <= 0 || blur > max(blurMost, rtt/50) {
		return 0, Quiet
	}
	p.sample(at, rtt)
	return rtt, Sampled
}

// sample takes a round trip.
func (p *Path) sample(at overlay.Instant, rtt time.Duration) {
	if p.sampled == 0 || p.moved {
		p.srtt, p.jitter, p.last = rtt, 0, rtt
		p.band, p.moved = band{}, false
		p.restartAt(at, rtt)
	}
	p.srtt += (rtt - p.srtt) / 8
	p.jitter += ((rtt - p.last).Abs() - p.jitter) / 16
	p.last, p.sampled = rtt, max(p.sampled, at)
	p.rtt.add(at, rtt, rttWindow)
	p.floor.add(at, rtt, floorWindow)
	shifted, calm := p.band.sample(at, rtt)
	if !shifted {
		return
	}
	p.srtt = p.band.level
	if calm {
		p.restartAt(at, p.band.lowest())
	} else {
		p.rtt.begin(at, p.band.lowest())
	}
}

// restartAt begins all windows with a sample.
func (p *Path) restartAt(at overlay.Instant, rtt time.Duration) {
	p.rtt.begin(at, rtt)
	p.floor.begin(at, rtt)
	p.forth, p.back = oneWay{}, oneWay{}
}

// Told takes what the peer says that it has received of a session, of which so many
// datagrams were sent by now. It is false if that can't be; then it changes nothing.
func (p *Path) Told(now overlay.Instant, highest, count, sent uint64) bool {
	return p.losses.told(now, highest, count, sent)
}

// ToldLow is Told by the low 32 bits that probes carry.
func (p *Path) ToldLow(now overlay.Instant, q overlay.Probe, sent uint64) bool {
	return p.losses.toldLow(now, q.Highest, q.Count, sent)
}

// Excuse says that so many datagrams that are sent now may well be lost and prove nothing
// of the path then, as those that ask whether their size passes, or another way. The
// session has sent so many in all then.
func (p *Path) Excuse(now overlay.Instant, n int, sent uint64) { p.losses.excuse(now, n, sent) }

// Arrived says that so many datagrams that were excused have arrived.
func (p *Path) Arrived(now overlay.Instant, n int) { p.losses.arrived(now, n) }

// RTT returns the smallest round trip of the last 10 s, or the newest if all are older;
// ok is false if none is known. After a shift to another level it is that of the new one.
func (p *Path) RTT(now overlay.Instant) (rtt time.Duration, ok bool) {
	return p.rtt.value(now, rttWindow)
}

// Floor is RTT of the last 5 min.
func (p *Path) Floor(now overlay.Instant) (rtt time.Duration, ok bool) {
	return p.floor.value(now, floorWindow)
}

// Sampled returns when the newest round trip was taken, 0 if there is none.
func (p *Path) Sampled() overlay.Instant { return p.sampled }

// Smoothed returns the smoothed round trip and the jitter, ok false if nothing
// is known.
func (p *Path) Smoothed() (srtt, jitter time.Duration, ok bool) {
	return p.srtt, p.jitter, p.sampled != 0
}

// Queues returns by how much longer than at its emptiest in 5 min the way there took
// the newest datagram that is known of, and the way back. It is 0 as long as nothing
// else is known.
func (p *Path) Queues() (forth, back time.Duration) { return p.forth.queue, p.back.queue }

// Loss returns which part of the datagrams that were sent in the last minute was lost,
// with its 95 % interval: all of them, frames and probes, count, but for those that were sent
// while the path was cut (see Cut). Datagrams that overtake
// others are taken for losses until the others come. ok is false if nothing is known.
func (p *Path) Loss(now overlay.Instant) (fraction, low, high float64, ok bool) {
	return p.losses.rate(now)
}
