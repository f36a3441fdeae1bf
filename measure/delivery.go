package measure

import (
	"time"

	"farlan/overlay"
)

const (
	// ackAfter datagrams, or ackDelay after the first of them, an
	// acknowledgement is due, but never two within ackSpacing: even 1 Gbit/s
	// costs a thousand of them a second, not five.
	ackAfter   = 16
	ackDelay   = 10 * time.Millisecond
	ackSpacing = time.Millisecond

	// What is under way is remembered in slices, which cover a round trip of at
	// least a second. Of a longer one the oldest are forgotten: samples are
	// missing then, none is wrong.
	flightSlices = 256
	sliceTime    = 4 * time.Millisecond
	// A flow begins anew after a pause of idleAfter if nothing is under way, or
	// pauseAfter if something seems to be: its last datagram may be lost.
	idleAfter  = 10 * time.Millisecond
	pauseAfter = 100 * time.Millisecond

	// Shorter samples show how stamps are made, longer ones aren't of one flight.
	minInterval = time.Millisecond
	maxInterval = rateWindow
	maxSample   = 1 << 36 // bytes: more than any path delivers in one
	// squeezedAfter is the shortest time of arrival that shows a bottleneck
	// rather than jitter.
	squeezedAfter = 10 * time.Millisecond

	// untold datagrams may be acknowledged beyond those that Delivery knows of.
	untold     = 1024
	maxPayload = 65507 // bytes of a UDP datagram
)

// A Receiver counts the datagrams of one direction of a session and says when to
// acknowledge them. The zero value is ready, and fit for one session. Not safe
// for concurrent use; it does not allocate.
type Receiver struct {
	ack     overlay.Ack
	stamped bool            // the kernel stamped what came last
	unacked uint64          // datagrams of data since the last acknowledgement
	first   overlay.Instant // when the first of those came
	taken   overlay.Instant // when the last acknowledgement was
}

// Received counts a run of n datagrams that passed the session's replay window:
// all of them must be counted, here or by Counted, or else they count as lost.
// counter is the highest of theirs, bytes the sum of their UDP payloads, stamp
// when the kernel received the newest.
func (r *Receiver) Received(now overlay.Instant, counter uint64, n, bytes int, stamp overlay.Instant) {
	if n <= 0 || bytes < 0 {
		return
	}
	if r.unacked == 0 {
		r.first = now
	}
	r.unacked += uint64(n)
	r.Counted(counter, n, bytes, stamp)
}

// Counted is Received for datagrams that make no acknowledgement due: without
// it two agents would acknowledge each other's acknowledgements for ever.
func (r *Receiver) Counted(counter uint64, n, bytes int, stamp overlay.Instant) {
	if n <= 0 || bytes < 0 {
		return
	}
	r.ack.Highest = max(r.ack.Highest, counter)
	r.ack.Count += uint64(n)
	r.ack.Bytes += uint64(bytes)
	r.ack.Stamp, r.stamped = max(r.ack.Stamp, stamp), stamp > 0
}

// Stamped says whether the acknowledgement's stamp is that of what came last: what comes
// through TCP has none.
func (r *Receiver) Stamped() bool { return r.stamped }

// Due says whether an acknowledgement is to be sent now.
func (r *Receiver) Due(now overlay.Instant) bool { return r.unacked > 0 && !now.Before(r.Next()) }

// Rides says whether an acknowledgement is worth being sent now if there is a
// datagram that takes it along.
func (r *Receiver) Rides(now overlay.Instant) bool {
	return r.unacked > 0 && now.Sub(r.taken) >= ackSpacing
}

// Next returns when an acknowledgement will be due if nothing else comes, zero
// if none will.
func (r *Receiver) Next() overlay.Instant {
	switch {
	case r.unacked == 0:
		return 0
	case r.unacked >= ackAfter:
		return max(r.first, r.taken.Add(ackSpacing))
	}
	return r.first.Add(ackDelay)
}

// Take returns the acknowledgement that is sent now, but for its Index. It is
// cumulative, so one that is lost costs nothing.
func (r *Receiver) Take(now overlay.Instant) overlay.Ack {
	r.unacked, r.taken = 0, now
	return r.ack
}

// A Delivery is what acknowledgements tell a sender of one direction of a path,
// at no cost in probes: the rate at which datagrams arrive.
//
// Rates are sampled as in draft-cheng-iccrg-delivery-rate-estimation-02 § 3:
// over about one round trip, the bytes that were acknowledged, divided by the
// time in which they were sent or that in which they arrived, whichever is
// longer. The time of arrival is the difference of two stamps of the receiver,
// so neither its clock's offset nor the acknowledgements' way back matters. A
// sample is limited if the sender had nothing more to send: then it is only a
// lower bound of what the path delivers.
//
// A peer that lies spoils the estimates of the path to itself, nothing else. A
// Delivery takes 25 kB. The zero value is ready. Not safe for concurrent use;
// neither Sent nor Acked allocates.
type Delivery struct {
	// Around is what IP's and UDP's headers add to each datagram that is sent now,
	// bytes: rates are those of IP packets.
	Around int

	sent      uint64          // datagrams of this session: the next one's counter
	lastSent  overlay.Instant // the newest
	firstSent overlay.Instant // when the flight that is under way began
	limited   bool            // the sender had nothing more to send …
	limitedTo uint64          // … before the datagram with this counter

	ack   overlay.Ack // newest
	acked bool        // there is one in this session
	prior bool        // and it is not from before a pause

	flight [flightSlices]slice
	oldest int // of flight
	slices int // of flight, how many are in use

	full, low rates // samples that aren't limited, and those that are
	queue     standing
	sank      overlay.Instant // when sink looked last
}

// A slice is datagrams that were sent within sliceTime.
type slice struct {
	counter      uint64          // that follows the newest
	opened, sent overlay.Instant // when the first and the newest were sent
	firstSent    overlay.Instant // Delivery.firstSent, as of opened; so are:
	bytes, count uint64          // acknowledged bytes and datagrams
	stamp        overlay.Instant // of that acknowledgement; 0 if it doesn't count
	limited      bool
}

// Restart says that a new session began: its counters begin again at 0, and what
// is known of the path stays.
func (d *Delivery) Restart() {
	d.sent, d.slices = 0, 0
	d.acked, d.prior, d.limited = false, false, false
	d.ack = overlay.Ack{}
}

// AppLimited says that the sender has nothing more to send: until what it sends
// next is acknowledged, samples are lower bounds. A sender that forwards others'
// traffic knows only whether a queue of its own is empty, which it is when the
// bottleneck lies further on: see sample for what is made of that.
func (d *Delivery) AppLimited() { d.limited, d.limitedTo = true, d.sent }

// Sent says that a run of datagrams went out, after which the session has sent
// so many in all (overlay.Session.Sent). A few datagrams now and then, such as
// probes, needn't be told.
func (d *Delivery) Sent(now overlay.Instant, sent uint64) {
	if sent <= d.sent { // two senders of one session overtook each other
		return
	}
	now = max(now, d.lastSent)
	if d.sent == 0 {
		d.firstSent = now
	} else if gap := now.Sub(d.lastSent); gap > pauseAfter || gap > idleAfter && d.acked && d.ack.Highest+1 >= d.sent {
		d.AppLimited()
		d.firstSent, d.prior = now, false
	}
	d.sent, d.lastSent = sent, now
	if d.slices > 0 {
		if s := &d.flight[(d.oldest+d.slices-1)%flightSlices]; now.Sub(s.opened) < sliceTime {
			s.counter, s.sent = sent, now
			return
		}
	}
	if d.slices == flightSlices {
		d.oldest = (d.oldest + 1) % flightSlices
		d.slices--
	}
	s := &d.flight[(d.oldest+d.slices)%flightSlices]
	*s = slice{counter: sent, opened: now, sent: now, firstSent: d.firstSent, bytes: d.ack.Bytes, count: d.ack.Count, limited: d.limited}
	if d.prior {
		s.stamp = d.ack.Stamp
	}
	d.slices++
}

// Acked takes an acknowledgement. Those that come late or twice, or claim what
// was never sent, are ignored.
func (d *Delivery) Acked(now overlay.Instant, a overlay.Ack) {
	if a.Stamp <= 0 || d.sent == 0 || a.Highest >= d.sent+untold || a.Count > a.Highest+1 ||
		a.Count <= d.ack.Count || a.Highest < d.ack.Highest || a.Bytes < d.ack.Bytes ||
		a.Bytes-d.ack.Bytes > (a.Count-d.ack.Count)*maxPayload {
		return
	}
	if a.Stamp.Before(d.ack.Stamp) { // the receiver's clock was set: nothing can be compared
		d.ack, d.prior, d.slices = a, true, 0
		return
	}
	d.ack, d.acked, d.prior = a, true, true
	if d.limited && a.Highest >= d.limitedTo {
		d.limited = false
	}
	var s slice // the newest that is acknowledged
	for d.slices > 0 && d.flight[d.oldest].counter <= a.Highest+1 {
		s = d.flight[d.oldest]
		d.oldest = (d.oldest + 1) % flightSlices
		d.slices--
	}
	if s.sent != 0 {
		d.sample(now, s)
		d.firstSent = max(d.firstSent, s.sent)
	}
	if d.slices > 0 && a.Highest+1 > s.counter {
		// It acknowledges a part of the next slice. When that was sent is known
		// only roughly: rather too late, which leaves it to the stamps.
		d.firstSent = max(d.firstSent, d.flight[d.oldest].sent)
	}
}

// sample takes the rate sample that d.ack completes, which acknowledges s.
//
// A limited one counts in full if its datagrams took much longer to arrive than
// to be sent: then they queued at a bottleneck, whether the sender had more or
// not. That is how an overlay, whose own queues are empty when the bottleneck is
// on the path, learns of it from what flows through it.
func (d *Delivery) sample(now overlay.Instant, s slice) {
	if s.stamp == 0 {
		return
	}
	sending, arriving := s.sent.Sub(s.firstSent), d.ack.Stamp.Sub(s.stamp)
	interval, bytes := max(sending, arriving), d.ack.Bytes-s.bytes+(d.ack.Count-s.count)*uint64(max(d.Around, 0))
	if interval < minInterval || interval > maxInterval || bytes == 0 || bytes > maxSample {
		return
	}
	rate := int64(bytes) * 8e6 / interval.Microseconds()
	squeezed := arriving >= squeezedAfter && arriving-sending >= sending/4
	d.queue.took(now, now.Sub(s.sent))
	if s.limited && !squeezed {
		d.low.add(now, rate)
	} else {
		d.full.add(now, rate)
	}
	d.sink(now)
}
