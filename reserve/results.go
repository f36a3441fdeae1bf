package reserve

import (
	"errors"
	"slices"

	"farlan/overlay"
)

// came takes what a call for a segment came to.
func (b *Broker) came(now overlay.Instant, s *segment, v Verb, r Result) {
	switch {
	case v == DoAbort || v == DoRelease:
		b.released(now, s, r.Err)
		return
	case r.Err == nil:
		s.tries, s.due = 0, 0
		b.grants(now, s, v, r.Grant)
	case v == DoStatus && errors.Is(r.Err, ErrGone):
		s.refuse(Failed, 0, "the driver has it no longer")
		b.set(now, s, Lost)
	case v != DoStatus && definite(r.Err), v == DoHold && errors.Is(r.Err, ErrUnreachable):
		b.refused(now, s, v, r.Err)
	default:
		if v != DoStatus || s.state != Activating && s.state != Degraded {
			b.set(now, s, Unknown)
		}
		s.due = now.Add(b.backoff(s.tries, retryFirst, retryMost))
		s.tries++
		s.text = r.Err.Error()
	}
	b.enter(s)
}

// definite says whether an error tells what came of a call.
func definite(err error) bool {
	for _, e := range []error{ErrFull, ErrRefused, ErrUnsupported, ErrGone, ErrForeign} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// released takes what a release came to: it is tried until it is confirmed, or until after the
// end nothing is listed any more.
func (b *Broker) released(now overlay.Instant, s *segment, err error) {
	if err == nil || errors.Is(err, ErrGone) {
		b.set(now, s, s.final())
	} else {
		b.set(now, s, Orphan)
		s.due = now.Add(b.backoff(s.tries, retryFirst, retryMost))
		s.tries++
		s.text = err.Error()
	}
	b.enter(s)
}

// final returns how a segment that is given back ends.
func (s *segment) final() State {
	if s.why == Failed {
		return Lost
	}
	return Released
}

// grants takes what a driver says that it holds.
func (b *Broker) grants(now overlay.Instant, s *segment, v Verb, g Grant) {
	handle := s.grant.Handle
	if s.grant = g; g.Handle == "" {
		s.grant.Handle = handle
	}
	switch {
	case v == DoHold:
		s.asked, s.until = s.try, s.last
	case v == DoModify:
		s.asked = s.try
	case v == DoRenew:
		s.until = s.last
	case v == DoStatus && s.state == Unknown: // what came of the last call, or what was before a crash
		if g.Rate > 0 {
			s.asked = g.Rate
		}
		if g.End > 0 {
			s.until = g.End
		}
	}
	switch {
	case g.State.Over():
		s.refuse(Failed, 0, g.Reason)
		b.set(now, s, Lost)
	case v == DoHold || v == DoCommit:
		s.grant.Up = false
		b.set(now, s, map[Verb]State{DoHold: Held, DoCommit: Committed}[v])
	case v != DoStatus || g.State == Activating || g.State == Active || g.State == Degraded:
		b.works(now, s)
	case g.State == Held || g.State == Committed:
		s.grant.Up = false
		if s.state != g.State {
			b.set(now, s, Unknown) // it isn't what it was
		}
		b.set(now, s, g.State)
	default:
		b.set(now, s, Unknown)
		s.due = now.Add(upEvery)
	}
}

// works takes what an activated grant is like: it is Active while its driver sees it work.
func (b *Broker) works(now overlay.Instant, s *segment) {
	g := s.grant
	switch {
	case s.state < Activating || s.state == Unknown && !g.Up:
		b.set(now, s, Activating)
	case s.state == Active && !g.Up:
		b.set(now, s, Degraded)
	}
	if s.text = g.Reason; g.Up {
		b.set(now, s, Active)
	} else {
		s.due = now.Add(upEvery)
	}
}

// refused takes a driver's no.
func (b *Broker) refused(now overlay.Instant, s *segment, v Verb, err error) {
	var r Refusal
	why := Failed
	if errors.Is(err, ErrFull) {
		why = Full
		errors.As(err, &r)
	}
	switch v {
	case DoHold:
		elsewhere := errors.Is(err, ErrUnsupported) || errors.Is(err, ErrForeign) || errors.Is(err, ErrUnreachable)
		if elsewhere && b.other(s) {
			return
		}
		s.refuse(why, r.Free, err.Error())
		b.set(now, s, Rejected)
	case DoModify:
		s.refuse(why, r.Free, err.Error())
		if errors.Is(err, ErrUnsupported) {
			s.why = Useless
		}
		s.rate = s.asked
	case DoRenew:
		s.refuse(why, 0, err.Error())
		if errors.Is(err, ErrUnsupported) {
			s.why = Useless
		}
		s.end = s.until
	default: // what was held isn't to be had: what is left of it is given back
		s.refuse(why, r.Free, err.Error())
		b.end(s)
	}
	if errors.Is(err, ErrGone) && v != DoHold {
		s.refuse(Failed, 0, "the driver has it no longer")
		b.set(now, s, Lost)
	}
}

// other has the next driver try that could serve a segment, if there is one.
func (b *Broker) other(s *segment) bool {
	i := slices.IndexFunc(b.drivers, func(d *driver) bool { return d.Name == s.driver })
	d := b.serving(s.promise, i+1)
	if d == nil {
		return false
	}
	s.driver = d.Name
	return true
}

// serving returns the first driver from one on that can promise something, nil if none does.
func (b *Broker) serving(promise Kind, from int) *driver {
	for _, d := range b.drivers[from:] {
		for _, k := range d.Kinds {
			if k == promise || promise != Circuit && (k == Guarantee || k == Priority) && (promise == NoKind || k < promise) {
				return d
			}
		}
	}
	return nil
}

// Notice takes what a driver tells unasked.
func (b *Broker) Notice(now overlay.Instant, driver string, e Event) {
	for _, s := range b.order {
		known := s.id == e.ID || e.ID == (ID{}) && e.Grant.Handle != "" && s.grant.Handle == e.Grant.Handle
		if s.driver != driver || !known || s.state.Over() || s.goal == Released || s.call != 0 && s.verb != DoStatus {
			continue
		}
		if s.state >= Activating && s.state <= Degraded {
			b.grants(now, s, DoStatus, e.Grant)
		} else {
			b.set(now, s, Unknown)
		}
		b.enter(s)
	}
}
