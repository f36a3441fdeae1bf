package discovery

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A shelf holds what is put there and not taken out, in order.
func TestShelf(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	x, want := new(shelf), make(map[key]*entry)
	for range 2000 {
		e := &entry{record: Record{Origin: agentID(r.IntN(12)), Kind: Kind(1 + r.IntN(3))}}
		if r.IntN(2) == 0 {
			x.put(e)
			want[e.key()] = e
		} else {
			x.remove(e.key())
			delete(want, e.key())
		}
		origins := make(map[[32]byte]bool)
		for k, e := range want {
			origins[k.origin] = true
			if i, ok := x.find(k); !ok || x.entries[i] != e || x.names[i] != BriefOf(k.origin) {
				t.Fatalf("%v isn't found", k.name())
			}
		}
		if x.len() != len(want) || len(x.names) != len(want) || x.origins != len(origins) || !slices.IsSortedFunc(x.keys(), key.compare) {
			t.Fatalf("%d records of %d origins, want %d of %d", x.len(), x.origins, len(want), len(origins))
		}
	}
}

// Stores with equal records share a shelf, until one of them has another record.
func TestShelvesAreShared(t *testing.T) {
	var a Archive
	var stores [2]*Store
	for i := range stores {
		stores[i] = NewStore(agentID(i), testKey(7), 1, Limits{})
		stores[i].Share(&a)
		for n := 2; n < 9; n++ {
			stores[i].Load(at(0), [][]byte{member(n, 0).Bytes()})
		}
		stores[i].Tick(at(0))
	}
	if stores[0].shelf != stores[1].shelf {
		t.Error("equal records are kept twice")
	}
	stores[0].Publish(at(0), member(0, 0))
	stores[0].Load(at(0), [][]byte{member(3, 1).Bytes()})
	if stores[0].Hash() == stores[1].Hash() || stores[1].shelf.len() != 7 || stores[0].shelf.len() != 8 {
		t.Errorf("%d and %d records", stores[0].shelf.len(), stores[1].shelf.len())
	}
	stores[1].Load(at(0), [][]byte{member(0, 0).Bytes(), member(3, 1).Bytes()})
	for _, s := range stores {
		s.Tick(at(0).Add(shareEvery))
	}
	if stores[0].Hash() != stores[1].Hash() || stores[0].shelf != stores[1].shelf {
		t.Error("equal records are kept twice again")
	}
}
