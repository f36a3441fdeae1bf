package discovery

import "maps"

// roomy is how much room a table or a keySet keeps when it is empty: all but what comes
// and goes at a start.
const roomy = 64

// A table is a map from keys that gives back its room when most of what was in it is gone.
// Maps keep theirs, and when an agent starts all records there are go through a store's. The
// zero table is ready.
type table[V any] struct {
	at   map[key]V
	most int // how many there were since it was made
}

func (t *table[V]) len() int { return len(t.at) }

func (t *table[V]) get(k key) (V, bool) {
	v, ok := t.at[k]
	return v, ok
}

func (t *table[V]) set(k key, v V) {
	if t.at == nil {
		t.at = make(map[key]V)
	}
	t.at[k] = v
	t.most = max(t.most, len(t.at))
}

func (t *table[V]) remove(k key) {
	delete(t.at, k)
	if t.most <= roomy || len(t.at) > t.most/8 {
		return
	}
	few := make(map[key]V, len(t.at))
	maps.Copy(few, t.at)
	t.at, t.most = few, len(few)
}

func (t *table[V]) clear() {
	if t.most > roomy {
		t.at = nil
	}
	clear(t.at)
	t.most = 0
}
