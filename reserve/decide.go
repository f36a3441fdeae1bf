package reserve

import (
	"fmt"
	"time"

	"farlan/overlay"
)

// A deed is what is to be done about a flow.
type deed uint8

const (
	wait    deed = iota
	lead         // claim the right to coordinate it
	reserve      // ask for a rate
	circuit      // ask for it with an outside circuit
	resize       // change the rate, and renew
	giveUp       // give it back
	replace      // ask for another one before this ends
)

// A decision is a deed and why.
type decision struct {
	deed deed
	rate Rate // of inner bits
	back Rate // the same of the other direction
	why  string
}

const (
	// worthTimes is how many times what it takes to set it up a reservation must be expected
	// to be used.
	worthTimes = 10
	// growEvery is how long a larger rate must have helped before it is doubled, and
	// growAgain when more is asked for that wasn't there.
	growEvery = 10 * time.Second
	growAgain = time.Minute
	// growAfter is for how many seconds something must have waited.
	growAfter = 5
	// patience is how long a flow must last until the end that sends less coordinates.
	patience = time.Minute
	// leastLife is the shortest lease; leastRate the smallest rate that is kept.
	leastLife = 2 * time.Minute
	leastRate = 1 * Mbit
	// usedShare is how many percent must be used for a lease to be renewed as it is.
	usedShare = 50
)

// A situation is all that a decision about a flow depends on but its history.
type situation struct {
	now       overlay.Instant
	sample    Sample
	automatic bool          // the policy lets flows be reserved for that nobody declared
	leads     bool          // this agent coordinates the line
	other     bool          // the other end does
	first     bool          // this end sends more, or as much and has the lower id
	wished    Rate          // that the other end wants, which it hurts, too; 0: it doesn't
	able      bool          // a driver and a way are there
	setup     time.Duration // how long it takes with that driver
	notBefore overlay.Instant
	refused   string        // why it wasn't had last time
	full      bool          // because there wasn't enough, and not for the first time
	circuits  bool          // an outside circuit could be asked for
	external  time.Duration // how long that takes
	most      Rate          // of the policy, and this flow's part beside others that need one; 0: none
}

// decide says what to do about a flow without a reservation that no owner declared. It asks if
// all of that holds: it demands 5 Mbit/s for half a minute, it hurts, it has lasted ten times as
// long as the asking will take (and so is expected to last as long again), no other way is
// better, its stations stay where they are, and this agent coordinates the two.
func (h *history) decide(s *situation) decision {
	demanded, hurts := h.demanded()
	elapsed := h.elapsed(s.now)
	rate := h.capped(h.size(s.sample.Elastic), s.most)
	no := func(why string) decision { return decision{why: why} }
	switch {
	case !s.automatic:
		return no("only what owners declare is reserved (reserve.automatic)")
	case s.sample.Gone:
		return no("its stations aren't at two agents")
	case !demanded || elapsed < steady*time.Second:
		return no(fmt.Sprintf("less than %v for %d s", worthy, steady))
	case h.silent > 0:
		return no("nothing is sent just now")
	case !hurts:
		return no("nothing waits for the way out: the path has room")
	case s.sample.Moving:
		return no("one of its stations is about to move")
	case !s.able:
		return no("no driver can reserve on the way out")
	case elapsed < worthTimes*s.setup:
		return no(fmt.Sprintf("it began %v ago; setting up takes %v, and is worth it from ten times that on", elapsed, s.setup))
	case s.sample.Reroute:
		return no("another way is tried first")
	case s.now < s.notBefore:
		return no(fmt.Sprintf("refused (%s); it is asked again in %v", s.refused, s.notBefore.Sub(s.now).Round(time.Second)))
	case !s.leads && s.other:
		return decision{deed: lead, rate: rate, why: "the other agent coordinates; it is told that this direction hurts"}
	case !s.leads && !s.first && elapsed < patience:
		return no("the other agent sends more, and may coordinate")
	case !s.leads:
		return decision{deed: lead, rate: rate, why: "the right to coordinate is claimed"}
	}
	d := decision{deed: reserve, rate: rate, back: s.wished}
	d.why = fmt.Sprintf("it wants %v and waits for the way out since %v", d.rate, elapsed)
	if s.full && s.circuits && elapsed >= worthTimes*s.external {
		d.deed = circuit
		d.why += "; there isn't enough on the way (" + s.refused + ")"
	}
	return d
}

func (h *history) elapsed(now overlay.Instant) time.Duration {
	if h.began == 0 {
		return 0
	}
	return now.Sub(h.began).Round(time.Second)
}

func (h *history) capped(r, most Rate) Rate {
	if most > 0 {
		r = min(r, most)
	}
	return max(r, leastRate)
}

// life returns how long a flow is expected to go on, and to be reserved for: as long as it has.
func (h *history) life(now overlay.Instant) time.Duration {
	return min(max(h.elapsed(now), leastLife), maxLease)
}

// A holding is what a decision about what is reserved already depends on.
type holding struct {
	rate      Rate // of inner bits
	renewed   overlay.Instant
	life      time.Duration
	grown     overlay.Instant // when its rate was changed last
	refused   overlay.Instant // when more was refused last
	fixed     bool            // it can't be changed or renewed
	back      Rate            // what it has of the other direction
	declared  bool
	replacing bool // another one is about to take its place, or couldn't a moment ago
}

// keep says what to do about a flow that has a reservation.
func (h *history) keep(s *situation, r *holding) decision {
	half := s.now >= r.renewed.Add(r.life/2)
	used := mean(h.last(&h.sent, max(int(r.life/2/time.Second), 1)))
	fits := h.capped(h.size(false), s.most)
	more := h.more(s, r, fits)
	switch {
	case r.declared && half && r.fixed && !r.replacing:
		return decision{deed: replace, rate: r.rate, why: "it can't be renewed in place"}
	case r.declared && half && !r.fixed:
		return decision{deed: resize, rate: r.rate, why: "its owner wants it for longer"}
	case r.declared:
		return decision{why: "its owner declared it"}
	case s.sample.Gone:
		return decision{deed: giveUp, why: "its stations aren't at two agents any more"}
	case h.idle >= idleOf:
		return decision{deed: giveUp, why: fmt.Sprintf("less than %d %% was used for %d s", idleShare, idleOf)}
	case s.most > 0 && r.rate > s.most*11/10 && !r.fixed:
		return decision{deed: resize, rate: s.most, back: r.back, why: "others need as much"}
	case more > r.rate && r.fixed && !r.replacing:
		return decision{deed: replace, rate: more, why: "what it sends still waits, and it can't be changed in place"}
	case more > r.rate && !r.fixed:
		return decision{deed: resize, rate: more, why: "what it sends still waits"}
	case s.wished > 0 && r.back == 0 && !r.replacing:
		return decision{deed: replace, rate: r.rate, back: s.wished, why: "the other direction needs it, too"}
	case s.wished > r.back && r.back > 0 && !r.fixed && s.now >= r.grown.Add(growEvery) && (r.refused == 0 || s.now >= r.refused.Add(growAgain)):
		return decision{deed: resize, rate: r.rate, back: s.wished, why: "the other direction needs more"}
	case half && r.fixed && !r.replacing && used*100 >= r.rate*usedShare:
		return decision{deed: replace, rate: r.rate, why: "it can't be renewed in place"}
	case half && !r.fixed && used*100 >= r.rate*usedShare:
		return decision{deed: resize, rate: r.rate, why: fmt.Sprintf("%d %% of it is used", used*100/max(r.rate, 1))}
	case half && !r.fixed:
		return decision{deed: resize, rate: min(fits, r.rate), why: fmt.Sprintf("only %d %% of it is used", used*100/max(r.rate, 1))}
	}
	return decision{why: "it is used"}
}

// more returns what to ask for if what is reserved isn't enough, 0 if it is, or was refused a
// moment ago: twice as much for what takes what it gets.
func (h *history) more(s *situation, r *holding, fits Rate) Rate {
	switch {
	case h.waiting < growAfter, s.now < r.grown.Add(growEvery), r.refused != 0 && s.now < r.refused.Add(growAgain):
		return 0
	case s.sample.Elastic:
		return h.capped(2*r.rate, s.most)
	}
	return fits
}
