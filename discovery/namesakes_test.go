package discovery

import (
	"slices"
	"testing"
	"time"
)

// A member of another area is found by its name; of several of one name all are told of, as far as
// there aren't too many, and who isn't called so isn't taken.
func TestSeekName(t *testing.T) {
	c := divided(t, 0)
	c.run(t, 10*time.Second)
	s := c.stores[0]
	s.SeekName(c.now, agentID(4), "agent6")
	c.until(t, 5*time.Second, "an answer", func() bool { return len(s.Named("agent6")) == 1 })
	if m, ok := s.Member(agentID(6)); !ok || m.Name != "agent6" || s.Named("agent6")[0] != agentID(6) {
		t.Errorf("%v, %v", m, s.Named("agent6"))
	}
	if m, _ := c.knows(0); len(m) != 4 {
		t.Errorf("the guest is taken for a member: %v", m)
	}
	s.SeekName(c.now, agentID(4), "nobody")
	c.run(t, 2*time.Second)
	if got := s.Named("nobody"); len(got) != 0 {
		t.Errorf("nobody is %v", got)
	}
	r, _ := c.stores[5].Record(agentID(5), KindMember)
	if err := s.Receive(c.now, agentID(4), records(r)); err != nil || len(s.Named("agent5")) > 0 {
		t.Errorf("%v, %v", err, s.Named("agent5"))
	}
}

// A gateway that answers with many members of one name, or with records that it can't have, fills
// nothing; after a while nothing that comes is an answer.
func TestHostileNamesakes(t *testing.T) {
	now := at(0)
	s := NewStore(agentID(2), testKey(7), 1, Limits{})
	s.Connected(now, agentID(1))
	s.Enter(now, 7)
	s.SeekName(now, agentID(1), "lab")
	_ = s.Receive(now, agentID(1), message(sectionAreas, []byte{0, 0, 0, 9}))
	forged := records(signed(4, KindMember, version(0), start+9999, memberBody("lab")))
	forged[len(forged)-1] ^= 1
	if err := s.Receive(now, agentID(1), forged); err == nil {
		t.Error("a forged record is taken")
	}
	for i := 10; i < 30; i++ {
		_ = s.Receive(now, agentID(1), records(signed(i, KindMember, version(0), start+9999, memberBody("lab"))))
		_ = s.Receive(now, agentID(1), records(signed(100+i, KindMember, version(0), start+9999, memberBody("another"))))
	}
	if got := s.Named("lab"); len(got) != maxNamesakes || slices.Contains(got, agentID(4)) {
		t.Errorf("%d answered", len(got))
	}
	if n := len(s.areas.guests); n != maxNamesakes {
		t.Errorf("%d guests", n)
	}
	for i := range 3 * maxGuests {
		s.SeekName(now, agentID(1), string(rune('a'+i)))
	}
	if n := len(s.areas.named); n > maxGuests {
		t.Errorf("%d names are sought", n)
	}
	s.SeekName(now, agentID(1), "late")
	late := now.Add(seekFor + time.Second)
	_ = s.Receive(late, agentID(1), records(signed(31, KindMember, version(0), start+9999, memberBody("late"))))
	if got := s.Named("late"); len(got) > 0 {
		t.Errorf("%v answered late", got)
	}
}
