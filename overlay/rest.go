package overlay

// An agent among many keeps in session with few of them only. A session that neither of
// two wants to keep isn't renewed, and ends with its keys, at both at the same time and
// without a word. As long as one of the two wants it that one renews it, and the other
// answers: so they needn't agree.

// Rest says whether no session with a member is wanted now: then none is begun or renewed,
// but one that there is goes on until its keys expire, and one that the member begins is
// answered. Members are wanted that Rest was never called for. Renew begins one all the same.
func (s *Sessions) Rest(now Instant, id AgentID, rest bool) {
	c := s.contact(id)
	if c == nil || c.rests == rest {
		return
	}
	c.rests = rest
	switch {
	case rest:
		c.begin, c.tries, c.late = 0, 0, lateCopies{}
	case c.current == nil && c.begin == 0:
		c.begin, c.tries = now, 0
		if s.self.Compare(id) > 0 {
			c.begin = now.Add(yieldTime)
		}
		s.pulse.expect(c.begin)
	}
}
