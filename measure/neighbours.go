package measure

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// NeighbourEpoch is how often agents choose anew whom they measure.
	NeighbourEpoch = 10 * time.Minute
	// EverybodyUpTo is in how small a network everybody measures everybody.
	EverybodyUpTo = 16
	// MinNeighbours is how many an agent measures whatever that costs: with less,
	// coordinates of others are no better than a guess.
	MinNeighbours = 8
	// turns is in how many epochs those that chance chose have all been replaced.
	turns = 8
)

// A Candidate is a member that an agent could measure.
type Candidate struct {
	ID      overlay.AgentID
	RTT     time.Duration // known or predicted, 0 neither
	Linked  bool          // routes go over a link to it
	Traffic int64         // bits a second of late that are sent to it
}

// EpochOf returns the number of an instant's epoch.
func EpochOf(now overlay.Instant) uint64 { return uint64(max(now, 0)) / uint64(NeighbourEpoch) }

// NeighbourCount returns how many neighbours an agent can measure for so many bytes a
// second, if each costs so many.
func NeighbourCount(budget, each float64) int {
	if each <= 0 {
		return MinNeighbours
	}
	return int(min(max(budget/each, MinNeighbours), 1<<10))
}

// Neighbours returns whom of the candidates self measures, ascending: everybody in a
// small network; else at most k of them. To a half they are those that links lead to
// and those with the most traffic, to a quarter at least those that chance chooses, and
// the rest are the nearest. Near ones are what decisions are between; without random
// ones coordinates bend (Dabek, Cox, Kaashoek, Morris, "Vivaldi", SIGCOMM 2004, § 4).
//
// The choice depends on the arguments alone. It is stable: round trips that differ by
// less than a factor of two count as equal, and in each epoch one in eight of the random
// ones is replaced.
func Neighbours(self overlay.AgentID, all []Candidate, epoch uint64, k int) []overlay.AgentID {
	all = slices.SortedFunc(slices.Values(all), func(a, b Candidate) int { return a.ID.Compare(b.ID) })
	all = slices.CompactFunc(all, func(a, b Candidate) bool { return a.ID == b.ID })
	all = slices.DeleteFunc(all, func(c Candidate) bool { return c.ID == self })
	if len(all) < EverybodyUpTo || len(all) <= k {
		return sorted(all)
	}
	chosen := make([]Candidate, 0, k)
	take := func(most int, fits func(Candidate) bool, before func(a, b Candidate) int) {
		rest := slices.DeleteFunc(slices.Clone(all), func(c Candidate) bool {
			return !fits(c) || slices.ContainsFunc(chosen, func(d Candidate) bool { return d.ID == c.ID })
		})
		slices.SortFunc(rest, func(a, b Candidate) int { return cmp.Or(before(a, b), a.ID.Compare(b.ID)) })
		chosen = append(chosen, rest[:min(most, len(rest))]...)
	}
	near := func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(distance(a), distance(b)), cmp.Compare(chance(self, a.ID, 0), chance(self, b.ID, 0)))
	}
	random := func(a, b Candidate) int {
		return cmp.Compare(chance(self, a.ID, lot(self, a.ID, epoch)), chance(self, b.ID, lot(self, b.ID, epoch)))
	}
	take(k/4, func(c Candidate) bool { return c.Linked }, near)
	take(k/2-len(chosen), func(c Candidate) bool { return c.Traffic > 0 },
		func(a, b Candidate) int {
			return cmp.Compare(bits.Len64(uint64(b.Traffic)), bits.Len64(uint64(a.Traffic)))
		})
	take(k-(k+3)/4-len(chosen), func(c Candidate) bool { return c.RTT > 0 }, near)
	take(k-len(chosen), func(Candidate) bool { return true }, random)
	return sorted(chosen)
}

func sorted(all []Candidate) []overlay.AgentID {
	out := make([]overlay.AgentID, len(all))
	for i, c := range all {
		out[i] = c.ID
	}
	slices.SortFunc(out, overlay.AgentID.Compare)
	return out
}

// distance returns the class of a candidate's round trip.
func distance(c Candidate) int { return bits.Len64(uint64(c.RTT / time.Millisecond)) }

// lot returns how often an agent's lot has been drawn anew: each at an epoch of its
// own, once in all turns.
func lot(self, id overlay.AgentID, epoch uint64) uint64 {
	return (epoch + chance(self, id, 0)%turns) / turns
}

// chance returns a pair's lot: a number that depends on the arguments, whichever agent
// comes first. So two choose each other more often than not, and know both directions.
func chance(a, b overlay.AgentID, turn uint64) uint64 {
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	pair := append(append([]byte("farlan neighbour 1"), a[:]...), b[:]...)
	h := sha256.Sum256(binary.BigEndian.AppendUint64(pair, turn))
	return binary.BigEndian.Uint64(h[:])
}
