package discovery

import (
	"slices"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// How often an agent tells its rows anew. What it tells is sent once by each agent on
// average, so with everybody telling once each tellShare for every agent there is, an
// agent sends a record each tellShare however restless the paths are: 1.1 kB with 32 rows,
// 0.5 kB with 9, and as much again for what carries it. What is urgent goes out at once, up to tellBurst times; it is paid for by waiting longer then.
const (
	tellShare  = 4 * time.Second
	tellLeast  = 5 * time.Second // between two records that aren't urgent
	tellBurst  = 8
	urgentRoom = 4 // of them that are left for what is urgent
	// In small networks records are short and few: there it is less.
	smallNetwork = 10
	// tellAfter is how long what isn't urgent must have been news: what a busy host
	// does to its own measurements for a moment isn't.
	tellAfter = 5 * time.Second
	// A path that is new is known by its first samples, which a start disturbs and others
	// soon show to be wrong. So for tellFresh after an agent told of another set of links,
	// no news wait for tellAfter. Where all measure all, that may come often: there are
	// fullBurst more in a burst, whose records are short and few. In larger networks the
	// many that come would make it dear.
	tellFresh = 20 * time.Second
	fullBurst = 8
	fullMost  = 16
	// Urgent ones are tellGap apart for every agent there is, so that those are told
	// together which come together: when an agent starts, or is cut off.
	tellGap      = 100 * time.Millisecond
	tellGapLeast = time.Second
	tellGapMost  = 5 * time.Second
	// What agents decide of their links in an epoch of 10 s follows from what the others
	// decided in the last one (overlay/mesh), so it can't wait for its share: it is told
	// moveBurst times at once and once each moveEvery. Once links have settled there is
	// hardly any.
	moveEvery = 10 * time.Second
	moveBurst = 6
	// What is left of links and access links is what others choose paths by that carry
	// much. Facts that are minutes old send them where there is no room any more: of fifty
	// pairs with two relays a third of what they could have. So they have a share of their
	// own, too: leftShare for each agent, leftLeast at least.
	leftShare = 200 * time.Millisecond
	leftLeast = 10 * time.Second
	leftBurst = 6
	// tellRenew is when rows are told anew though nothing has changed, so that they
	// aren't taken for old.
	tellRenew = 10 * time.Minute
)

// What a reader may be wrong by before he is told better. The map promises 5 % or 1 ms
// of round trips, of which 2 % or 0.3 ms are for the measurement itself.
const (
	awayRTT      = 40                     // 1 of it
	leastRTT     = 600 * time.Microsecond // and not less
	stepRTT      = 5                      // 1 of it is urgent
	leastStep    = 5 * time.Millisecond
	leastJitter  = 5 * time.Millisecond // and a factor of two
	awayLoss     = 0.005                // beyond the interval that was told
	stepLoss     = 0.05
	awayCapacity = 20 // 1 of it
	awayAvail    = 5
	stepCapacity = 3
)

// News says how much differs from what was told.
type News uint8

// How soon something must be told.
const (
	NoNews   News = iota
	SlowNews      // when there is room
	Urgent        // at once, if that wasn't said too often of late
)

// A Telling decides when an agent tells its rows anew. The zero Telling has told
// nothing. Not safe for concurrent use.
type Telling struct {
	Links []Link // as told last, ascending by peer
	Own   Facts
	At    overlay.Instant // then; 0: never, or it must be told again
	stirs overlay.Instant // since when there is news, 0 there is none
	fresh overlay.Instant // since when it is of these links
	paid  pace
	moved pace // for what was decided of links
	drawn pace // for what is left of them
}

// Due says whether to tell now: links, ascending by peer, and the agent's own rates. agents is
// how many tell, this one included. It wants to be asked each second.
func (t *Telling) Due(now overlay.Instant, links []Link, own Facts, agents int) bool {
	since := now.Sub(t.At)
	share := rowsEvery(agents)
	gap := min(max(time.Duration(agents)*tellGap, tellGapLeast), tellGapMost)
	if t.At == 0 || since < 0 {
		return true
	}
	news := t.news(links, own)
	switch {
	case news == NoNews:
		t.stirs = 0
	case t.stirs == 0:
		t.stirs = now
	}
	if since < gap {
		return false
	}
	if since >= max(tellRenew, time.Duration(agents)*tellShare*5) {
		return true
	}
	if t.decided(links) {
		return t.moved.allow(now, moveEvery, moveBurst)
	}
	if t.drained(links, own) && t.drawn.allow(now, leftEvery(agents), leftBurst) {
		return true
	}
	switch burst := tellBursts(agents); news {
	case Urgent:
		return t.paid.allow(now, share, burst)
	case SlowNews:
		fresh := agents <= fullMost && now.Sub(t.fresh) < tellFresh
		return (fresh || now.Sub(t.stirs) >= tellAfter) && t.paid.allow(now, share, burst-urgentRoom)
	}
	return false
}

// Told notes what is told now.
func (t *Telling) Told(now overlay.Instant, links []Link, own Facts, agents int) {
	if !slices.EqualFunc(links, t.Links, func(a, b Link) bool { return a.Peer == b.Peer }) {
		t.fresh = now
	}
	switch {
	case t.decided(links):
		t.moved.pay(now, moveEvery, moveBurst)
	case t.drained(links, own) && t.drawn.allow(now, leftEvery(agents), leftBurst):
		t.drawn.pay(now, leftEvery(agents), leftBurst)
	default:
		t.paid.pay(now, rowsEvery(agents), tellBursts(agents))
	}
	t.Links, t.Own, t.At, t.stirs = links, own, now, 0
}

// decided says whether something is to be told of which links are kept.
func (t *Telling) decided(links []Link) bool {
	next := func(from []Link) (Link, []Link) {
		for i, l := range from {
			if l.Kept() {
				return l, from[i+1:]
			}
		}
		return Link{}, nil
	}
	told, is := t.Links, links
	for {
		var a, b Link
		a, told = next(told)
		b, is = next(is)
		switch {
		case a.Peer != b.Peer, a.Holds != b.Holds, a.Leaving != b.Leaving, a.Accepts != b.Accepts:
			return true
		case !a.Kept():
			return false
		}
	}
}

// drained says whether much more or less is left than was told, of links that were told
// of or of the access link. links are the same as those.
func (t *Telling) drained(links []Link, own Facts) bool {
	if apart(t.Own.LeftUp, own.LeftUp, awayAvail) || apart(t.Own.LeftDown, own.LeftDown, awayAvail) {
		return true
	}
	for i, l := range links {
		if i < len(t.Links) && l.Peer == t.Links[i].Peer && apart(t.Links[i].Left, l.Left, awayAvail) {
			return true
		}
	}
	return false
}

// leftEvery returns how often one of so many agents tells what is left, at most.
func leftEvery(agents int) time.Duration { return max(time.Duration(agents)*leftShare, leftLeast) }

// tellBursts returns how many records may be told in a burst.
func tellBursts(agents int) int {
	if agents <= fullMost {
		return tellBurst + fullBurst
	}
	return tellBurst
}

// rowsEvery returns how often one of so many agents tells its rows on average, at most.
func rowsEvery(agents int) time.Duration {
	few := min(agents, smallNetwork)
	return max(time.Duration(agents)*tellShare*time.Duration(few)/smallNetwork, tellLeast)
}

// Again says that what was told must be told again.
func (t *Telling) Again() { t.At = 0 }

// news compares with what was told.
func (t *Telling) news(links []Link, own Facts) (n News) {
	n = newsOfFacts(t.Own, own)
	if len(links) != len(t.Links) {
		return Urgent
	}
	for i, l := range links {
		if l.Peer != t.Links[i].Peer {
			return Urgent
		}
		n = max(n, NewsOf(t.Links[i].Pair, l.Pair), newsOfIntent(t.Links[i].Intent, l.Intent))
	}
	return n
}

func newsOfFacts(told, is Facts) News {
	a, b := told.Access, is.Access
	switch {
	case told.NoTransit != is.NoTransit, told.Cost != is.Cost:
		return Urgent
	case a.UpSource != b.UpSource, a.DownSource != b.DownSource, apart(a.Up, b.Up, awayCapacity), apart(a.Down, b.Down, awayCapacity),
		apart(told.TransitLimit, is.TransitLimit, awayAvail), apart(told.LeftUp, is.LeftUp, awayAvail), apart(told.LeftDown, is.LeftDown, awayAvail):
		return SlowNews
	}
	return NoNews
}

// newsOfIntent says how much differs of what an agent decided, which others wait for.
func newsOfIntent(told, is Intent) News {
	switch {
	case told.Holds != is.Holds, told.Leaving != is.Leaving, told.Accepts != is.Accepts, told.Cost != is.Cost, told.Prefer != is.Prefer, told.Forbid != is.Forbid:
		return Urgent
	case told.Left == 0 && is.Left != 0:
		return Urgent // somebody waits for it
	case apart(told.Left, is.Left, awayAvail):
		return SlowNews
	}
	return NoNews
}

// NewsOf says how much a pair differs from what was told of it.
func NewsOf(told, is measure.Pair) News {
	return max(newsOfTimes(told, is), newsOfLoss(told, is), newsOfRates(told, is))
}

func newsOfTimes(told, is measure.Pair) News {
	off := (is.RTT - told.RTT).Abs()
	jitter := max(is.Jitter, told.Jitter) > 2*min(is.Jitter, told.Jitter) && (is.Jitter-told.Jitter).Abs() > leastJitter
	queue := max(is.Queue, told.Queue) > 2*min(is.Queue, told.Queue) && (is.Queue-told.Queue).Abs() > leastStep
	switch {
	case told.RTTSource == measure.Unknown && is.RTTSource != measure.Unknown, told.Relayed != is.Relayed:
		return Urgent
	case told.RTTSource != is.RTTSource, off > leastStep && off*stepRTT > told.RTT && is.RTTSource == measure.Measured:
		return Urgent
	case off > leastRTT && off*awayRTT > told.RTT, jitter, queue, told.MTU != is.MTU:
		return SlowNews
	}
	return NoNews
}

func newsOfLoss(told, is measure.Pair) News {
	above, below := is.Loss-max(told.LossHigh, told.Loss), min(told.LossLow, told.Loss)-is.Loss
	switch {
	case !is.LossKnown && !told.LossKnown:
		return NoNews
	case told.LossKnown && is.LossKnown && above > stepLoss && is.LossLow >= told.LossHigh:
		return Urgent
	case told.LossKnown != is.LossKnown, above > awayLoss, below > awayLoss:
		return SlowNews
	}
	return NoNews
}

func newsOfRates(told, is measure.Pair) News {
	bothKnown := told.CapacitySource != measure.Unknown && is.CapacitySource != measure.Unknown
	switch {
	case bothKnown && !is.CapacityBound && !told.CapacityBound && apart(told.Capacity, is.Capacity, stepCapacity):
		return Urgent
	case told.CapacitySource != is.CapacitySource, told.CapacityBound != is.CapacityBound,
		apart(told.Capacity, is.Capacity, awayCapacity), apart(told.Available, is.Available, awayAvail):
		return SlowNews
	}
	return NoNews
}

// apart says whether two rates differ by more than one share of the larger.
func apart(a, b int64, share int64) bool { return max(a-b, b-a) > max(a, b)/share }
