// Package measure estimates what paths between agents are like: latency, loss,
// jitter, and whether the other end is there at all. It is pure: times are
// arguments, and it does no I/O.
package measure

import (
	"cmp"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// ProbeInterval is how often a path is probed that doesn't answer, and at most.
	ProbeInterval = time.Second
	// Misses is how many probes in a row go unanswered before a path is in
	// doubt: one is loss, three at 1 % loss happen once in a million.
	Misses = 3
	// GoneAfter is how long nothing may be heard before a peer is gone that was asked.
	// It covers a restart and most route changes of the underlay.
	GoneAfter = 10 * time.Second

	minRTTWindow = 10 * time.Second
	window       = 64 // probes remembered: about a minute
)

// State says whether a peer answers.
type State uint8

// The states of a path.
const (
	_       State = iota
	Up            // answers
	Suspect       // missed several probes
	Gone          // silent for GoneAfter
)

// String returns the state's name in the command line's output.
func (s State) String() string {
	return [...]string{"", "up", "suspect", "gone"}[s]
}

// A Path is what is known of the way to a peer and back. The zero value is not
// ready: use NewPath. Not safe for concurrent use.
type Path struct {
	probes [window]probe // by number
	number uint32        // of the newest probe
	srtt   time.Duration // smoothed, α = 1/8 (RFC 6298 § 2)
	jitter time.Duration // RFC 3550 § 6.4.1: J += (|D|−J)/16
	last   time.Duration // newest sample
	minima []sample      // rising times and values: the first is the minimum
	heard  overlay.Instant
	asked  overlay.Instant // when the first probe since was sent
	waits  overlay.Instant // since when something sent has not been answered, 0: nothing
	looked overlay.Instant // when Silent was called last
	misses int
	count  int // samples so far
}

type probe struct {
	number   uint32
	sent     overlay.Instant
	answered bool
	missed   bool
}

type sample struct {
	at  overlay.Instant
	rtt time.Duration
}

// NewPath returns a path to a peer that was heard from just now.
func NewPath(now overlay.Instant) *Path { return &Path{heard: now} }

// Heard says that an authenticated datagram came from the peer.
func (p *Path) Heard(now overlay.Instant) {
	p.heard = max(p.heard, now)
	p.misses = 0
}

// Probe returns the number of the next probe, which is sent now.
func (p *Path) Probe(now overlay.Instant) uint32 {
	if p.asked <= p.heard {
		p.asked = now
	}
	p.number++
	p.probes[p.number%window] = probe{number: p.number, sent: now}
	return p.number
}

// Overdue says whether a path that is probed rarely is to be probed now: nothing was
// heard since the last probe, a ProbeInterval ago.
func (p *Path) Overdue(now overlay.Instant) bool {
	last := p.probes[p.number%window].sent
	return last > p.heard && now.Sub(last) >= ProbeInterval
}

// Reply takes the reply to a probe, which the peer held for hold, and returns
// the round trip. Replies to probes that were not sent, or were answered
// before, are ignored: ok is false.
func (p *Path) Reply(now overlay.Instant, number uint32, hold time.Duration) (rtt time.Duration, ok bool) {
	q := &p.probes[number%window]
	if q.number != number || q.sent == 0 || q.answered || now.Before(q.sent) {
		return 0, false
	}
	q.answered = true
	p.Heard(now)
	rtt = max(now.Sub(q.sent)-max(hold, 0), 0)
	if p.count == 0 {
		p.srtt = rtt
	} else {
		p.srtt += (rtt - p.srtt) / 8
		p.jitter += ((rtt - p.last).Abs() - p.jitter) / 16
	}
	p.last = rtt
	p.count++
	p.push(sample{now, rtt})
	return rtt, true
}

// push adds a sample to the windowed minimum: samples that are older and not
// smaller than a newer one can never be the minimum again.
func (p *Path) push(s sample) {
	i, _ := slices.BinarySearchFunc(p.minima, s.rtt, func(m sample, rtt time.Duration) int { return cmp.Compare(m.rtt, rtt) })
	p.minima = append(p.minima[:i], s)
	for len(p.minima) > window || s.at.Sub(p.minima[0].at) > minRTTWindow {
		p.minima = slices.Delete(p.minima, 0, 1)
	}
}

// timeout is how long a probe may take.
func (p *Path) timeout() time.Duration { return max(ProbeInterval, 2*p.srtt) }

// Tick counts the probes that have gone unanswered for too long.
func (p *Path) Tick(now overlay.Instant) {
	for i := range p.probes {
		q := &p.probes[i]
		if q.sent == 0 || q.answered || q.missed || now.Sub(q.sent) < p.timeout() {
			continue
		}
		q.missed = true
		if p.heard.Before(q.sent) {
			p.misses++
		}
	}
}

// A Silence is what to do about a peer that should have been heard from.
type Silence uint8

// The silences, from none to one that is too long.
const (
	Answering Silence = iota
	Ask               // send a probe, which costs little
	Cut               // that wasn't answered either: try another way
)

// Least patience with a peer before it is asked, and then before another way is
// tried. A second is what a cut may cost.
const (
	askPatience  = 200 * time.Millisecond
	cutPatience  = 300 * time.Millisecond
	lookPatience = 250 * time.Millisecond
)

// Silent looks whether the peer has been silent since something was sent to it,
// a probe or what was sent at some time last. It wants to be called every 100 ms;
// when it isn't, this agent has little time, and it begins anew: the answers may
// wait too. It is much too early to say that the peer is gone: State does.
func (p *Path) Silent(now, sent overlay.Instant) Silence {
	sent = max(sent, p.probes[p.number%window].sent)
	late := now.Sub(p.looked) > lookPatience
	p.looked = now
	if late || p.heard >= p.waits {
		p.waits = 0
		if sent > p.heard {
			p.waits = now
		}
	}
	ask := max(askPatience, 2*p.srtt)
	switch silent := now.Sub(p.waits); {
	case p.waits == 0 || silent < ask:
		return Answering
	case silent < ask+max(cutPatience, 2*p.srtt):
		return Ask
	}
	return Cut
}

// Forgive takes the probes that are under way for answered: this agent was not
// there to hear the answers (it was suspended, or had no time), so their absence
// says nothing of the peer. It counts as heard from.
func (p *Path) Forgive(now overlay.Instant) {
	for i := range p.probes {
		if q := &p.probes[i]; !q.answered && !q.missed {
			q.sent = 0
		}
	}
	p.Heard(now)
}

// State says whether the peer answers. One that is probed rarely is gone a GoneAfter
// less a ProbeInterval after the first probe that it leaves unanswered.
func (p *Path) State(now overlay.Instant) State {
	silent := time.Duration(0)
	if p.asked > p.heard {
		silent = now.Sub(max(p.heard, p.asked.Add(-ProbeInterval)))
	}
	switch {
	case silent >= GoneAfter:
		return Gone
	case p.misses >= Misses:
		return Suspect
	}
	return Up
}

// RTT returns the smallest round trip of the last 10 s, or the newest if all are
// older; ok is false if none is known.
func (p *Path) RTT(now overlay.Instant) (rtt time.Duration, ok bool) {
	for _, s := range p.minima {
		if rtt, ok = s.rtt, true; now.Sub(s.at) <= minRTTWindow {
			break
		}
	}
	return rtt, ok
}

// Smoothed returns the smoothed round trip and the jitter, ok false if nothing
// is known.
func (p *Path) Smoothed() (srtt, jitter time.Duration, ok bool) { return p.srtt, p.jitter, p.count > 0 }

// Loss returns the fraction of the last probes (about a minute of them) that
// went unanswered, ok false if none is decided.
func (p *Path) Loss() (fraction float64, ok bool) {
	answered, missed := 0, 0
	for _, q := range p.probes {
		switch {
		case q.answered:
			answered++
		case q.missed:
			missed++
		}
	}
	if answered+missed == 0 {
		return 0, false
	}
	return float64(missed) / float64(answered+missed), true
}

// LastHeard returns when the peer was heard from last.
func (p *Path) LastHeard() overlay.Instant { return p.heard }
