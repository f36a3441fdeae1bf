package sim

import (
	"fmt"
	"strings"
	"time"

	"farlan/discovery"
	"farlan/overlay"
)

// Agreed says whether all agents that run have the same records, but for those that were
// published within the last flood and may be on their way.
func (s *Sim) Agreed() bool {
	_, same := s.hash()
	return same || s.lacks(func(*agent, spoken) bool { return false })
}

// A spoken record is one that all must have, or a newer one.
type spoken struct {
	agent   int32
	origin  overlay.AgentID
	kind    discovery.Kind
	version uint64
}

// lacks calls each for agents that run and lack records of others that they must have by now,
// until it is false, and says whether it never was. Of agents with the same records one is
// looked at.
func (s *Sim) lacks(each func(a *agent, of spoken) bool) bool {
	var all []spoken
	for _, b := range s.agents {
		for k := range b.said {
			if version := b.settled(k); version != 0 {
				all = append(all, spoken{b.n, b.id, discovery.KindMember + discovery.Kind(k), version})
			}
		}
	}
	seen := make(map[[32]byte]bool)
	for _, a := range s.agents {
		if !a.runs() || seen[a.store.Hash()] {
			continue
		}
		seen[a.store.Hash()] = true
		for _, x := range all {
			if r, ok := a.store.Record(x.origin, x.kind); (!ok || r.Version < x.version) && !each(a, x) {
				return false
			}
		}
	}
	return true
}

// lacking says what agents lack by now.
func (s *Sim) lacking() string {
	const most = 5
	var all []string
	s.lacks(func(a *agent, of spoken) bool {
		all = append(all, fmt.Sprintf("agent %d lacks the %v record of agent %d", a.n, of.kind, of.agent))
		return len(all) <= most
	})
	if len(all) > most {
		all[most] = "and so on"
	}
	return strings.Join(all, ", ")
}

// settled returns the version of the newest record of a kind that all must have by now, 0 if
// there is none, and forgets older ones.
func (a *agent) settled(kind int) (version uint64) {
	said := a.said[kind]
	for len(said) > 1 && a.now.Sub(said[1].at) >= flood {
		said = said[1:]
	}
	a.said[kind] = said
	if len(said) == 0 || a.now.Sub(said[0].at) < flood {
		return 0
	}
	return said[0].version
}

// Same says whether all agents that run have the same records.
func (s *Sim) Same() bool {
	_, ok := s.hash()
	return ok
}

// hash returns the hash of the records of all agents that run; ok is false if it isn't the
// same.
func (s *Sim) hash() (hash [32]byte, ok bool) {
	for _, a := range s.agents {
		switch {
		case !a.runs():
		case !ok:
			hash, ok = a.store.Hash(), true
		case a.store.Hash() != hash:
			return hash, false
		}
	}
	return hash, ok
}

// Until goes on until something is so, and returns how long that took: it is looked at
// ten times a second, for at most some time.
func (s *Sim) Until(limit time.Duration, is func() bool) (took time.Duration, ok bool) {
	begin := s.now.Sub(beginning)
	for took < limit {
		if is() {
			return took, true
		}
		took += 100 * time.Millisecond
		s.Run(begin + took)
	}
	return took, is()
}
