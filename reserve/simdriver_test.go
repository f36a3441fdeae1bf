package reserve

import (
	"context"
	"fmt"
	"slices"
	"time"

	"farlan/overlay"
)

// A fake is a driver of the simulation, with what its underlay holds. It outlives its agent.
type fake struct {
	caps    Caps
	deaf    bool // the underlay has no room for an ID
	soft    bool // what has come to its end is gone by itself
	modify  bool
	held    []*fakeGrant
	handles int
	egress  func(to overlay.AgentID) string
}

type fakeGrant struct {
	Grant
	id     ID // whatever the underlay knows of it
	egress string
	by     overlay.Instant // when it went down by itself, 0: it didn't
}

// do makes a call, as far as it changes something.
func (f *fake) do(now overlay.Instant, c Call) Result {
	r := Result{Number: c.Number, Grant: c.Grant}
	f.expire(now)
	if c.Verb == DoHold {
		r.Grant, r.Err = f.hold(now, c.Want)
		return r
	}
	if c.Verb == DoList {
		for _, g := range f.held {
			r.Grants = append(r.Grants, f.shown(g))
		}
		return r
	}
	g := f.find(c.Grant)
	if g == nil {
		r.Err = ErrGone
		return r
	}
	switch c.Verb {
	case DoAbort, DoRelease:
		f.held = slices.DeleteFunc(f.held, func(x *fakeGrant) bool { return x == g })
		return r
	case DoCommit:
		g.State = max(g.State, Committed)
	case DoActivate:
		if g.State == Held {
			r.Err = ErrRefused
			return r
		}
		g.State, g.Up = Active, true
	case DoModify:
		if !f.modify {
			r.Err = ErrUnsupported
			return r
		}
		g.Rate = c.Rate
	case DoRenew:
		g.End = max(g.End, c.End)
	case DoUsage:
		r.Usage = Usage{Bytes: uint64(now / 1000)}
	}
	r.Grant = f.shown(g)
	return r
}

func (f *fake) hold(now overlay.Instant, w Want) (Grant, error) {
	for _, g := range f.held {
		if g.id == w.ID {
			return f.shown(g), nil
		}
	}
	if w.End <= now || w.Rate <= 0 {
		return Grant{}, ErrRefused
	}
	f.handles++
	g := &fakeGrant{Grant: Grant{
		ID: w.ID, Kind: f.caps.Kinds[0], State: Held, Rate: w.Rate, End: w.End, Handle: fmt.Sprint(f.caps.Name, f.handles),
		Mark: Mark{Priority: uint32(f.handles)},
	}, id: w.ID, egress: f.egress(w.To)}
	if f.caps.External {
		g.Mark = Mark{Device: g.Handle}
	}
	f.held = append(f.held, g)
	return f.shown(g), nil
}

func (f *fake) shown(g *fakeGrant) Grant {
	x := g.Grant
	if f.deaf {
		x.ID = ID{}
	}
	return x
}

func (f *fake) find(w Grant) *fakeGrant {
	for _, g := range f.held {
		if w.Handle != "" && g.Handle == w.Handle || w.Handle == "" && !f.deaf && g.id == w.ID {
			return g
		}
	}
	return nil
}

// expire drops what has come to its end, where the underlay does so.
func (f *fake) expire(now overlay.Instant) {
	if f.soft {
		f.reap(now)
	}
}

func (f *fake) reap(now overlay.Instant) {
	f.held = slices.DeleteFunc(f.held, func(g *fakeGrant) bool { return g.End <= now })
}

// up says whether packets with a way's mark are served.
func (f *fake) up(id ID) *fakeGrant {
	for _, g := range f.held {
		if g.id == id && g.Up {
			return g
		}
	}
	return nil
}

// A faked driver is one of the interface, for Do.
type faked struct {
	*fake
	now overlay.Instant
}

func (f faked) call(v Verb, w Want, g Grant, r Rate, e overlay.Instant) Result {
	return f.do(f.now, Call{Verb: v, Want: w, Grant: g, Rate: r, End: e})
}

func (f faked) grant(v Verb, g Grant, r Rate, e overlay.Instant) (Grant, error) {
	x := f.call(v, Want{}, g, r, e)
	return x.Grant, x.Err
}
func (f faked) Caps() Caps                                    { return f.caps }
func (f faked) Offer(context.Context, Want) (Offer, error)    { return Offer{}, ErrUnsupported }
func (f faked) Hold(_ context.Context, w Want) (Grant, error) { return f.hold(f.now, w) }
func (f faked) Commit(_ context.Context, g Grant) (Grant, error) {
	return f.grant(DoCommit, g, 0, 0)
}

func (f faked) Abort(_ context.Context, g Grant) error { return f.call(DoAbort, Want{}, g, 0, 0).Err }

func (f faked) Activate(_ context.Context, g Grant) (Grant, error) {
	return f.grant(DoActivate, g, 0, 0)
}

func (f faked) Deactivate(context.Context, Grant) (Grant, error) { return Grant{}, ErrUnsupported }

func (f faked) Modify(_ context.Context, g Grant, r Rate) (Grant, error) {
	return f.grant(DoModify, g, r, 0)
}

func (f faked) Renew(_ context.Context, g Grant, e overlay.Instant) (Grant, error) {
	return f.grant(DoRenew, g, 0, e)
}

func (f faked) Release(_ context.Context, g Grant) error {
	return f.call(DoRelease, Want{}, g, 0, 0).Err
}

func (f faked) Status(_ context.Context, g Grant) (Grant, error) { return f.grant(DoStatus, g, 0, 0) }

func (f faked) List(context.Context) ([]Grant, error) {
	return f.call(DoList, Want{}, Grant{}, 0, 0).Grants, nil
}

func (f faked) Usage(_ context.Context, g Grant) (Usage, error) {
	x := f.call(DoUsage, Want{}, g, 0, 0)
	return x.Usage, x.Err
}
func (f faked) Events(context.Context, func(Event)) error { return nil }
func (f faked) Reap(_ context.Context, now overlay.Instant) error {
	f.reap(now)
	return nil
}

var _ Driver = faked{}

// takes is how long a call takes.
func (f *fake) takes(w *simWorld, v Verb) time.Duration {
	if f.caps.External && v != DoList && v != DoStatus {
		return w.between(500*time.Millisecond, 3*time.Second)
	}
	return w.between(time.Millisecond, 30*time.Millisecond)
}
