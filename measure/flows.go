package measure

import (
	"cmp"
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// flowTime is the time constant by which rates of flows are smoothed: a flow that
	// begins or ends is seen at two thirds of its rate after it.
	flowTime = 3 * time.Second
	// flowLeast is the rate below which a flow is forgotten, in bits a second.
	flowLeast = 1000
	// flowsKept bounds the flows that are remembered; those with the least go.
	flowsKept = 4 * MaxFlows
)

// A FlowRate is how much one station sends to another, smoothed.
type FlowRate struct {
	From, To overlay.MAC
	Place    overlay.Place // where To is
	Rate     float64       // bits of Ethernet frames a second
}

// Flows are the smoothed rates of an agent's flows. The zero value is ready. Not safe
// for concurrent use.
type Flows struct {
	rates map[flowPair]*FlowRate
	last  overlay.Instant
}

type flowPair struct{ from, to overlay.MAC }

// Add takes what was sent since the last call.
func (f *Flows) Add(now overlay.Instant, sent []Flow) {
	since := now.Sub(f.last).Seconds()
	first := f.last == 0 || since <= 0
	f.last = now
	if first {
		return // nobody knows in what time
	}
	if f.rates == nil {
		f.rates = make(map[flowPair]*FlowRate)
	}
	share := 1 - math.Exp(-since/flowTime.Seconds())
	for _, r := range f.rates {
		r.Rate *= 1 - share
	}
	for _, s := range sent {
		k := flowPair{s.From(), s.To()}
		r := f.rates[k]
		if r == nil {
			r = &FlowRate{From: k.from, To: k.to}
			f.rates[k] = r
		}
		r.Place = s.Place
		r.Rate += share * 8 * float64(s.Bytes-s.Over) / since
	}
	for k, r := range f.rates {
		if r.Rate < flowLeast {
			delete(f.rates, k)
		}
	}
	if len(f.rates) > flowsKept {
		for _, r := range f.Top(len(f.rates))[flowsKept:] {
			delete(f.rates, flowPair{r.From, r.To})
		}
	}
}

// Top returns at most n flows, those with the highest rates first.
func (f *Flows) Top(n int) []FlowRate {
	all := make([]FlowRate, 0, len(f.rates))
	for _, r := range f.rates {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b FlowRate) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), a.From.Compare(b.From), a.To.Compare(b.To))
	})
	return all[:min(n, len(all))]
}
