package route

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"farlan/overlay"
)

const (
	// A pair moves to the link straight to the other end if there is more by an eighth
	// there than on its path, and to a path by relays, where others may come too, if it
	// is a quarter more; or to what is as wide and shorter by more than a quarter (an
	// eighth may be due to the hash that tells paths apart).
	wider, widerRelayed, shorter = 8, 4, 4
	// It stays where there is a third more than what it sends: else pairs that have what
	// they want would follow the room that others leave, for ever. TCP that halves its
	// window at each loss sends three quarters of what a path without buffers carries.
	enough = 3
	// crowd is how many pairs at most are thought to be where one is, as that can't be
	// known. Of more too many move at once, of fewer it takes longer until one does. Fifty
	// came to rest soonest with 24 of 10, 16, 24, 32, 48 and 96.
	crowd = 24
)

// Lot draws a number for a pair of agents in an epoch, by a hash: see Pair.
func Lot(epoch uint64, from, to overlay.AgentID) uint32 {
	b := binary.BigEndian.AppendUint64([]byte("farlan lot 1"), epoch)
	h := sha256.Sum256(append(append(b, from[:]...), to[:]...))
	return binary.BigEndian.Uint32(h[:])
}

// A Pair is a sender and a receiver, and what is between them now.
type Pair struct {
	From, To int32
	Current  Path // nil: none yet
	// LoadKbit is what From sends to To on it, on average over an epoch. Facts may tell of
	// the time before, so of this epoch's and the last one's the higher is right: what is
	// given back too much only makes it stay longer.
	LoadKbit uint32
	// Lot decides whether it may move to a better path now: the higher it is, the better
	// that must be, and 0 is good for any. If all moved as soon as they could, all would
	// go where there was room, find none, and go back. Who sends nothing, or whose path
	// broke, needs no lot.
	Lot uint32
}

// A Choice is which path a pair takes.
type Choice struct {
	Path Path   // nil: there is none
	Best Path   // what would be taken were there no Current
	Why  Reason // why Path isn't Best: Enough, TooLittle or NotItsTurn, or None if it is
}

// Choose says which path the bulk of a pair takes. It is that of Bulk, with the pair's
// load given back; but a path in use is left only if it limits what is sent, for one that
// is much better, and if the lot falls to it. plans are what From has decided for others
// of its pairs since the facts were told, with a minus: so two of its pairs don't fill the
// same bottleneck together. Nothing of the result is the Finder's memory; Path may be Current.
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
	}
	next := figuresOf(g, best, f.given(g, own))
	switch {
	case !worth(now, next, len(best) > 2):
		return Choice{q.Current, best, TooLittle}
	case q.LoadKbit > 0 && uint64(q.Lot) >= odds(g.Len(), len(q.Current) > 2, len(best) > 2, room(now, next)):
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
	return load > 0 && uint64(x.RateKbit) > uint64(load)+uint64(load/enough)
}

// worth says whether the best path is worth to move to from the current one; relayed
// says that it goes by relays. It is as wide at least; only if its rate isn't known it is
// there to be found out.
func worth(now, best Figures, relayed bool) bool {
	least := now.RateKbit / wider
	if relayed {
		least = now.RateKbit / widerRelayed
	}
	if best.RateKbit == 0 || now.RateKbit == 0 {
		if best.RateKbit != now.RateKbit {
			return true
		}
	} else if best.RateKbit-min(best.RateKbit, now.RateKbit) > least {
		return true
	}
	return best.CostMicros < now.CostMicros-now.CostMicros/shorter
}

const (
	once     = 1 << 8             // room for a pair as it is
	roomMost = (crowd + 1) * once // room is counted up to this
)

// room returns how many times what a pair has now the best path has for it, in width or
// in shortness; if one of the widths isn't known, the most.
func room(now, best Figures) uint64 {
	if (best.RateKbit == 0) != (now.RateKbit == 0) {
		return roomMost
	}
	times := func(a, b uint32) uint64 { return uint64(a) * once / uint64(max(1, b)) }
	return min(roomMost, max(once, times(best.RateKbit, now.RateKbit), times(now.CostMicros, best.CostMicros)))
}

// odds returns below which lot a pair moves, of 2^32, if there is so much room where it
// would go; from and to say whether its path and the other one go by relays.
//
//   - A link straight to the other end is a pair's own, a relay's are shared by a crowd
//     that sees the same. Of N pairs with a share s each, who would get t, N·s/t can stay
//     so that all get t: so one moves with the probability 1 − s/t, and they needn't know N.
//   - From its own link to a relay r²/N move, N being the crowd that may want to: about as
//     many as find room if they gain little, but all if they gain five times as much, as
//     one alone mustn't wait for that. If too many come, the first rule sends them back.
//   - From relays to others, of a crowd with N·s in all to where there is r·s, the part
//     r/(r+N) moves, so that all shares are alike.
func odds(agents int, from, to bool, room uint64) uint64 {
	const whole = 1 << 32
	others := uint64(max(1, min(agents-2, crowd)))
	switch {
	case !to:
		return whole - whole*once/room
	case !from:
		return min(whole, whole/once/once*room*room/others)
	}
	return whole * room / (room + others*once)
}
