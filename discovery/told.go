package discovery

import (
	"slices"

	"farlan/overlay"
)

// Links returns the links that an agent tells, ascending by peer. Those to agents of
// whom there is no record are left out, and those that are relayed: they are rows of the
// map, but no links.
func (s *Store) Links(id overlay.AgentID) ([]Link, bool) {
	told, _, ok := s.Told(id)
	if !ok {
		return nil, false
	}
	links := make([]Link, 0, len(told.Rows))
	for _, r := range told.Rows {
		if peer, known := s.Find(r.Peer); known && !r.Relayed {
			links = append(links, Link{peer, r.Pair, r.Intent})
		}
	}
	return links, true
}

// Told returns what an agent tells of the map, and when by its clock it did. The rows
// are read once a record, and must not be changed.
func (s *Store) Told(id overlay.AgentID) (l Links, at overlay.Instant, ok bool) {
	return s.rows(key{id, KindLinks})
}

// Backbone returns what a gateway tells of its links with others, as Told.
func (s *Store) Backbone(id overlay.AgentID) (l Links, at overlay.Instant, ok bool) {
	return s.rows(key{id, KindBackbone})
}

func (s *Store) rows(k key) (l Links, at overlay.Instant, ok bool) {
	e := s.entry(k)
	if e == nil {
		return Links{}, 0, false
	}
	at = e.record.made()
	if e.links == nil {
		if l, err := ParseLinks(e.record.Body, at); err == nil {
			e.links = &l
		} else {
			return Links{}, 0, false
		}
	}
	return *e.links, at, true
}

// Sought returns the agent with a brief name whose member record came because it was sought.
func (s *Store) Sought(b Brief) (id overlay.AgentID, ok bool) {
	if e := s.areas.guests[b]; e != nil {
		return e.record.Origin, true
	}
	return id, false
}

// Dismiss forgets the member record of an agent that was sought.
func (s *Store) Dismiss(b Brief) { delete(s.areas.guests, b) }

// Find returns the agent with a brief name of whom there is a record. When there are
// several, which nobody can bring about, there is none.
func (s *Store) Find(b Brief) (id overlay.AgentID, ok bool) {
	i, _ := slices.BinarySearch(s.shelf.names, b)
	if i == s.shelf.len() || s.shelf.names[i] != b {
		return id, false
	}
	id = s.shelf.key(i).origin
	for ; i < s.shelf.len() && s.shelf.names[i] == b; i++ {
		if s.shelf.key(i).origin != id {
			return overlay.AgentID{}, false
		}
	}
	return id, true
}
