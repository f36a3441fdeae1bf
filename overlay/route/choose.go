package route

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"

	"farlan/overlay"
)

const (
	// turns of 10 are how likely a pair may move in an epoch. If all could at once, all
	// would go where there was room, find none, and go back.
	turns = 3
	// A pair moves to a path that is wider than its own by more than an eighth, or as
	// wide and shorter by more than a quarter (an eighth may be due to the hash that
	// tells paths apart). It stays where there is an eighth more than what it sends: else
	// pairs that have what they want would follow the room that others leave, for ever.
	wider, shorter = 8, 4
)

// Turn says whether a pair of agents may move in an epoch: a hash decides.
func Turn(epoch uint64, from, to overlay.AgentID) bool {
	b := binary.BigEndian.AppendUint64([]byte("farlan turn 1"), epoch)
	h := sha256.Sum256(append(append(b, from[:]...), to[:]...))
	return binary.BigEndian.Uint32(h[:]) < math.MaxUint32/10*turns
}

// A Pair is a sender and a receiver, and what is between them now.
type Pair struct {
	From, To int32
	Current  Path   // nil: none yet
	LoadKbit uint32 // what From sends to To on it
	Turn     bool   // it may move to a better path; from one that broke it may always
}

// A Choice is which path a pair takes.
type Choice struct {
	Path Path   // nil: there is none
	Best Path   // what would be taken were there no Current
	Why  Reason // why Path isn't Best: Enough, TooLittle or NotItsTurn, or None if it is
}

// Choose says which path the bulk of a pair takes. It is that of Bulk, with the pair's
// load given back; but a path in use is left only if it limits what is sent, for one that
// is much better, and in turn. plans are what From has decided for others of its pairs since the facts were
// told, with a minus: so two of its pairs don't fill the same bottleneck together.
// Nothing of the result is the Finder's memory; Path may be Current.
func (f *Finder) Choose(g *Graph, q Pair, plans []Load) Choice {
	if !g.has(q.From) || !g.has(q.To) || q.From == q.To {
		return Choice{}
	}
	own, spread := q.loads(plans), uint64(near)
	var now Figures
	used := q.joins() && g.valid(q.Current) == None
	if used {
		now = figuresOf(g, q.Current, f.given(g, own))
		if q.LoadKbit > 0 && !now.enough(q.LoadKbit) {
			spread = wide
		}
	}
	best := f.bulkTo(g, q.From, q.To, own, none, spread)
	switch {
	case !used || slices.Equal(best, q.Current):
		return Choice{best, best, None}
	case now.enough(q.LoadKbit):
		return Choice{q.Current, best, Enough}
	case !worth(now, figuresOf(g, best, f.given(g, own))):
		return Choice{q.Current, best, TooLittle}
	case !q.Turn:
		return Choice{q.Current, best, NotItsTurn}
	}
	return Choice{best, best, None}
}

// joins says whether the current path is from the one to the other.
func (q Pair) joins() bool {
	return len(q.Current) > 1 && q.Current[0] == q.From && q.Current[len(q.Current)-1] == q.To
}

func (q Pair) loads(plans []Load) []Load {
	return append(slices.Clone(plans), Load{q.Current, int64(q.LoadKbit)})
}

// enough says whether a path has room for more than a load that it carries.
func (x Figures) enough(load uint32) bool {
	return load > 0 && uint64(x.RateKbit) > uint64(load)+uint64(load/wider)
}

// worth says whether the best path is worth to move to from the current one. It is as
// wide at least; only if its rate isn't known it is there to be found out.
func worth(now, best Figures) bool {
	if best.RateKbit == 0 || now.RateKbit == 0 {
		if best.RateKbit != now.RateKbit {
			return true
		}
	} else if best.RateKbit-min(best.RateKbit, now.RateKbit) > now.RateKbit/wider {
		return true
	}
	return best.CostMicros < now.CostMicros-now.CostMicros/shorter
}
