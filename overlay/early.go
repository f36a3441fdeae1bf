package overlay

import (
	"bytes"
	"slices"
)

// Records of members spread, and of two that have just met the network one may know of
// the other a little earlier, and begin: what comes from an agent that isn't known yet
// is kept for a moment, and answered as soon as its record is there. Otherwise it would
// be sent again after retryFirst.
const (
	// maxEarly bounds the initiations that are kept, one of an agent. Beyond, the
	// oldest is forgotten, and that agent tries again.
	maxEarly = 64
	// earlyLife is how long one is kept: its sender asks the same for as long.
	earlyLife = repeatFor
)

type early struct {
	id   AgentID
	at   Instant
	from Way
	d    []byte
}

// keep keeps an initiation of an agent that isn't known.
func (s *Sessions) keep(now Instant, id AgentID, from Way, d []byte) {
	s.forgetEarly(now, id)
	if len(s.early) == maxEarly {
		s.early = slices.Delete(s.early, 0, 1)
	}
	s.early = append(s.early, early{id, now, from, bytes.Clone(d)})
}

// waitsEarly takes another attempt of an initiation that is kept: ok says that it is one.
func (s *Sessions) waitsEarly(now Instant, from Way, d []byte) (ok bool) {
	q := question(d)
	i := slices.IndexFunc(s.early, func(e early) bool { return question(e.d) == q })
	if i >= 0 {
		s.early[i].at, s.early[i].from = now, from
	}
	return i >= 0
}

// answerEarly answers what an agent that has become known has sent before.
func (s *Sessions) answerEarly(now Instant, id AgentID) {
	i := slices.IndexFunc(s.early, func(e early) bool { return e.id == id && now.Sub(e.at) < earlyLife })
	if i < 0 {
		return
	}
	e := s.early[i]
	s.forgetEarly(now, id)
	_, _ = s.respond(now, e.from, e.d) // if it can't be, the agent asks again
}

// Strangers returns the agents whose attempts are kept: they aren't known yet.
func (s *Sessions) Strangers(now Instant) (ids []AgentID) {
	for _, e := range s.early {
		if now.Sub(e.at) < earlyLife {
			ids = append(ids, e.id)
		}
	}
	return ids
}

// forgetEarly forgets what an agent has sent, and what is too old.
func (s *Sessions) forgetEarly(now Instant, id AgentID) {
	s.early = slices.DeleteFunc(s.early, func(e early) bool { return e.id == id || now.Sub(e.at) >= earlyLife })
}
