package discovery

import (
	"bytes"
	"slices"
)

const (
	// mostArchived is of how many agents and kinds an Archive holds records.
	mostArchived = 1 << 16
	// mostFormer is how many older ones it holds besides: who tells each something else has
	// many on their way at once.
	mostFormer = 64
)

// An Archive holds records that were verified, for all stores of a process, so that each
// is verified, parsed and kept once instead of once a store: for simulators, in which
// thousands of stores get the same records. It keeps the last two of an agent and kind, as
// there are two while a record spreads, and a few older ones, and forgets all when there are
// too many; what comes again is verified anew. The zero Archive is ready; a nil one holds
// nothing. Stores that share one must not be used concurrently.
type Archive struct {
	last   map[key]*[2]*entry // the newer one first
	former [mostFormer]*entry // of these, in the order in which newer ones came
	next   int                // index into former

	shelves, oldShelves map[[32]byte]*shelf
}

// Share makes the store look for records in an archive before it verifies them, and put
// there what it verified.
func (s *Store) Share(a *Archive) { s.archive = a }

// find returns the entry of the record that r, decoded but not verified, is a copy of, if
// it was verified in one of the contexts; nil if not.
func (a *Archive) find(r Record, contexts [][32]byte) *entry {
	if a == nil {
		return nil
	}
	last := a.last[key{r.Origin, r.Kind}]
	if last == nil {
		return nil
	}
	is := func(e *entry) bool {
		return e != nil && e.record.Version == r.Version && bytes.Equal(e.record.encoded, r.encoded) && slices.Contains(contexts, e.record.context)
	}
	for _, e := range last {
		if is(e) {
			return e
		}
	}
	if i := slices.IndexFunc(a.former[:], is); i >= 0 {
		return a.former[i]
	}
	return nil
}

// add adds the entry of a verified record, and returns it.
func (a *Archive) add(e *entry) *entry {
	if a == nil {
		return e
	}
	if len(a.last) >= mostArchived || a.last == nil {
		a.last = make(map[key]*[2]*entry)
	}
	k := key{e.record.Origin, e.record.Kind}
	last := a.last[k]
	if last == nil {
		last = new([2]*entry)
		a.last[k] = last
	}
	if last[1] != nil {
		a.former[a.next], a.next = last[1], (a.next+1)%mostFormer
	}
	last[0], last[1] = e, last[0]
	return e
}

// Mirror makes the store hold all records that another one of the same archive and network
// holds, as Load of what that one dumps would, but at once and without Changes: for simulators
// in which thousands of agents remember the same. The store must be empty, its network simple.
func (s *Store) Mirror(of *Store) {
	if s.shelf.len() > 0 || s.members != nil || of.members != nil {
		return
	}
	of.share()
	s.shelf, s.bytes, s.hash = of.shelf, of.bytes, of.hash
	s.areas.hash, s.areas.sums = of.areas.hash, of.areas.sums
	s.nextExpiry = of.nextExpiry
	for i, _ := s.shelf.find(key{s.self, 0}); i < s.shelf.len() && s.shelf.key(i).origin == s.self; i++ {
		s.own = max(s.own, s.shelf.entries[i].record.Version)
	}
}
