// Package reservetest says whether a driver does what reserve.Driver asks for.
package reservetest

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// A Case is a driver to test, with nothing reserved.
type Case struct {
	Driver reserve.Driver
	// Agent is who the driver speaks for.
	Agent overlay.AgentID
	// Via is where wants lead, for drivers that care.
	Via netip.AddrPort
	// Rate is what it can grant three times and not more; 0 if it promises no rate.
	Rate reserve.Rate
	// Now is the driver's clock; nil means the wall clock.
	Now func() overlay.Instant
}

// Conform tests the driver, and leaves nothing behind if it passes.
func Conform(t *testing.T, c Case) {
	t.Helper()
	if c.Now == nil {
		c.Now = func() overlay.Instant { return overlay.Instant(time.Now().UnixNano()) }
	}
	caps := c.Driver.Caps()
	if caps.Name == "" || len(caps.Kinds) == 0 || caps.Setup < 0 {
		t.Errorf("Caps: %+v", caps)
	}
	if err := c.Driver.Reap(t.Context(), c.Now()); err != nil { // as the agent does at its start
		t.Fatal(err)
	}
	t.Run("life", c.life)
	t.Run("abort", c.abort)
	t.Run("refused", c.refused)
	t.Run("gone", c.gone)
	t.Run("full", c.full)
	t.Run("ended", c.ended)
	c.none(t)
}

// want is a want with this number.
func (c Case) want(n byte) reserve.Want {
	rate := c.Rate
	if rate == 0 {
		rate = reserve.Mbit
	}
	id := reserve.ID{Reservation: [16]byte{0xc0, n, 15: n}, Segment: n}
	return reserve.Want{ID: id, Rate: rate, From: c.Agent, To: overlay.AgentID{0xee}, Via: c.Via, End: c.Now().Add(time.Minute), Owner: "reservetest"}
}

func ok(t *testing.T) func(reserve.Grant, error) reserve.Grant {
	return func(g reserve.Grant, err error) reserve.Grant {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
}

// in says that a grant is of the want, in one of these states.
func in(t *testing.T, what string, g reserve.Grant, w reserve.Want, states ...reserve.State) {
	t.Helper()
	fits := false
	for _, s := range states {
		fits = fits || g.State == s
	}
	if !fits || g.ID != w.ID || g.Rate > w.Rate || g.Kind == reserve.NoKind || g.End.Sub(w.End).Abs() > time.Second {
		t.Errorf("%s of %+v: %+v, want one of %v", what, w, g, states)
	}
}

// listed returns what the list has by this ID.
func (c Case) listed(t *testing.T, id reserve.ID) (reserve.Grant, bool) {
	t.Helper()
	all, err := c.Driver.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		if g.ID == id {
			return g, true
		}
	}
	return reserve.Grant{}, false
}

func (c Case) none(t *testing.T) {
	t.Helper()
	if all, err := c.Driver.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left behind: %+v, %v", all, err)
	}
}

// released says that nothing is left of a grant.
func (c Case) released(t *testing.T, g reserve.Grant) {
	t.Helper()
	if err := c.Driver.Release(t.Context(), g); err != nil {
		t.Fatalf("Release: %v", err)
	}
	for range 2 {
		if err := c.Driver.Release(t.Context(), g); err != nil && !errors.Is(err, reserve.ErrGone) {
			t.Errorf("Release again: %v, want nil or ErrGone", err)
		}
	}
	if _, err := c.Driver.Status(t.Context(), g); !errors.Is(err, reserve.ErrGone) {
		t.Errorf("Status after Release: %v, want ErrGone", err)
	}
	if _, there := c.listed(t, g.ID); there {
		t.Error("it is still listed")
	}
}

// life goes through all verbs, each of them twice.
func (c Case) life(t *testing.T) {
	d, ctx, w := c.Driver, t.Context(), c.want(1)
	if o, err := d.Offer(ctx, w); err != nil || o.Rate > w.Rate || o.Kind == reserve.NoKind {
		t.Errorf("Offer: %+v, %v", o, err)
	}
	c.none(t)
	g := ok(t)(d.Hold(ctx, w))
	in(t, "Hold", g, w, reserve.Held)
	if again := ok(t)(d.Hold(ctx, w)); again != g {
		t.Errorf("Hold again: %+v, first %+v", again, g)
	}
	if l, there := c.listed(t, w.ID); !there || l.State != reserve.Held || l.Handle != g.Handle {
		t.Errorf("held, and listed as %+v", l)
	}
	steps := []struct {
		name   string
		verb   func(context.Context, reserve.Grant) (reserve.Grant, error)
		states []reserve.State
	}{
		{"Commit", d.Commit, []reserve.State{reserve.Committed}},
		{"Activate", d.Activate, []reserve.State{reserve.Activating, reserve.Active}},
		{"Status", d.Status, []reserve.State{reserve.Activating, reserve.Active}},
		{"Deactivate", d.Deactivate, []reserve.State{reserve.Committed}},
		{"Activate", d.Activate, []reserve.State{reserve.Activating, reserve.Active}},
	}
	for _, s := range steps {
		for range 2 {
			g = ok(t)(s.verb(ctx, g))
			in(t, s.name, g, w, s.states...)
		}
		byID := ok(t)(d.Status(ctx, reserve.Grant{ID: w.ID}))
		in(t, "Status by ID after "+s.name, byID, w, s.states...)
	}
	w.End = w.End.Add(time.Minute)
	if r, err := d.Renew(ctx, g, w.End); err == nil {
		g = r
		in(t, "Renew", r, w, reserve.Activating, reserve.Active)
	} else if !errors.Is(err, reserve.ErrUnsupported) {
		t.Errorf("Renew: %v", err)
	}
	c.modify(t, g, w)
	if u, err := d.Usage(ctx, g); err != nil && !errors.Is(err, reserve.ErrUnsupported) {
		t.Errorf("Usage: %+v, %v", u, err)
	}
	c.released(t, g)
}

func (c Case) modify(t *testing.T, g reserve.Grant, w reserve.Want) {
	t.Helper()
	w.Rate /= 2
	m, err := c.Driver.Modify(t.Context(), g, w.Rate)
	switch {
	case !c.Driver.Caps().Modify && !errors.Is(err, reserve.ErrUnsupported):
		t.Errorf("Modify: %v, though Caps say that it can't", err)
	case c.Driver.Caps().Modify && err != nil:
		t.Errorf("Modify: %v", err)
	case err == nil && m.Rate != w.Rate && c.Rate != 0:
		t.Errorf("Modify: %v, want %v", m.Rate, w.Rate)
	}
}

func (c Case) abort(t *testing.T) {
	for commit := range 2 {
		g := ok(t)(c.Driver.Hold(t.Context(), c.want(2)))
		if commit == 1 {
			g = ok(t)(c.Driver.Commit(t.Context(), g))
		}
		if err := c.Driver.Abort(t.Context(), g); err != nil {
			t.Fatalf("Abort: %v", err)
		}
		if err := c.Driver.Abort(t.Context(), g); err != nil && !errors.Is(err, reserve.ErrGone) {
			t.Errorf("Abort again: %v", err)
		}
		if _, err := c.Driver.Status(t.Context(), g); !errors.Is(err, reserve.ErrGone) {
			t.Errorf("Status after Abort: %v", err)
		}
	}
	c.none(t)
}

// refused are ends that have passed.
func (c Case) refused(t *testing.T) {
	w := c.want(3)
	for _, end := range []overlay.Instant{0, 1, c.Now().Add(-time.Second)} {
		w.End = end
		if g, err := c.Driver.Hold(t.Context(), w); !errors.Is(err, reserve.ErrRefused) {
			t.Errorf("Hold until %v: %+v, %v, want ErrRefused", end.Time(), g, err)
		}
	}
	c.none(t)
	g := ok(t)(c.Driver.Hold(t.Context(), c.want(3)))
	if _, err := c.Driver.Renew(t.Context(), g, c.Now().Add(-time.Second)); !errors.Is(err, reserve.ErrRefused) && !errors.Is(err, reserve.ErrUnsupported) {
		t.Errorf("Renew until the past: %v", err)
	}
	c.released(t, g)
}

// gone is what was never there.
func (c Case) gone(t *testing.T) {
	d, ctx := c.Driver, t.Context()
	g := reserve.Grant{ID: c.want(4).ID, State: reserve.Committed, Rate: reserve.Mbit, End: c.Now().Add(time.Minute)}
	for name, verb := range map[string]func(context.Context, reserve.Grant) (reserve.Grant, error){
		"Commit": d.Commit, "Activate": d.Activate, "Deactivate": d.Deactivate, "Status": d.Status,
	} {
		if _, err := verb(ctx, g); !errors.Is(err, reserve.ErrGone) {
			t.Errorf("%s: %v, want ErrGone", name, err)
		}
	}
	if err := d.Release(ctx, g); err != nil && !errors.Is(err, reserve.ErrGone) {
		t.Errorf("Release: %v", err)
	}
	c.none(t)
}

// full is one more than there is room for.
func (c Case) full(t *testing.T) {
	if c.Rate == 0 {
		return
	}
	var held []reserve.Grant
	for n := range byte(3) {
		held = append(held, ok(t)(c.Driver.Hold(t.Context(), c.want(10+n))))
	}
	var r reserve.Refusal
	_, err := c.Driver.Hold(t.Context(), c.want(20))
	if !errors.Is(err, reserve.ErrFull) {
		t.Errorf("a fourth: %v, want ErrFull", err)
	} else if errors.As(err, &r) && (r.Free < 0 || r.Free >= c.Rate) {
		t.Errorf("a fourth of %v is refused with %v free", c.Rate, r.Free)
	}
	if ok(t)(c.Driver.Hold(t.Context(), c.want(11))) != held[1] {
		t.Error("when it is full, asking again for what is held isn't answered the same")
	}
	if c.Driver.Caps().Modify {
		if _, err := c.Driver.Modify(t.Context(), held[0], 2*c.Rate); !errors.Is(err, reserve.ErrFull) {
			t.Errorf("twice the rate: %v, want ErrFull", err)
		}
	}
	c.released(t, held[0])
	held[0] = ok(t)(c.Driver.Hold(t.Context(), c.want(20)))
	for _, g := range held {
		c.released(t, g)
	}
}

// ended goes with Reap, and nothing else does.
func (c Case) ended(t *testing.T) {
	early, late := c.want(5), c.want(6)
	late.End = early.End.Add(time.Hour)
	gone, stays := ok(t)(c.Driver.Hold(t.Context(), early)), ok(t)(c.Driver.Hold(t.Context(), late))
	if err := c.Driver.Reap(t.Context(), c.Now()); err != nil {
		t.Fatal(err)
	}
	if _, there := c.listed(t, gone.ID); !there {
		t.Error("reaped before its end")
	}
	if err := c.Driver.Reap(t.Context(), early.End.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, there := c.listed(t, gone.ID); there {
		t.Error("not reaped after its end")
	}
	if _, there := c.listed(t, stays.ID); !there {
		t.Error("reaped long before its end")
	}
	c.released(t, stays)
}
