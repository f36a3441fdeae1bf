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

// An agent whose clock is minutes behind refuses what agents say whose clocks are minutes
// ahead. When it is right the next comparison finds that, though something always changes in
// the network and the last comparison was a moment ago.
func TestClockComesRight(t *testing.T) {
	x, y := NewStore(agentID(1), testKey(7), 1, Limits{}), NewStore(agentID(2), testKey(7), 2, Limits{})
	const behind = -8 * time.Minute
	early := signed(3, KindMember, version(5*60), start+7200, memberBody("early"))
	for n := 4; n < 60; n++ {
		for _, s := range []*Store{x, y} {
			s.Load(at(0), [][]byte{member(n, -600).Bytes()})
		}
	}
	y.Load(at(0), [][]byte{early.Bytes()})
	exchange := func(xs, ys overlay.Instant) (length int) {
		for busy := true; busy; {
			busy = false
			talk := func(to *Store, now overlay.Instant) func(overlay.AgentID, []byte) {
				from := map[*Store]*Store{x: y, y: x}[to]
				return func(_ overlay.AgentID, msg []byte) {
					busy, length = true, length+len(msg)
					_ = to.Receive(now, from.self, msg)
				}
			}
			x.Flush(talk(y, ys))
			y.Flush(talk(x, xs))
		}
		return length
	}
	changes := func(after int, off time.Duration) {
		for _, s := range []*Store{x, y} {
			s.Load(at(after), [][]byte{member(60, after-600).Bytes()})
		}
		exchange(at(after).Add(off), at(after))
		x.neighbours[0].hash = true // as by Tick
	}
	x.Connected(at(0).Add(behind), y.self)
	y.Connected(at(0), x.self)
	for after := range 10 {
		changes(after, behind)
		exchange(at(after).Add(behind), at(after))
	}
	if x.known(early.Origin) {
		t.Fatal("it wasn't refused")
	}
	changes(10, 0)
	length := exchange(at(10), at(10))
	if x.Hash() != y.Hash() {
		t.Error("the record wasn't found")
	}
	if length > 2000 {
		t.Errorf("a record of %d bytes was found by %d bytes", len(early.Bytes()), length)
	}
}
