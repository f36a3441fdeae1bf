package discovery

import (
	"bytes"
	"slices"
)

// archiveGeneration is how many records an Archive holds of a generation: as many
// again as thousands of agents renew while a record spreads.
const archiveGeneration = 1 << 16

// An Archive holds records that were verified, for all stores of a process, so that each
// is verified, parsed and kept once instead of once a store: for simulators, in which
// thousands of stores get the same records. It forgets the older half of them when there
// are too many, and they are verified anew. The zero Archive is ready; a nil one holds
// nothing. Stores that share one must not be used concurrently.
type Archive struct {
	young, old map[archived]*entry
}

// An archived record's name. Two of one name differ only when an agent runs twice.
type archived struct {
	key
	version uint64
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
	name := archived{key{r.Origin, r.Kind}, r.Version}
	e := a.young[name]
	if e == nil {
		e = a.old[name]
	}
	if e == nil || !bytes.Equal(e.record.encoded, r.encoded) || !slices.Contains(contexts, e.record.context) {
		return nil
	}
	return e
}

// add adds the entry of a verified record, and returns it.
func (a *Archive) add(e *entry) *entry {
	if a == nil {
		return e
	}
	if len(a.young) >= archiveGeneration || a.young == nil {
		a.young, a.old = make(map[archived]*entry), a.young
	}
	a.young[archived{key{e.record.Origin, e.record.Kind}, e.record.Version}] = e
	return e
}
