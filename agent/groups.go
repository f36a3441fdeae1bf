package agent

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"farlan/overlay"
)

// Multicast goes to those who listen, where that is known (overlay.Groups). Each agent learns
// it from what listeners and routers at its own ports say, and from the same that others flood.
// In a network that is divided into areas data of groups is flooded as ever, and kept from those
// ports alone where nobody listens: a report of another area may not have come.

const (
	// maxAlone is how many agents get copies of their own where floods go down a tree, unless
	// this agent has more neighbours there: more than that cost it more than the tree does.
	maxAlone = 8
	// maxReports bounds the reports that are to be flooded again, and reportRate and reportBurst
	// how many are a second and at once: the listeners that sent others repeat them, as a rule.
	maxReports              = 64
	reportRate, reportBurst = 50, 200
)

// reportAgain is after how long a report that is news is flooded again: whoever missed it would
// send nothing there.
var reportAgain = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond}

// grouping is how multicasts go. The zero one is ready.
type grouping struct {
	mu     sync.Mutex
	budget overlay.Bucket // of reports that are flooded again

	alone  atomic.Uint64 // frames that went to some agents, or none
	spared atomic.Uint64 // copies that others didn't get

	due []dueReport // in no order; the loop's own
}

// A dueReport is one that is to be flooded again.
type dueReport struct {
	frame []byte
	at    overlay.Instant
	made  int // how often it was
}

// multicast sends a port's frame for a group to those who listen; false is that all get it.
func (o *outgoing) multicast(view *view, f *overlay.Frame) bool {
	n := o.n
	to, reach, news := n.sw.Groups.Take(o.now, overlay.PortPlace(o.port), f.Head, o.reached[:0])
	o.reached = to
	if news && n.grouping.allow(o.now) {
		frame := bytes.Clone(f.Head)
		n.mail.offer(func(now overlay.Instant) { n.reportLater(now, frame, 0) })
	}
	if reach == overlay.ReachAll || reach == overlay.ReachPlaces && n.cfg.AskAll {
		return false
	}
	for i := range n.ports {
		if i != o.port && slices.Contains(to, overlay.PortPlace(i)) {
			o.write(i, f)
		}
	}
	if reach != overlay.ReachPlaces || !o.alone(view, f, to) {
		o.flood(view, f)
	}
	return true
}

// alone sends a frame to the agents among some places; false is that it had better be flooded.
func (o *outgoing) alone(view *view, f *overlay.Frame, to []overlay.Place) bool {
	n, s, all := o.n, o.n.spread.now.Load(), len(view.floods())
	most := all
	if s != nil && s.far != nil {
		return false
	}
	if s != nil && s.chosen {
		most = max(maxAlone, len(s.own)+len(s.idle))
	}
	o.few = o.few[:0]
	for _, at := range to {
		i, is := at.Agent()
		if !is {
			continue
		}
		p := view.peer(at)
		if i >= farPlaces || len(o.few) == most {
			return false
		}
		if p != nil && (p.out.Load() != nil || p.onDemand.Load()) {
			o.few = append(o.few, p)
		}
	}
	for _, p := range o.few {
		o.queue(p, f)
	}
	n.edge.chatter.flooded(len(o.few), f.Len())
	n.grouping.alone.Add(1)
	n.grouping.spared.Add(uint64(max(all-len(o.few), 0)))
	return true
}

// flooded writes what another agent floods to the ports, of multicasts to those where somebody
// listens.
func (in *inbound) flooded(p *peer, f *overlay.Frame) {
	n := in.n
	to, reach, _ := n.sw.Groups.Take(in.now, p.place(), f.Head, in.reached[:0])
	in.reached = to
	all := reach == overlay.ReachAll || reach == overlay.ReachPlaces && n.cfg.AskAll
	for i := range n.ports {
		if all || slices.Contains(to, overlay.PortPlace(i)) {
			in.write(i, f)
		}
	}
}

func (g *grouping) allow(now overlay.Instant) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.budget == (overlay.Bucket{}) {
		g.budget = overlay.NewBucket(reportRate, reportBurst)
	}
	return g.budget.Allow(now)
}

// reportLater notes that a report, which was flooded again so often, is to be once more.
func (n *node) reportLater(now overlay.Instant, frame []byte, made int) {
	g := &n.grouping
	if made < len(reportAgain) && len(g.due) < maxReports {
		g.due = append(g.due, dueReport{frame, now.Add(reportAgain[made]), made})
	}
}

// mindGroups floods reports again that are due.
func (n *node) mindGroups(now overlay.Instant) {
	g := &n.grouping
	if len(g.due) == 0 {
		return
	}
	all := g.due
	g.due = nil
	o := n.loopOut(now)
	for _, d := range all {
		if now.Before(d.at) {
			g.due = append(g.due, d)
			continue
		}
		o.flood(n.view.Load(), &overlay.Frame{Head: d.frame})
		n.reportLater(now, d.frame, d.made+1)
	}
	o.flush()
}

// meetPlaces tells who there is whom multicasts may be kept from.
func (n *node) meetPlaces(now overlay.Instant, v *view) {
	there := v.floods()
	places := make([]overlay.Place, 0, len(n.ports)+len(there))
	for i := range n.ports {
		places = append(places, overlay.PortPlace(i))
	}
	for _, p := range there {
		places = append(places, p.place())
	}
	n.sw.Groups.Meet(now, places)
}
