package reserve

import (
	"slices"
	"time"

	"farlan/overlay"
)

// A Sample is what an agent saw of one of its own flows in the last second.
type Sample struct {
	Flow Flow
	Sent Rate // inner Ethernet bits that left
	// Backlog are the bytes of the flow that waited in the agent's own queue of its class, at
	// most in that second: what was sent tells what a flow got, and only this that it wanted
	// more.
	Backlog  int64
	Received Rate              // of the other direction
	Elastic  bool              // most of it is TCP: it takes what it gets
	Path     []overlay.AgentID // the relays that it goes by now
	Back     []overlay.AgentID // those of the other direction
	Reroute  bool              // another way is better, or wasn't tried yet: the flow goes there first
	Moving   bool              // one of its stations is about to move
	Gone     bool              // a station isn't there any more, or both are at one agent
}

const (
	// seconds is how long a flow is remembered: half the longest lease of an egress.
	seconds = 300
	// steady is how long a demand must last, and steadyOf how many of its seconds may be
	// without: TCP pauses.
	steady   = 30
	steadyOf = 27
	// hurtOf is in how many of these seconds something must have waited.
	hurtOf = 10
	// worthy is the least demand that is worth a reservation.
	worthy = 5 * Mbit
	// elasticTimes is how much more than it gets is taken for what a flow wants that takes what it
	// gets, while it waits: how much more it would have alone nobody knows.
	elasticTimes = 10
	// talking is from what rate on a flow goes on; after pause below it it begins anew.
	talking = 100 * Kbit
	pause   = 10
	// idleOf is for how long less than idleShare percent is used until a reservation is given
	// back.
	idleOf    = 60
	idleShare = 5
)

// A history is what a flow did each second, the newest last.
type history struct {
	sent    [seconds]Rate
	demand  [seconds]Rate
	hurt    [seconds]bool
	n       int             // how many seconds it has, all in all
	began   overlay.Instant // 0: it doesn't go on
	silent  int             // seconds since it sent something
	idle    int             // seconds in which little of the reservation was used
	waiting int             // seconds in which something waited, one after the other
}

// note takes a second, in which so much was reserved, and of the other direction.
func (h *history) note(now overlay.Instant, s *Sample, reserved, back Rate) {
	i := h.n % seconds
	h.n++
	h.sent[i], h.demand[i], h.hurt[i] = s.Sent, s.Sent, s.Backlog > 0
	if s.Backlog > 0 { // what waits, and as much again as it got: no less would be the next step
		times := Rate(2)
		if s.Elastic {
			times = elasticTimes
		}
		h.demand[i] = min(times*s.Sent+Rate(min(s.Backlog, 1<<40)*8/1000), maxRate)
		h.waiting++
	} else {
		h.waiting = 0
	}
	if h.silent++; s.Sent >= talking || s.Backlog > 0 {
		h.silent = 0
		if h.began == 0 {
			h.began = now.Add(-time.Second)
		}
	}
	if h.silent >= pause {
		h.began = 0
	}
	forth := s.Sent > 0 && s.Sent*100 >= reserved*idleShare
	if h.idle++; forth || back > 0 && s.Received*100 >= back*idleShare {
		h.idle = 0
	}
}

// ago returns the index of a second so long ago, 1 the last one.
func (h *history) ago(n int) int { return (h.n - n) % seconds }

// last returns the values of the last n seconds, or of as many as there are.
func (h *history) last(values *[seconds]Rate, n int) (all []Rate) {
	for k := min(n, h.n, seconds); k > 0; k-- {
		all = append(all, values[h.ago(k)])
	}
	return all
}

// demanded says whether the demand was worth a reservation for long enough, and hurts whether
// enough of it waited.
func (h *history) demanded() (demanded, hurts bool) {
	d, w := 0, 0
	for k := 1; k <= min(steady, h.n); k++ {
		if i := h.ago(k); h.demand[i] >= worthy {
			d++
		}
		if h.hurt[h.ago(k)] {
			w++
		}
	}
	return d >= steadyOf, w >= hurtOf
}

func mean(all []Rate) (m Rate) {
	if len(all) == 0 {
		return 0
	}
	for _, r := range all {
		m += r
	}
	return m / Rate(len(all))
}

// percentile returns the least value that so many of a hundred don't exceed.
func percentile(all []Rate, p int) Rate {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min((len(all)*p+99)/100, len(all))-1]
}

// size returns what rate to reserve: for what takes what it gets half as much again as it got
// lately, and what is worth it at least, for others a fifth more than all but its highest seconds.
func (h *history) size(elastic bool) Rate {
	if elastic {
		return max(mean(h.last(&h.sent, 10))*3/2, worthy)
	}
	return percentile(h.last(&h.demand, 60), 95) * 6 / 5
}
