package overlay

import (
	"slices"
	"time"
)

// Datagrams of handshakes get lost, and machines that have much to do answer late. So an
// agent that waits for an answer sends its initiation again, with another number: what
// costs is to make one and to answer one, and a member that has answered sends the same
// answer again. As long as an answer is under way, only one of the two begins.
const (
	// repeatFor is how long an initiation is sent again rather than a new one.
	repeatFor = retryMax
	// maxAnswered bounds the initiations whose answers are kept, 1.2 kB each until
	// they are confirmed. Beyond, the oldest is forgotten: to be asked that again costs
	// as much as to be asked something new.
	maxAnswered = 256
	// answerPatience is how long an agent that has answered waits for the first datagram
	// on the session before it begins itself, if it was to begin: the other one asks
	// again twice meanwhile.
	answerPatience = 3500 * time.Millisecond
	// An agent that calls Tick later than it is to by lateTick has more to do than it can.
	// What is due then, or at the next Tick, waits until that is over, for busyPatience at
	// most.
	lateTick     = 200 * time.Millisecond
	busyPatience = 4 * time.Second
)

// An answered initiation.
type answered struct {
	question [32]byte
	session  *Session
	d        []byte // the answer; nil once the session is confirmed
}

// answeredBefore takes another attempt of an initiation that was answered: ok says that
// it is one. The same answer goes back, unless the session was confirmed meanwhile.
func (s *Sessions) answeredBefore(now Instant, from Way, d []byte) (ok bool) {
	q := question(d)
	i := slices.IndexFunc(s.answered, func(a answered) bool { return a.question == q })
	if i >= 0 && s.answered[i].d != nil && s.answers.Allow(now) {
		s.out = append(s.out, outgoing{s.answered[i].session.Peer(), from, s.answered[i].d})
	}
	return i >= 0
}

// keepAnswer keeps the answer to initiation d.
func (s *Sessions) keepAnswer(session *Session, d, answer []byte) {
	if len(s.answered) == maxAnswered {
		s.answered = slices.Delete(s.answered, 0, 1)
	}
	s.answered = append(s.answered, answered{question(d), session, answer})
}

// answerArrived forgets the answer that made a session, not that there was one: attempts
// that were under way for longer are known by that.
func (s *Sessions) answerArrived(session *Session) {
	for i := range s.answered {
		if s.answered[i].session == session {
			s.answered[i].d = nil
		}
	}
}

// forgetAnswer forgets an answer with its session.
func (s *Sessions) forgetAnswer(session *Session) {
	s.answered = slices.DeleteFunc(s.answered, func(a answered) bool { return a.session == session })
}

// ask returns an initiation to c: one that waits for an answer already, once more, or
// another one.
func (s *Sessions) ask(now Instant, c *contact) (p *Initiation, d []byte, err error) {
	secrets := s.hs.turn(c.tries)
	for _, p := range slices.Backward(c.pending) {
		if p.secrets == secrets && p.peerStatic == c.static && now.Sub(p.started) < repeatFor {
			return p, p.Again(), nil
		}
	}
	index, err := s.newIndex()
	if err != nil {
		return nil, nil, err
	}
	if p, d, err = s.hs.try(now, secrets, c.id, c.static, index, s.rand); err != nil {
		return nil, nil, err // a static key that isn't one; the next record may mend it
	}
	if len(c.pending) == maxPending {
		s.abandon(c, 1)
	}
	c.pending = append(c.pending, p)
	s.index[index] = c
	return p, d, nil
}

// yield puts off what c wants to begin, as the member has begun: its session is confirmed
// as soon as the answer is there. Who looks for a way to the member goes on.
func (c *contact) yield(now Instant) {
	if c.begin != 0 && !c.soon {
		c.begin = max(c.begin, now.Add(answerPatience))
	}
}

// A pulse is how Tick is called.
type pulse struct {
	next       Instant // at the latest, 0 it needn't
	late, busy bool    // last time; then or the time before
}

// expect notes that Tick is to be called at an instant.
func (p *pulse) expect(at Instant) {
	if p.next == 0 || at.Before(p.next) {
		p.next = at
	}
}

// ticked notes that Tick was called.
func (p *pulse) ticked(now Instant) {
	late := p.next != 0 && now.Sub(p.next) > lateTick
	p.late, p.busy = late, late || p.late
}

// waits says whether something that was due at an instant waits, as this agent has more to
// do than it can: what makes it needless may lie in its mailbox, and is taken before the
// next Tick.
func (p *pulse) waits(now, due Instant) bool {
	return p.busy && now.Sub(due) < busyPatience
}
