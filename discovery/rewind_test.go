package discovery

import (
	"testing"
	"time"

	"farlan/overlay"
)

// An agent whose clock was hours ahead is heard again as soon as it is right: what it said
// by the wrong clock, and what others said who were as wrong, is dropped, and it speaks by
// the right one. A little back changes nothing.
func TestClockSetBack(t *testing.T) {
	s := NewStore(agentID(2), testKey(7), 1, Limits{})
	s.Connected(at(0), agentID(3))
	publish := func(now overlay.Instant) uint64 {
		v := s.NextVersion(now)
		s.Publish(now, signed(2, KindMember, v, start+24*3600, memberBody("agent2")))
		return v
	}
	of := func(n int, when overlay.Instant) Record {
		return signed(n, KindMember, uint64(when), start+24*3600, memberBody("x"))
	}
	s.Tick(at(0))
	publish(at(0))
	ahead := at(3 * 3600)
	s.Tick(ahead)
	s.Receive(ahead, agentID(3), records(of(4, ahead), of(5, at(60))))
	wrong := publish(ahead)
	if s.Changes(); len(s.Origins()) != 3 || wrong != uint64(ahead) {
		t.Fatalf("%d origins, version %d", len(s.Origins()), wrong)
	}
	s.Tick(ahead.Add(-setBack + time.Second))
	if c := s.Changes(); len(c) != 0 {
		t.Errorf("a little back: %v", c)
	}
	s.Tick(at(20))
	var gone []int
	for _, c := range s.Changes() {
		if !c.Gone || c.Cause != nil {
			t.Errorf("%+v", c)
		}
		gone = append(gone, number(c.Origin))
	}
	if len(gone) != 2 || len(s.Origins()) != 1 || s.Origins()[0] != agentID(5) || s.NextVersion(at(20)) != uint64(at(20)) {
		t.Errorf("%v gone, %d origins, next version %d", gone, len(s.Origins()), s.NextVersion(at(20)))
	}
	// Who believed it returns it, and then it must be spoken above it.
	s.Receive(at(21), agentID(3), records(signed(2, KindMember, wrong, start+24*3600, memberBody("agent2"))))
	if s.NextVersion(at(21)) != wrong+1 {
		t.Errorf("next version %d, want %d", s.NextVersion(at(21)), wrong+1)
	}
}
