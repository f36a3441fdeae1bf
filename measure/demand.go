package measure

import (
	"cmp"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// MaxDemands is how many pairs of stations are followed. When there are more, those that send
	// the least aren't.
	MaxDemands = 64
	// DemandLeast is what a pair must send to be followed, in bits a second.
	DemandLeast = 1_000_000

	demandSeconds = 60 // that are remembered
	// demandPause is for how long a pair may send less and count as one that goes on.
	demandPause = 3 * time.Second
	// hurtWait is how long frames must wait at their own agent for that to harm: as long as a
	// queue may stand (RFC 8289).
	hurtWait = 5 * time.Millisecond
)

// A Demand is what one station sends to another, and whether it could send more.
type Demand struct {
	From, To overlay.MAC
	Place    overlay.Place   // where To is
	Since    overlay.Instant // when it began to send, without a longer pause
	Rate     int64           // in the newest second, bits of Ethernet frames a second
	P95      int64           // 95th percentile of such rates of the last minute
	Waiting  int64           // bytes that waited at the sender's agent all through that second, with what shares their queue
	Wait     time.Duration   // and for how long
	Hurt     time.Duration   // how much of the last minute something waited too long
}

// Demands follow pairs of stations, a second at a time. The zero value is ready. Not safe for
// concurrent use.
type Demands struct {
	pairs map[flowPair]*demand
	last  overlay.Instant
}

type demand struct {
	Demand
	active overlay.Instant // when it sent enough last
	rates  [demandSeconds]int64
	hurt   [demandSeconds]bool
	next   int // where the next second goes
	filled int
}

// Add takes what was sent since the last call, about a second ago, in whatever order, and
// maybe several parts of one pair.
func (d *Demands) Add(now overlay.Instant, sent []Flow) {
	since := now.Sub(d.last)
	first := d.last == 0 || since <= 0
	d.last = now
	if first {
		return // nobody knows in what time
	}
	if d.pairs == nil {
		d.pairs = make(map[flowPair]*demand)
	}
	for _, x := range d.pairs {
		x.Rate, x.Waiting, x.Wait = 0, 0, 0
	}
	fresh := make(map[flowPair]*demand)
	for _, s := range sent {
		k := flowPair{s.From(), s.To()}
		x := d.pairs[k]
		if x == nil {
			if x = fresh[k]; x == nil {
				x = &demand{Demand: Demand{From: k.from, To: k.to, Since: now.Add(-since)}}
				fresh[k] = x
			}
		}
		x.Place = s.Place
		x.Rate += int64(8 * float64(s.Bytes-s.Over) / since.Seconds())
		x.Waiting, x.Wait = max(x.Waiting, s.Waiting), max(x.Wait, s.Waited)
	}
	d.admit(fresh)
	for k, x := range d.pairs {
		x.second(now)
		if now.Sub(x.active) >= demandSeconds*time.Second {
			delete(d.pairs, k)
		}
	}
}

// admit begins to follow those that send enough, for those that send less if it must be.
func (d *Demands) admit(fresh map[flowPair]*demand) {
	all := make([]*demand, 0, len(fresh))
	for _, x := range fresh {
		if x.Rate >= DemandLeast {
			x.P95 = x.Rate
			all = append(all, x)
		}
	}
	slices.SortFunc(all, byRate)
	for _, x := range all {
		if len(d.pairs) >= MaxDemands {
			least := d.least()
			if least.P95 >= x.Rate {
				return
			}
			delete(d.pairs, flowPair{least.From, least.To})
		}
		d.pairs[flowPair{x.From, x.To}] = x
	}
}

// byRate sorts the highest rate first.
func byRate(a, b *demand) int {
	return cmp.Or(cmp.Compare(b.Rate, a.Rate), a.From.Compare(b.From), a.To.Compare(b.To))
}

// least returns the pair that has sent the least of late.
func (d *Demands) least() (least *demand) {
	for _, x := range d.pairs {
		if least == nil || cmp.Or(cmp.Compare(x.P95, least.P95), byRate(least, x)) < 0 {
			least = x
		}
	}
	return least
}

// second notes how a second was.
func (x *demand) second(now overlay.Instant) {
	if x.Rate >= DemandLeast {
		if x.active != 0 && now.Sub(x.active) > demandPause {
			x.Since = now.Add(-time.Second)
		}
		x.active = now
	}
	x.rates[x.next], x.hurt[x.next] = x.Rate, x.Wait >= hurtWait && x.Rate > 0
	x.next = (x.next + 1) % demandSeconds
	x.filled = min(x.filled+1, demandSeconds)
	sorted := slices.Sorted(slices.Values(x.rates[:x.filled]))
	x.P95 = sorted[(len(sorted)-1)*95/100]
	x.Hurt = 0
	for _, h := range x.hurt[:x.filled] {
		if h {
			x.Hurt += time.Second
		}
	}
}

// Pairs returns what is followed, the highest 95th percentile first.
func (d *Demands) Pairs() []Demand {
	all := make([]Demand, 0, len(d.pairs))
	for _, x := range d.pairs {
		all = append(all, x.Demand)
	}
	slices.SortFunc(all, func(a, b Demand) int {
		return cmp.Or(cmp.Compare(b.P95, a.P95), a.From.Compare(b.From), a.To.Compare(b.To))
	})
	return all
}
