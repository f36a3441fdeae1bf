package measure

import (
	"math/rand/v2"
	"testing"
	"time"

	"farlan/overlay"
)

// A stream is a path over which frames go, and acknowledgements come back: the other
// end's clock is another one, and it takes its time.
type stream struct {
	*Path
	now          overlay.Instant
	sent         uint64
	there, back  time.Duration
	ahead, holds time.Duration // of the other clock
}

// frame sends one, and returns its acknowledgement, which comes at a time.
func (s *stream) frame() (at overlay.Instant, a overlay.Ack) {
	s.sent++
	s.Sent(s.now, s.sent)
	came := s.now.Add(s.there + s.ahead)
	a = overlay.Ack{
		Highest: s.sent - 1, Count: s.sent, Stamp: came, Sent: Micros(came.Add(s.holds)), HoldMicros: uint32(s.holds.Microseconds()),
	}
	return s.now.Add(s.there + s.holds + s.back), a
}

// run has a frame sent each every, for some time.
func (s *stream) run(every, during time.Duration) {
	for end := s.now.Add(during); s.now.Before(end); s.now = s.now.Add(every) {
		at, a := s.frame()
		s.Acked(at, a)
	}
}

// Frames alone tell the round trip, whatever the clocks say and however long an
// acknowledgement waits; they tell a step within 2 s, and a queue on the way there.
func TestFramesTellRoundTrips(t *testing.T) {
	s := &stream{Path: NewPath(start), now: start, there: 40 * ms, back: 10 * ms, ahead: 3 * time.Hour, holds: 9 * ms}
	s.run(20*ms, 5*time.Second)
	if rtt, ok := s.RTT(s.now); !ok || rtt != 50*ms {
		t.Fatalf("a round trip of %v, %v", rtt, ok)
	}
	s.there += 7 * ms
	s.run(20*ms, 500*ms)
	if forth, back := s.Queues(); forth != 7*ms || back != 0 {
		t.Errorf("queues of %v and %v", forth, back)
	}
	s.there -= 7 * ms
	s.run(20*ms, time.Second)
	s.there = 110 * ms
	s.run(20*ms, 2*time.Second)
	if rtt, _ := s.RTT(s.now); rtt != 120*ms {
		t.Errorf("2 s after the step: %v", rtt)
	}
	if srtt, _, _ := s.Smoothed(); (srtt - 120*ms).Abs() > 2*ms {
		t.Errorf("smoothed: %v", srtt)
	}
}

// An acknowledgement of more than the frame that was noted says nothing of it; the next
// one is noted then. One of which nothing is heard is given up.
func TestFrameIsPassedOver(t *testing.T) {
	s := &stream{Path: NewPath(start), now: start, there: 10 * ms, back: 10 * ms, holds: ms}
	_, _ = s.frame()
	s.now = s.now.Add(ms)
	at, a := s.frame()
	if r := s.Acked(at, a); r != Quiet || s.Sampled() != 0 {
		t.Fatalf("%v", r)
	}
	_, _ = s.frame() // is lost, and all with it
	s.now = s.now.Add(framePatience)
	at, a = s.frame()
	if r := s.Acked(at, a); r != Sampled {
		t.Fatalf("%v", r)
	}
	if r := s.Acked(at, a); r != Quiet {
		t.Errorf("the same again: %v", r)
	}
	s.now = s.now.Add(time.Second)
	_, _ = s.frame()
	s.Restart() // counters begin anew
	if r := s.Acked(at, a); r != Quiet {
		t.Errorf("of the session before: %v", r)
	}
}

// What can't be is odd, or tells nothing; nothing that a peer says makes a round trip of
// less than nothing.
func TestFrameLies(t *testing.T) {
	s := &stream{Path: NewPath(start), now: start, there: 10 * ms, back: 10 * ms, holds: ms}
	at, a := s.frame()
	a.HoldMicros = 1e6
	if r := s.Acked(at, a); r != Odd {
		t.Errorf("held for longer than it took: %v", r)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		s.now = s.now.Add(time.Duration(r.IntN(400)) * ms)
		at, a := s.frame()
		switch r.IntN(4) {
		case 0:
			a.HoldMicros = r.Uint32()
		case 1:
			a.Sent = r.Uint32()
		case 2:
			a.Highest = r.Uint64() >> r.IntN(64)
		}
		s.Acked(at, a)
		if rtt, ok := s.RTT(s.now); ok && (rtt <= 0 || rtt > 40*ms) {
			t.Fatalf("a round trip of %v", rtt)
		}
		if forth, back := s.Queues(); forth < 0 || back < 0 || forth > onewayJump || back > onewayJump {
			t.Fatalf("queues of %v and %v", forth, back)
		}
	}
}
