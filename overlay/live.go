package overlay

// A Live session can open datagrams.
type Live struct {
	Session *Session
	Current bool // frames are sent with it
	Waiting bool // the first datagram on it must be reported to Heard
	Way     Way  // that they take, if Current
}

// Live calls yield for every session, in the order of the members' ids. yield
// must not change the Sessions.
func (s *Sessions) Live(yield func(Live)) {
	for _, c := range s.contacts {
		if c.current != nil {
			yield(Live{Session: c.current, Current: true, Way: c.way})
		}
		for _, e := range c.older {
			yield(Live{Session: e})
		}
		for _, e := range c.unconfirmed {
			yield(Live{Session: e, Waiting: true})
		}
	}
}
