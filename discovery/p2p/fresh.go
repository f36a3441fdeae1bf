package p2p

import (
	"sync"
	"time"
)

// Who captures what a member sealed and sends it again gets nothing: each
// sealed thing is taken once, and only within ClockLimit of its time. Of each
// sender the newest number is remembered, and which of those below it have
// come. That holds for all datagrams, not only for those that open a
// connection: QUIC answers what belongs to a closed connection, or to none, too.
// What we sealed ourselves is never taken.
//
// What a capture can still do is bounded by ClockLimit: an agent that has been
// started again has forgotten whom it heard, and another member never heard it,
// so each of those takes it once.
//
// An agent whose clock is wrong gets no answer either, since what it sends
// can't be told from an old capture. It finds out by what members send to it on
// their own: see skewed.
const (
	// ClockLimit is how far the clocks of two members may be apart: beyond, they
	// don't hear each other. Hosts that keep
	// time at all are within a second.
	ClockLimit = 2 * time.Minute

	// maxSenders is how many senders are remembered; beyond, the one that came
	// first is forgotten, and what was captured of it within ClockLimit is taken
	// once again. maxConns agents would have to start four times in that time.
	maxSenders = 4096
	// seenWords × 64 numbers a sender: as it sends to others too, those that it
	// sends to us are up to that far apart in order. What is older is dropped,
	// and QUIC sends it again.
	seenWords = 32

	// heardFor is how long a datagram with the right time means that our clock
	// is right. QUIC sends at least every 15 seconds.
	heardFor = 40 * time.Second
	// skewFor is how long one with a wrong time counts: dials come each half
	// minute.
	skewFor = 2 * time.Minute
)

// A fresh tells what is new from what was sent before. It is safe for
// concurrent use.
type fresh struct {
	self [6]byte // the sender that we are, whose sent things come back only by a replay

	mu    sync.Mutex
	place map[[6]byte]int // of a sender in seen
	seen  []senderSeen    // a ring once it is full
	next  int             // the next place to give away then

	replays  uint64 // what was dropped because it had come before
	untimely uint64 // because of its time

	heard time.Time     // when something with the right time came, by our monotonic clock
	ill   time.Time     // when something else did
	skew  time.Duration // how far our clock was ahead of that
}

// A senderSeen holds a sender's newest numbers: a ring of words of 64 of them
// each, of which a new highest number clears those that it passes (RFC 6479).
type senderSeen struct {
	sender [6]byte
	top    uint64
	ring   [seenWords]uint64
}

// take notes what has been opened, and says whether it may pass.
func (f *fresh) take(h head, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off := offset(h.time, now); off.Abs() > ClockLimit {
		f.untimely++
		f.ill, f.skew = time.Now(), off
		return false
	}
	if h.sender == f.self || !f.of(h).take(h.number) {
		f.replays++
		return false
	}
	f.heard = time.Now()
	return true
}

// offset returns how far now is after a time in seconds, which is taken to be
// at most 68 years away.
func offset(seconds uint32, now time.Time) time.Duration {
	return time.Duration(int32(uint32(now.Unix())-seconds)) * time.Second
}

// of returns what is known of h's sender. A new one's numbers count from h on,
// and those that may have been overtaken.
func (f *fresh) of(h head) *senderSeen {
	if i, ok := f.place[h.sender]; ok {
		return &f.seen[i]
	}
	if f.place == nil {
		f.place = make(map[[6]byte]int)
	}
	i := len(f.seen)
	if i < maxSenders {
		f.seen = append(f.seen, senderSeen{})
	} else {
		i = f.next
		f.next = (f.next + 1) % maxSenders
		delete(f.place, f.seen[i].sender)
	}
	f.place[h.sender] = i
	f.seen[i] = senderSeen{sender: h.sender, top: h.number}
	return &f.seen[i]
}

// take notes a number, and says whether it is neither noted yet nor too old.
func (s *senderSeen) take(number uint64) bool {
	if number > s.top {
		from := s.top / 64
		for i := range min(number/64-from, seenWords) {
			s.ring[(from+1+i)%seenWords] = 0
		}
		s.top = number
	}
	word, bit := &s.ring[number/64%seenWords], uint64(1)<<(number%64)
	if s.top-number >= (seenWords-1)*64 || *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

// skewed says how far our clock is ahead of the others' if it is beyond the
// limit: members were heard lately, and none whose time is ours.
func (f *fresh) skewed() (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ill.IsZero() || time.Since(f.ill) > skewFor || !f.heard.IsZero() && time.Since(f.heard) < heardFor {
		return 0, false
	}
	return f.skew, true
}

// dropped returns how many were dropped so far.
func (f *fresh) dropped() (replays, untimely uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.replays, f.untimely
}
