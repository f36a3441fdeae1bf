package discovery

import (
	"testing"
	"time"

	"farlan/overlay"
)

// Where nothing changes, hashes become rare; after a change they come often again.
func TestGossipRests(t *testing.T) {
	s := NewStore(agentID(2), testKey(7), 1, Limits{})
	s.Publish(at(0), member(2, 0))
	s.Connected(at(0), agentID(1))
	hashes := func(from, to time.Duration) (n int) {
		for after := from; after < to; after += time.Second {
			s.Tick(at(0).Add(after))
			s.Flush(func(_ overlay.AgentID, msg []byte) {
				if describe(msg) == "hash" {
					n++
				}
			})
		}
		return n
	}
	often := hashes(0, time.Minute)
	rarely := hashes(30*time.Minute, 60*time.Minute)
	_ = s.Receive(at(3600), agentID(1), records(signed(1, KindMember, version(3600), start+7200, memberBody("one"))))
	again := hashes(time.Hour, time.Hour+time.Minute)
	if often < 5 || often > 16 || rarely < 10 || rarely > 22 || again < 5 || again > 16 {
		t.Errorf("%d in the first minute, %d in the second half hour, %d in the minute after a change", often, rarely, again)
	}
}
