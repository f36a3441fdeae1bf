package overlay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// Each attempt of an initiation is answered by whoever got none before, and its answer is
// as good as the first one's.
func TestInitiationAgain(t *testing.T) {
	a, b := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true)
	i, first := initiate(t, a, b)
	last := first
	macs := map[[MACLen]byte]bool{HandshakeMAC(first): true}
	for n := range uint32(5) {
		d := i.Again()
		if binary.BigEndian.Uint32(d[attemptAt:]) != n+1 || !b.Genuine(d) || question(d) != question(first) || len(d) != InitiationLen {
			t.Fatalf("attempt %d isn't one", n)
		}
		if !bytes.Equal(d[noiseStart:], first[noiseStart:]) || bytes.Equal(d, last) {
			t.Fatal("another message, or the same datagram")
		}
		macs[HandshakeMAC(d)] = true
		last = d
	}
	if len(macs) != 6 || binary.BigEndian.Uint32(first[attemptAt:]) != 0 {
		t.Errorf("%d MACs of 6 attempts, or the first one changed", len(macs))
	}
	sb, r := respond(t, a, b, last)
	sa, err := i.Finish(3000, r)
	if err != nil || !talk(sa, sb) {
		t.Errorf("the last attempt's answer: %v", err)
	}
}

// sends returns what a sends now.
func (w *world) sends(a *resident) (all [][]byte) {
	a.s.Tick(w.now)
	a.s.Flush(func(_ AgentID, _ Way, d []byte) { all = append(all, bytes.Clone(d)) })
	return all
}

// While an answer is waited for the same is asked again, and answered again by the same;
// what strangers captured gets none.
func TestSessionsRepeat(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.introduce()
	a, b := w.agents[0], w.agents[1]
	var asked, answers [][]byte
	for range 80 {
		for _, d := range w.sends(a) {
			asked = append(asked, d)
			if err := b.s.Receive(w.now, Direct(a.addr), bytes.Clone(d)); err != nil {
				t.Fatal(err)
			}
			if err := b.s.Receive(w.now, Direct(a.addr), bytes.Clone(d)); err == nil {
				t.Error("a replay was taken")
			}
			b.s.Flush(func(_ AgentID, _ Way, d []byte) { answers = append(answers, bytes.Clone(d)) })
		}
		w.now = w.now.Add(100 * time.Millisecond)
	}
	if len(asked) != 4 || len(answers) != 4 { // at 0, 1, 3 and 7 s
		t.Fatalf("asked %d times, answered %d times", len(asked), len(answers))
	}
	for i := range asked {
		if question(asked[i]) != question(asked[0]) || !bytes.Equal(answers[i], answers[0]) {
			t.Errorf("attempt %d is another question, or got another answer", i)
		}
	}
	if len(b.s.index) != 1 || len(a.s.index) != 1 {
		t.Errorf("%d sessions and %d initiations", len(b.s.index), len(a.s.index))
	}

	// Any of the answers does, and the others then nothing.
	if err := a.s.Receive(w.now, Direct(b.addr), answers[3]); err != nil {
		t.Fatal(err)
	}
	if err := a.s.Receive(w.now, Direct(b.addr), answers[0]); err == nil {
		t.Error("an answer was taken twice")
	}
	late := w.again(a, asked[3])
	w.after(a)
	w.run(time.Second)
	w.mustReach()

	// An attempt that was under way for longer than it took to agree gets no answer.
	before := len(b.s.index)
	if err := b.s.Receive(w.now, Direct(a.addr), late); err != nil {
		t.Error(err)
	}
	b.s.Flush(func(AgentID, Way, []byte) { t.Error("it was answered") })
	if len(b.s.index) != before {
		t.Error("it made a session")
	}
}

// again returns another attempt of initiation d of a, as a member can make it.
func (w *world) again(a *resident, d []byte) []byte {
	d = bytes.Clone(d)
	binary.BigEndian.PutUint32(d[attemptAt:], binary.BigEndian.Uint32(d[attemptAt:])+1)
	return signed(a.s.hs, d)
}

// After repeatFor without an answer another initiation is made, and old ones are given up
// one after the other.
func TestSessionsAskAnew(t *testing.T) {
	w := newWorld(t, 2, 2)
	w.introduce()
	a := w.agents[0]
	questions := make(map[[32]byte]Instant)
	for end := w.now.Add(3 * time.Minute); w.now.Before(end); w.now = w.now.Add(100 * time.Millisecond) {
		for _, d := range w.sends(a) {
			at, ok := questions[question(d)]
			if !ok {
				questions[question(d)] = w.now
			} else if w.now.Sub(at) >= repeatFor {
				t.Errorf("asked the same after %v", w.now.Sub(at))
			}
		}
	}
	if n := len(questions); n < 10 || n > 13 || len(a.s.index) > maxPending {
		t.Errorf("%d initiations in three minutes, of which %d are waited for", n, len(a.s.index))
	}
}

// What is kept of answers is bounded, and goes with their sessions; attempts without end
// are answered at a bounded rate.
func TestSessionsAnswersBounded(t *testing.T) {
	w := newWorld(t, 3, 2)
	w.introduce()
	a, b := w.agents[0], w.agents[1]
	d := w.sends(a)[0]
	answered := 0
	for range respondBurst + 200 {
		if err := b.s.Receive(w.now, Direct(a.addr), d); err != nil {
			t.Fatal(err)
		}
		b.s.Flush(func(AgentID, Way, []byte) { answered++ })
		d = w.again(a, d)
	}
	if answered != respondBurst || len(b.s.index) != 1 || len(b.s.answered) != 1 {
		t.Errorf("%d answers at once; %d sessions, %d answers kept", answered, len(b.s.index), len(b.s.answered))
	}
	b.s.Lost(w.now, a.id)
	if len(b.s.answered) != 0 {
		t.Error("an answer is kept without a session")
	}
	for range 2 * maxAnswered {
		b.s.keepAnswer(&Session{}, d, nil)
	}
	if len(b.s.answered) != maxAnswered {
		t.Errorf("%d answers are kept", len(b.s.answered))
	}
}

// Who has answered leaves it to the other one to go on, for a while; then it begins
// itself, as the answer can't arrive.
func TestSessionsYieldToWhoBegan(t *testing.T) {
	w := newWorld(t, 4, 2)
	w.introduce()
	a, b := w.agents[0], w.agents[1]
	w.cut = func(from, _ netip.AddrPort) bool { return from == b.addr }
	w.shaken = newTally()
	w.run(answerPatience)
	if n := len(w.shaken.asked); n != 1 {
		t.Errorf("%d initiations while an answer is under way", n)
	}
	w.run(time.Second)
	if n := len(w.shaken.asked); n != 2 {
		t.Errorf("%d initiations when it doesn't arrive", n)
	}
	w.cut = nil
	w.run(retryMax)
	w.mustReach()
	if a.s.contact(b.id).begin != 0 || b.s.contact(a.id).begin != 0 {
		t.Error("something is left to do")
	}
}

// Two behind NATs that let in only whom they have sent to, without anybody to relay, meet
// by what both send, whether they begin together or one waits for the other.
func TestSessionsThroughTwoNATs(t *testing.T) {
	for _, together := range []bool{true, false} {
		for seed := range uint64(4) {
			w := newWorld(t, seed, 2)
			w.loss = 0.1
			type hole struct{ from, to netip.AddrPort }
			opened := make(map[hole]bool)
			w.cut = func(from, to netip.AddrPort) bool {
				opened[hole{from, to}] = true
				return !opened[hole{to, from}]
			}
			w.introduce()
			if together {
				w.agents[0].s.Renew(w.now, w.agents[1].id)
				w.agents[1].s.Renew(w.now, w.agents[0].id)
			}
			took := time.Duration(0)
			for ; w.reaches(w.agents[0], w.agents[1]) != nil || w.reaches(w.agents[1], w.agents[0]) != nil; took += 10 * time.Millisecond {
				if took > 10*time.Second {
					t.Fatalf("seed %d: not within %v", seed, took)
				}
				w.run(10 * time.Millisecond)
			}
			t.Logf("seed %d: both begin at once: %v; they meet after %v", seed, together, took)
		}
	}
}
