package reserve

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

// What people are shown: to when an owner wants it, what could have been had, which flows are
// known, and why a release isn't confirmed.
func TestShown(t *testing.T) {
	s := newSite(t)
	other := Flow{From: toPeer.From, To: overlay.AgentID{3}}
	pair := Flow{From: toPeer.From, To: toPeer.To, Source: overlay.MAC{2, 1}, Dest: overlay.MAC{2, 2}}
	for _, q := range []Request{
		{Flow: pair, Rate: 50 * Mbit, For: time.Hour},
		{Flow: toPeer, Rate: Mbit, For: time.Minute},
		{Flow: other, Rate: 40 * Mbit, BackRate: 2 * Mbit, For: time.Minute},
	} {
		if _, err := s.Request(s.now, q); err != nil {
			t.Fatal(err)
		}
	}
	begun := s.now
	s.pass(2 * time.Second)
	rows := s.List()
	if rows[0].Until != begun.Add(time.Hour) || rows[0].End != begun.Add(10*time.Minute) || rows[0].Free != 0 || rows[1].Until != begun.Add(time.Minute) {
		t.Errorf("%+v", rows)
	}
	if r := rows[2]; r.Whole != Rejected || r.Free < 8*Mbit || r.Free > 15*Mbit || rows[3].Free > r.Free {
		t.Errorf("%+v", rows[2:])
	}
	if got := s.Flows(toPeer.To); !slices.Equal(got, []Flow{toPeer, pair}) {
		t.Errorf("%+v", got)
	}
	if got := s.Flows(overlay.AgentID{9}); got != nil {
		t.Errorf("%+v", got)
	}
	s.bad = func(_ *site, c Call, r *Result) {
		if c.Verb == DoRelease {
			r.Err = errors.New("the switch is silent")
		}
	}
	if err := s.Release(s.now, rows[0].ID.Reservation); err != nil {
		t.Fatal(err)
	}
	s.turn()
	if r := s.List()[0]; r.State != Orphan || !strings.HasSuffix(r.Reason, "hasn't confirmed its release, and it ends by itself: the switch is silent") {
		t.Errorf("%+v", r)
	}
}
