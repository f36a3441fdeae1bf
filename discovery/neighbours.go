package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"

	"farlan/overlay"
)

// ringEach is how many neighbours an agent has on each side of the ring of ids.
// Two: the ring holds when any one agent is gone that nobody noticed yet.
const ringEach = 2

// Neighbours returns whom self should keep a control connection to, sorted:
// everybody if there are at most degree others; else the two next and the two
// previous agents on the ring of ids, which keep the graph of all connections
// in one piece, and pairs picked by a hash, which keep it shallow, so that the
// average is degree (at least 4). members may hold self or not.
//
// The relation is symmetric: among agents that know the same members, b is
// in a's list if and only if a is in b's. So both ends know a connection that
// nobody needs.
func Neighbours(self overlay.AgentID, members []overlay.AgentID, degree int) []overlay.AgentID {
	ring := slices.SortedFunc(slices.Values(members), overlay.AgentID.Compare)
	ring = slices.Compact(ring)
	at, found := slices.BinarySearchFunc(ring, self, overlay.AgentID.Compare)
	if found {
		ring = slices.Delete(ring, at, at+1)
	}
	n := len(ring)
	if n <= degree || n <= 2*ringEach {
		return ring
	}
	// Of the n-4 agents off the ring's near part, degree-4 are picked on average.
	others := uint64(n - 2*ringEach)
	limit := math.MaxUint64 / others * uint64(max(degree-2*ringEach, 0))
	out := make([]overlay.AgentID, 0, 2*degree)
	for i, id := range ring {
		after := (i - at + n) % n // 0 is the next agent on the ring, n-1 the previous one
		if after < ringEach || after >= n-ringEach || pairHash(self, id) < limit {
			out = append(out, id)
		}
	}
	return out
}

// pairHash returns a number that depends on the pair, whichever comes first.
func pairHash(a, b overlay.AgentID) uint64 {
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	h := sha256.Sum256(append(append([]byte("farlan pair 1"), a[:]...), b[:]...))
	return binary.BigEndian.Uint64(h[:])
}

// Servers returns which n of the members serve the DHT, sorted: those of least
// hash (rendezvous hashing), so that one who comes or goes changes one place.
// All agents that know the same members agree.
func Servers(members []overlay.AgentID, n int) []overlay.AgentID {
	type scored struct {
		id    overlay.AgentID
		score [32]byte
	}
	all := make([]scored, len(members))
	for i, id := range members {
		all[i] = scored{id, sha256.Sum256(append([]byte("farlan server 1"), id[:]...))}
	}
	slices.SortFunc(all, func(a, b scored) int { return bytes.Compare(a.score[:], b.score[:]) })
	all = slices.CompactFunc(all, func(a, b scored) bool { return a.id == b.id })
	out := make([]overlay.AgentID, 0, n)
	for _, s := range all[:min(n, len(all))] {
		out = append(out, s.id)
	}
	slices.SortFunc(out, overlay.AgentID.Compare)
	return out
}
