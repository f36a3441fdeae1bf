package route

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// A Table holds an agent's paths to all others. The zero value is empty; a Finder fills
// it, and may fill it again. It takes 37 bytes a node.
type Table struct {
	from   int32
	paths  []int32 // MaxHops+1 for each node
	length []uint8 // nodes of its path, 0 if there is none
}

// From returns whose paths they are.
func (t *Table) From() int32 { return t.from }

// Path returns the path to a node, or nil if there is none within MaxHops links, or the
// node is From. It is the table's memory.
func (t *Table) Path(to int32) Path {
	if to < 0 || int(to) >= len(t.length) || t.length[to] == 0 {
		return nil
	}
	at := int(to) * (MaxHops + 1)
	return t.paths[at : at+int(t.length[to]) : at+int(t.length[to])]
}

func (t *Table) reset(nodes int, from int32) {
	t.from = from
	t.paths = slices.Grow(t.paths[:0], nodes*(MaxHops+1))[:nodes*(MaxHops+1)]
	t.length = slices.Grow(t.length[:0], nodes)[:nodes]
	clear(t.length)
}

// put takes over the path to a node that was found last.
func (t *Table) put(f *Finder, to int32) {
	at := int(to) * (MaxHops + 1)
	if to != t.from && f.best[to] != none {
		t.length[to] = uint8(len(f.path(t.paths[at:at:at+MaxHops+1], to)))
	}
}

// Hash returns a hash of the paths: agents that know the same facts get the same.
func (t *Table) Hash(g *Graph) uint64 {
	h := sha256.New()
	var b []byte
	for to := range t.length {
		b = append(b[:0], t.length[to])
		for _, i := range t.Path(int32(to)) {
			b = binary.BigEndian.AppendUint64(b, g.keys[i])
		}
		h.Write(b)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// Delay finds the shortest paths from a node to all others: for frames of
// overlay.ClassDelay. What a link costs is said at linkMicros; relays cost what they
// tell. The work is linear in links × hops.
func (f *Finder) Delay(g *Graph, from int32, t *Table) { f.Within(g, from, MaxHops, t) }

// Within is Delay by paths of so many links at most, for those that go on from their ends.
func (f *Finder) Within(g *Graph, from int32, hops int, t *Table) {
	t.reset(g.Len(), from)
	if !g.has(from) {
		return
	}
	f.search(g, g.sum, from, none, min(hops, MaxHops))
	for to := range g.nodes {
		t.put(f, int32(to))
	}
}

// Agreed returns a hash of the shortest paths from some origins to all: of so many agents as
// a seed draws, or of all if there are no more. Who draws by the same seed gets the same if and
// only if (but for a chance of 2^-64) he computes the same paths. All pairs would take too
// long.
func (f *Finder) Agreed(g *Graph, seed uint64, origins int) (sum uint64) {
	var t Table
	for k := range min(origins, g.Len()) {
		from := int32(k)
		if g.Len() > origins {
			from = int32(mix(seed, uint64(k)) % uint64(g.Len()))
		}
		f.Delay(g, from, &t)
		sum = mix(sum, t.Hash(g))
	}
	return sum
}
