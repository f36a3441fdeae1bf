package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"farlan/discovery"
)

// A Spend is what control messages came to in some time, headers included.
type Spend struct {
	Agents []float64        // bytes a second that each sent, ascending
	By     map[string]int64 // bytes by what they were for
	Number map[string]int64 // and how many parts of messages
	time   time.Duration
}

// ledger counts what is sent.
type ledger struct {
	began  time.Duration
	agents []int64
	by     map[string]int64
	number map[string]int64
}

// note counts a message that an agent sends; parts says what it is made of.
func (l *ledger) note(from int32, msg []byte, request bool) {
	if l.agents == nil {
		return
	}
	l.agents[from] += int64(len(msg) + headers)
	l.add("headers", headers)
	if request {
		l.add("link requests", len(msg))
		return
	}
	discovery.Sections(msg, l.add)
}

func (l *ledger) add(name string, size int) {
	l.by[name] += int64(size)
	l.number[name]++
}

// Count begins to count what is sent; Spent ends it.
func (s *Sim) Count() {
	s.ledger = ledger{
		began: s.now.Sub(beginning), agents: make([]int64, len(s.agents)),
		by: make(map[string]int64), number: make(map[string]int64),
	}
}

// Spent returns what was sent since Count.
func (s *Sim) Spent() Spend {
	l := s.ledger
	s.ledger = ledger{}
	x := Spend{By: l.by, Number: l.number, time: s.now.Sub(beginning) - l.began}
	for _, bytes := range l.agents {
		x.Agents = append(x.Agents, float64(bytes)/x.time.Seconds())
	}
	slices.Sort(x.Agents)
	return x
}

// Mean returns what agents sent on average, bytes a second.
func (x Spend) Mean() (mean float64) {
	for _, a := range x.Agents {
		mean += a / float64(len(x.Agents))
	}
	return mean
}

// Quantile returns what so many hundredths of the agents sent at most, bytes a second.
func (x Spend) Quantile(percent int) float64 {
	return x.Agents[min(len(x.Agents)*percent/100, len(x.Agents)-1)]
}

// String returns the figures in kB/s an agent, what is most first.
func (x Spend) String() string {
	b := new(strings.Builder)
	fmt.Fprintf(b, "%.2f kB/s an agent (median %.2f, nine of ten %.2f, most %.2f)", x.Mean()/1000, x.Quantile(50)/1000, x.Quantile(90)/1000, x.Quantile(100)/1000)
	each := x.time.Seconds() * float64(len(x.Agents)) * 1000
	names := slices.SortedFunc(maps.Keys(x.By), func(a, b string) int { return cmp.Or(cmp.Compare(x.By[b], x.By[a]), cmp.Compare(a, b)) })
	for i, name := range names {
		fmt.Fprintf(b, "%s %s %.2f (%.2f/s)", [...]string{",", ":"}[min(1-min(i, 1), 1)], name, float64(x.By[name])/each, float64(x.Number[name])/each*1000)
	}
	return b.String()
}
