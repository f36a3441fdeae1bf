package measure

import (
	"time"

	"farlan/overlay"
)

const (
	// ProbeInterval is how often a path is probed that doesn't answer, and at most
	// while nothing is in doubt.
	ProbeInterval = time.Second
	// Misses is how many probes in a row go unanswered before a path is in
	// doubt: one is loss, three at 1 % loss happen once in a million.
	Misses = 3
	// GoneAfter is how long nothing may be heard before a peer is gone that was asked.
	// It covers a restart and most route changes of the underlay.
	GoneAfter = 10 * time.Second

	// One of the two asks. Where that is more often than each turnsAfter it is always
	// the first of them in the order of the ids: the other one then learns the round trip
	// by the echo of its reply in the next probe. That one's hold is as long as the
	// clocks have time to drift apart, so where it is longer they take turns.
	turnsAfter = 2 * time.Second
	// turnPatience is how much longer than its turn a peer has for asking, beside the
	// round trip: two that ask at once do so for nothing.
	turnPatience = 250 * time.Millisecond
)

// State says whether a peer answers.
type State uint8

// The states of a path.
const (
	_       State = iota
	Up            // answers
	Suspect       // missed several probes
	Gone          // silent for GoneAfter
	Idle          // not asked: no session with it is wanted now, and by what others tell it is there
)

// String returns the state's name in the command line's output.
func (s State) String() string {
	return [...]string{"", "up", "suspect", "gone", "idle"}[s]
}

// A turn says who is to ask next.
type turn uint8

const (
	ours turn = iota
	theirs
	crossed // both asked at once: who comes first in the order of the ids
)

// A life is what is known of whether the peer is there, and when to ask.
type life struct {
	heard overlay.Instant // from the peer, last
	asked overlay.Instant // when the first probe since was sent, or should have come
	newly overlay.Instant // when the newest one was sent
	asks  int             // probes since
	waits overlay.Instant // since when something sent has not been answered, 0: nothing
	busy  bool            // … which were frames
	look  overlay.Instant // when Silent was called last
	flow  int             // how often lately frames had been sent since the time before

	talked overlay.Instant // when a probe was sent last, or came
	every  time.Duration   // how often one is to be
	turn   turn
}

// Heard says that an authenticated datagram came from the peer.
func (p *Path) Heard(now overlay.Instant) {
	p.heard = max(p.heard, now)
	if p.heard >= p.asked {
		p.asks = 0
	}
}

// LastHeard returns when the peer was heard from last.
func (p *Path) LastHeard() overlay.Instant { return p.heard }

// Due says whether a probe is to be sent, if one is wanted as often as every; first says
// that this agent is the first of the two in the order of the ids. What the peer asked
// counts as if this agent had. A path that doesn't answer is probed each ProbeInterval
// at least, and one whose round trip seems to have changed more often. It wants to be
// called every 100 ms.
func (p *Path) Due(now overlay.Instant, every time.Duration, first bool) bool {
	p.every = every
	now = now.Add(lookEvery / 2) // neither early nor late by more
	if p.band.doubts() {
		every = min(every, doubtEvery)
	}
	if p.asks > 0 {
		return now.Sub(p.newly) >= min(every, ProbeInterval)
	}
	if every <= turnsAfter && !first || every > turnsAfter && (p.turn == theirs || p.turn == crossed && !first) {
		every += min(turnPatience, every/4) + p.srtt // it is the peer's turn
	}
	return now.Sub(p.talked) >= every
}

// asking notes that a probe is sent.
func (p *Path) asking(now overlay.Instant) {
	p.Asked(now)
	p.turn, p.newly, p.talked = theirs, now, now
}

// Asked notes that something was sent to the peer which it is to answer at once.
func (p *Path) Asked(now overlay.Instant) {
	if p.asked <= p.heard {
		p.asked, p.asks = now, 0
		if due := p.talked.Add(p.every); p.talked != 0 && p.heard < due && due < now {
			p.asked = due // it was the peer's turn
		}
	}
	p.asks++
}

// wasAsked notes that a probe of the peer's came.
func (p *Path) wasAsked(at overlay.Instant) {
	p.talked, p.turn = max(p.talked, at), ours
	if p.asks > 0 {
		p.turn = crossed
	}
}

// patience is how long an answer may take.
func (p *Path) patience() time.Duration {
	if p.sampled == 0 {
		return 2 * assumedRTT
	}
	return max(askPatience, 2*p.srtt)
}

// assumedRTT is that of a path on which nothing was measured yet.
const assumedRTT = 300 * time.Millisecond

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
	lookEvery    = 100 * time.Millisecond
	lookPatience = 250 * time.Millisecond
	// Frames flow if some were sent between flows looks in a row: when the peer falls
	// silent then, it is asked although this agent, which answered it, has sent nothing.
	flows = 5
)

// Silent looks whether the peer has been silent since something was sent to it,
// a probe or frames, which were sent at some time last, or since frames flowed. It wants to be called every
// 100 ms; when it isn't, this agent has little time, and it begins anew: the answers may
// wait too. It is much too early to say that the peer is gone: State does.
func (p *Path) Silent(now, frames overlay.Instant) Silence {
	sent, before := max(frames, p.newly), p.look
	p.look = now
	if frames > before {
		p.flow = min(p.flow+1, flows+1)
	} else if p.heard > before {
		p.flow = max(p.flow-1, 0)
	} // else it is silent: did what flowed end, or was it cut?
	if late := now.Sub(before) > lookPatience; late || p.heard > p.waits {
		p.waits, p.busy = 0, false
		if waits := sent > p.heard || p.flow >= flows; waits && late {
			p.waits = now
		} else if waits {
			p.waits = max(p.heard, before) // the first of what was sent, at the earliest
		}
	}
	p.busy = p.waits != 0 && (p.busy || frames > p.heard || p.flow >= flows)
	ask := p.patience()
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
	for i := range p.flight {
		p.flight[i].sent = 0
	}
	p.Heard(now)
}

// State says whether the peer answers. It is suspect when three probes in a row missed
// their answers, ProbeInterval apart; where frames are sent, when as many did that were
// sent because nothing came. One that is probed rarely is gone a GoneAfter less a
// ProbeInterval after the first probe that it leaves unanswered.
func (p *Path) State(now overlay.Instant) State {
	if p.asked <= p.heard {
		return Up
	}
	silent := now.Sub(p.asked)
	patience := max(askPatience, p.srtt)
	missed := p.asks >= Misses-1 && silent >= (Misses-1)*ProbeInterval+patience &&
		(p.asks > Misses || now.Sub(p.newly) >= patience)
	// It won't be looked at again sooner than lookEvery.
	missedFrames := p.busy && p.asks >= Misses && now.Sub(p.waits)+lookEvery >= Misses*p.patience()
	switch {
	case now.Sub(max(p.heard, p.asked.Add(-ProbeInterval))) >= GoneAfter:
		return Gone
	case missed || missedFrames:
		return Suspect
	}
	return Up
}
