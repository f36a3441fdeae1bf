package discovery

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"farlan/overlay"
)

// Members of other areas are sought by name as they are by id: what is asked for is a hash of the
// name, where else a brief name stands, and a gateway answers with the records of those of its
// area that are called so. Names are what members say themselves, so there may be several of one
// name: whoever seeks a name gets all who answer, up to maxNamesakes, and chooses by id.

// maxNamesakes is how many members are told of, and taken, by one name; others aren't.
const maxNamesakes = 4

// namesakes are those who answered to a name that was sought.
type namesakes struct {
	at  overlay.Instant
	ids []overlay.AgentID
}

// nameKey is what is asked for to find a name.
func nameKey(name string) Brief {
	h := sha256.Sum256(append([]byte("farlan name 1"), name...))
	return Brief(binary.BigEndian.Uint64(h[:]))
}

// SeekName asks a neighbour, a gateway of another area, for the member records of those there that
// have a name. Those that come in the next seconds Named returns, and Member knows.
func (s *Store) SeekName(now overlay.Instant, gateway overlay.AgentID, name string) {
	i, ok := s.neighbourAt(gateway)
	if !ok || name == "" {
		return
	}
	key, a := nameKey(name), &s.areas
	if len(a.named) >= maxGuests || a.named == nil {
		a.named = make(map[Brief]*namesakes)
	}
	if x := a.named[key]; x == nil || now.Sub(x.at) > seekFor {
		a.named[key] = &namesakes{at: now}
	}
	if n := s.neighbours[i]; len(n.seeks) < seekBurst && !slices.Contains(n.seeks, key) {
		n.seeks = append(n.seeks, key)
	}
}

// Named returns the agents that answered when a name was sought last, ascending.
func (s *Store) Named(name string) []overlay.AgentID {
	if x := s.areas.named[nameKey(name)]; x != nil {
		return slices.Clone(x.ids)
	}
	return nil
}

// tellNamed answers a neighbour with the records of those members of this area whose name is
// sought.
func (s *Store) tellNamed(n *neighbour, b Brief) {
	count := 0
	for _, id := range s.Origins() {
		if count >= maxNamesakes {
			return
		}
		k := key{id, KindMember}
		if m, ok := s.Member(id); ok && s.entry(k) != nil && m.Area == s.areas.number && !m.Left && nameKey(m.Name) == b {
			n.records.add(k)
			count++
		}
	}
}

// calledFor returns those who answered to a name of which r may be the next, nil if nobody seeks
// that name, or enough answered.
func (s *Store) calledFor(now overlay.Instant, r Record) *namesakes {
	if r.Kind != KindMember || len(s.areas.named) == 0 {
		return nil
	}
	m, err := ParseMember(r.Body)
	if err != nil {
		return nil
	}
	x := s.areas.named[nameKey(m.Name)]
	if x == nil || now.Sub(x.at) > seekFor || len(x.ids) >= maxNamesakes && !slices.Contains(x.ids, r.Origin) {
		return nil
	}
	return x
}

// add notes one who answered.
func (x *namesakes) add(id overlay.AgentID) {
	if x == nil {
		return
	}
	if i, ok := slices.BinarySearchFunc(x.ids, id, overlay.AgentID.Compare); !ok {
		x.ids = slices.Insert(x.ids, i, id)
	}
}
