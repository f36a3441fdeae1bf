package discovery

import (
	"slices"
	"time"

	"farlan/overlay"
)

// How often a gateway tells of its area anew. All of a divided network get
// it, so gateways have a share each as members have (tellShare): in a network of ten thousand
// agents there are five hundred of them, and a record of 1.5 kB: if all tell as often as they may,
// an agent is sent 2 kB/s of it.
const (
	areaShare = time.Second // for each gateway there is
	areaBurst = 6
	// urgentArea of them are left for when a gateway or an agent that others are reached by
	// is lost, or the first time.
	urgentArea = 2
	// awayLeaf is by how much, 1 of it, the way to a leaf must differ to be worth telling.
	awayLeaf = 4
)

// An AreaTelling decides when a gateway tells of its area anew. The zero one has told nothing.
// Not safe for concurrent use.
type AreaTelling struct {
	Area Area            // as told last
	At   overlay.Instant // then; 0: never, or it must be told again
	paid pace
}

// Due says whether to tell now; gateways is how many tell, this one included; haste says how soon
// to tell because links of the tree that was told last went, or because of who is new.
func (t *AreaTelling) Due(now overlay.Instant, a Area, gateways int, haste News) bool {
	switch since := now.Sub(t.At); {
	case t.At == 0 || since < 0:
		return true
	case since < tellGapMost:
		return false
	case since >= max(tellRenew, 5*areaEvery(gateways)):
		return true
	}
	switch max(newsOfArea(&t.Area, &a), haste) {
	case Urgent:
		return t.paid.allow(now, areaEvery(gateways), areaBurst)
	case SlowNews:
		return t.paid.allow(now, areaEvery(gateways), areaBurst-urgentArea)
	}
	return false
}

// Told notes what is told now. It is paid for with up to a quarter more than a share, by a hash of
// the instant: else gateways that began together would all tell together ever after.
func (t *AreaTelling) Told(now overlay.Instant, a Area, gateways int) {
	every := areaEvery(gateways)
	more := uint64(now) * 0x9e3779b97f4a7c15 >> 16 % uint64(every/4)
	t.paid.pay(now, every+time.Duration(more), areaBurst)
	t.Area, t.At = a, now
}

// Again says that what was told must be told again.
func (t *AreaTelling) Again() { t.At = 0 }

// areaEvery returns how often one of so many gateways tells of its area at most.
func areaEvery(gateways int) time.Duration {
	return max(time.Duration(gateways)*areaShare, tellLeast)
}

// newsOfArea says how much differs of an area from what was told.
func newsOfArea(told, is *Area) News {
	if told.Number != is.Number || !slices.Equal(told.Gateways, is.Gateways) {
		return Urgent
	}
	now := make(map[Brief]time.Duration, len(is.Tree))
	for _, l := range is.Tree {
		now[l.Agent] = l.Cost
	}
	n := NoNews
	if len(told.Tree) != len(is.Tree) {
		n = SlowNews
	}
	for i, l := range told.Tree {
		cost, ok := now[l.Agent]
		switch {
		case !ok && slices.ContainsFunc(told.Tree[i+1:], func(x Leaf) bool { return x.Parent == i }):
			return Urgent
		case !ok, (cost - l.Cost).Abs() > max(leastStep, l.Cost/awayLeaf):
			n = SlowNews
		}
	}
	return n
}
