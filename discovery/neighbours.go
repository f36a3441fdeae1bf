package discovery

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"farlan/overlay"
)

// nearEach is how many near agents one has as neighbours at most.
const nearEach = 2

// Neighbours returns whom self should keep a control connection to, sorted:
// everybody if there are at most degree others; else the next and the previous
// agent on each of (degree-2)/2 rings, and up to two of those who are near. The
// first ring is that of the ids; the others are in the order of a hash, and few
// steps from anywhere to everywhere: a union of random rings is an expander (Law and
// Siu, "Distributed construction of random expander networks", 2003). So nobody has
// more than degree neighbours (at least 4), and the graph stays in one piece
// without any one of them. members may hold self or not.
//
// The relation is symmetric: among agents that know the same members, and of whom
// near is a symmetric relation, b is in a's list if and only if a is in b's. So both
// ends know a connection that nobody needs.
func Neighbours(self overlay.AgentID, members, near []overlay.AgentID, degree int) []overlay.AgentID {
	all := slices.SortedFunc(slices.Values(members), overlay.AgentID.Compare)
	all = slices.Compact(all)
	if at, found := slices.BinarySearchFunc(all, self, overlay.AgentID.Compare); found {
		all = slices.Delete(all, at, at+1)
	}
	if len(all) <= degree {
		return all
	}
	out := make([]overlay.AgentID, 0, degree)
	for ring := range (degree - nearEach) / 2 {
		out = append(out, beside(self, all, byte(ring))...)
	}
	for _, id := range near[:min(len(near), nearEach)] {
		if _, live := slices.BinarySearchFunc(all, id, overlay.AgentID.Compare); live {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, overlay.AgentID.Compare)
	return slices.Compact(out)
}

// beside returns the agents before and after self on a ring of self and others. Ring
// 0 is in the order of the ids.
func beside(self overlay.AgentID, others []overlay.AgentID, ring byte) []overlay.AgentID {
	type seat struct{ at, id overlay.AgentID }
	sit := func(id overlay.AgentID) seat { return seat{seatOf(id, ring), id} }
	own, one := sit(self), sit(others[0])
	// Behind the last seat is the first one: who sits before self is farther than who
	// sits behind it.
	before, after := one, one
	for _, id := range others[1:] {
		x := sit(id)
		if closer(own.at, x.at, after.at) {
			after = x
		}
		if !closer(own.at, x.at, before.at) {
			before = x
		}
	}
	return []overlay.AgentID{before.id, after.id}
}

// closer says whether one comes to a before b if one goes on from a seat.
func closer(from, a, b overlay.AgentID) bool {
	if (a.Compare(from) < 0) == (b.Compare(from) < 0) {
		return a.Compare(b) < 0
	}
	return b.Compare(from) < 0
}

// seatOf returns an agent's seat on a ring.
func seatOf(id overlay.AgentID, ring byte) overlay.AgentID {
	if ring == 0 {
		return id
	}
	var b [14 + len(id)]byte
	n := copy(b[:], "farlan ring 1")
	b[n] = ring
	copy(b[n+1:], id[:])
	return sha256.Sum256(b[:])
}

// Near returns which agents are near to self and it to them: both are among the
// other's two nearest. links returns the links that an agent has told, so all who
// have the same records agree. Round trips that differ by less than a factor of two
// count as equal, and a hash decides then.
func Near(self overlay.AgentID, links func(overlay.AgentID) ([]Link, bool)) []overlay.AgentID {
	var out []overlay.AgentID
	for _, id := range nearest(self, links) {
		if slices.Contains(nearest(id, links), self) {
			out = append(out, id)
		}
	}
	return out
}

// nearest returns the nearEach agents to whom self has told the shortest round trips.
func nearest(self overlay.AgentID, links func(overlay.AgentID) ([]Link, bool)) []overlay.AgentID {
	told, _ := links(self)
	var at [33]int // how many are how far
	for _, l := range told {
		if l.RTT != 0 {
			at[distance(l)]++
		}
	}
	far, within := 0, at[0]
	for within < nearEach && far < len(at)-1 {
		far++
		within += at[far]
	}
	known := make([]Link, 0, within)
	for _, l := range told {
		if l.RTT != 0 && distance(l) <= far {
			known = append(known, l)
		}
	}
	out := make([]overlay.AgentID, 0, nearEach)
	for _, l := range byDistance(self, known)[:min(len(known), nearEach)] {
		out = append(out, l.Peer)
	}
	return out
}

// Tellable returns which of its links self should tell, at most most, sorted by peer:
// those of them that it told before, and then the nearest. What another agent needs is
// on few links: who is near, and somebody who reaches self. links is sorted by peer,
// and isn't changed.
func Tellable(self overlay.AgentID, links, told []Link, most int) []Link {
	if len(links) <= most {
		return links
	}
	before := func(l Link) bool {
		_, ok := slices.BinarySearchFunc(told, l.Peer, func(t Link, id overlay.AgentID) int { return t.Peer.Compare(id) })
		return ok
	}
	out := byDistance(self, links)
	slices.SortStableFunc(out, func(a, b Link) int {
		switch x, y := before(a), before(b); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	out = out[:most]
	slices.SortFunc(out, func(a, b Link) int { return a.Peer.Compare(b.Peer) })
	return out
}

// byDistance returns self's links sorted by round trip; those without one come last.
// Round trips that differ by less than a factor of two count as equal, and a hash
// decides then, the same at both ends.
func byDistance(self overlay.AgentID, links []Link) []Link {
	type candidate struct {
		index, distance int
		hash            uint64
	}
	all := make([]candidate, len(links))
	for i, l := range links {
		all[i] = candidate{i, distance(l), pairHash(self, l.Peer)}
		if l.RTT == 0 {
			all[i].distance = math.MaxInt
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.hash, b.hash))
	})
	out := make([]Link, len(all))
	for i, c := range all {
		out[i] = links[c.index]
	}
	return out
}

// distance returns how far a peer is whose round trip is known: those within a factor of two
// are equally far.
func distance(l Link) int { return bits.Len32(uint32(l.RTT.Milliseconds())) }

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
