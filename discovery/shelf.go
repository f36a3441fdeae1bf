package discovery

import (
	"slices"
	"time"

	"farlan/overlay"
)

// A shelf holds a store's records, ascending by key. Stores that share an archive share the
// shelves of equal records, too: of ten thousand stores that hold a thousand records each,
// most hold the same. A shared shelf isn't changed, but copied first.
type shelf struct {
	names   []Brief  // of the origins, to find them fast
	entries []*entry // in the same order
	origins int      // how many there are
	shared  bool
}

func (e *entry) key() key { return key{e.record.Origin, e.record.Kind} }

func (x *shelf) len() int { return len(x.entries) }

func (x *shelf) key(i int) key { return x.entries[i].key() }

// find returns where the record of k is, or would be.
func (x *shelf) find(k key) (int, bool) {
	name := BriefOf(k.origin)
	low, high := 0, len(x.names)
	for low < high {
		if m := (low + high) / 2; x.names[m] < name {
			low = m + 1
		} else {
			high = m
		}
	}
	for ; low < len(x.names) && x.names[low] == name; low++ {
		if r := &x.entries[low].record; r.Kind >= k.kind && r.Origin == k.origin || r.Origin.Compare(k.origin) > 0 {
			return low, r.Kind == k.kind && r.Origin == k.origin
		}
	}
	return low, false
}

// has says whether there is a record of an origin around i, where one of it would be.
func (x *shelf) has(i int, k key) bool {
	return i < len(x.entries) && x.entries[i].record.Origin == k.origin || i > 0 && x.entries[i-1].record.Origin == k.origin
}

// keys returns all keys.
func (x *shelf) keys() keySet {
	all := make(keySet, 0, len(x.entries))
	for _, e := range x.entries {
		all = append(all, e.key())
	}
	return all
}

// own returns x if it may be changed, else a copy.
func (x *shelf) own() *shelf {
	if !x.shared {
		return x
	}
	return &shelf{names: slices.Clone(x.names), entries: slices.Clone(x.entries), origins: x.origins}
}

// put puts a record there in place of the one of its key.
func (x *shelf) put(e *entry) {
	k := e.key()
	i, ok := x.find(k)
	if ok {
		x.entries[i] = e
		return
	}
	if !x.has(i, k) {
		x.origins++
	}
	x.names = slices.Insert(x.names, i, BriefOf(k.origin))
	x.entries = slices.Insert(x.entries, i, e)
}

// remove takes the record of k out.
func (x *shelf) remove(k key) {
	i, ok := x.find(k)
	if !ok {
		return
	}
	x.names, x.entries = slices.Delete(x.names, i, i+1), slices.Delete(x.entries, i, i+1)
	if !x.has(i, k) {
		x.origins--
	}
}

// shelfGeneration is how many shelves an archive holds of a generation.
const shelfGeneration = 1024

// shelf returns the shelf of the records with a hash, nil if it isn't there.
func (a *Archive) shelf(hash [32]byte) *shelf {
	if a == nil {
		return nil
	}
	if x := a.shelves[hash]; x != nil {
		return x
	}
	x := a.oldShelves[hash]
	if x != nil {
		a.keep(hash, x)
	}
	return x
}

// keep shares a shelf.
func (a *Archive) keep(hash [32]byte, x *shelf) {
	if len(a.shelves) >= shelfGeneration || a.shelves == nil {
		a.shelves, a.oldShelves = make(map[[32]byte]*shelf), a.shelves
	}
	x.shared = true
	a.shelves[hash] = x
}

// shareEvery is how often a store shares a shelf of its own at most: it has to copy it then
// when the next record comes.
const shareEvery = time.Second

// settleShelf shares the store's shelf with other stores from time to time, and takes the one
// that they share.
func (s *Store) settleShelf(now overlay.Instant) {
	if s.archive == nil || s.shelf.shared {
		return
	}
	if s.archive.shelf(s.hash) == nil {
		if since := now.Sub(s.shared); since >= 0 && since < shareEvery {
			return
		}
		s.shared = now
	}
	s.share()
}

// share shares the store's shelf with other stores, or takes the one that they share.
func (s *Store) share() {
	if s.archive == nil || s.shelf.shared {
		return
	}
	if x := s.archive.shelf(s.hash); x != nil {
		s.shelf = x
		return
	}
	x := &shelf{names: slices.Clip(s.shelf.names), entries: slices.Clip(s.shelf.entries), origins: s.shelf.origins}
	s.archive.keep(s.hash, x)
	s.shelf = x
}
