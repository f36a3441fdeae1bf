package agent

import (
	"math"
	"sync/atomic"

	"farlan/overlay"
)

// chatter counts what all are asked, and what is spared them. Safe for concurrent use.
type chatter struct {
	frames, bytes atomic.Uint64 // that were flooded to other agents, each copy
	asks          atomic.Uint64 // requests that went to their owner alone
	askBytes      atomic.Uint64 // of them, to other agents
	answers       atomic.Uint64 // that this agent gave
	quiet         atomic.Uint64 // requests that all had heard a moment ago, or their owner does
}

func (c *chatter) flooded(copies, size int) {
	c.frames.Add(uint64(copies))
	c.bytes.Add(uint64(copies * size))
}

// asked sends a question that all were asked to who can answer it, or answers it, if that is
// known; false is that all must be asked.
func (o *outgoing) asked(view *view, f *overlay.Frame, h *overlay.Heard) bool {
	c := &o.n.edge.chatter
	switch {
	case h.Said == overlay.SaidNothing || o.n.cfg.AskAll || len(f.Body) > 0 || !overlay.MAC(f.Head).Group():
		return false
	case h.Said == overlay.SaidMDNS:
		return o.named(view, f, h)
	case o.n.sw.SaidAgain(o.now, overlay.PortPlace(o.port), f.Head, h):
		c.quiet.Add(1)
		return true
	case !h.Target.IsValid():
		return false
	}
	from, src := overlay.PortPlace(o.port), overlay.MAC(f.Head[6:12])
	owner, turn := o.n.sw.Ask(o.now, from, src, h, view.present)
	switch turn {
	case overlay.AskNone:
		c.quiet.Add(1)
	case overlay.AskOwner:
		o.claims = append(o.claims[:0], f.Head...)
		copy(o.claims, owner.MAC[:])
		one := *f
		one.Head = o.claims
		c.asks.Add(1)
		if _, far := owner.Place.Agent(); far {
			c.askBytes.Add(uint64(len(o.claims)))
		}
		o.unicast(view, owner.Place, &one)
	case overlay.Answered:
		c.answers.Add(1)
		o.claims = overlay.AppendAnswer(o.claims[:0], f.Head, h, owner)
		o.write(o.port, &overlay.Frame{Head: o.claims})
	default:
		return false
	}
	return true
}

// named has only this agent's other ports hear what a machine says by multicast DNS, if others
// need not, and answers what it asks; false is that all must hear it.
func (o *outgoing) named(view *view, f *overlay.Frame, h *overlay.Heard) bool {
	turn, answers := o.n.sw.TellName(o.now, overlay.PortPlace(o.port), f, h, view.present)
	if turn == overlay.AskAll {
		return false
	}
	if turn == overlay.AskHere {
		for i := range o.n.ports {
			if i != o.port {
				o.write(i, f)
			}
		}
	}
	c := &o.n.edge.chatter
	for _, a := range answers {
		o.write(o.port, &overlay.Frame{Head: a})
	}
	if c.answers.Add(uint64(len(answers))); len(answers) == 0 {
		c.quiet.Add(1)
	}
	return true
}

// present says whether the agent at a place is there, and since when this session with it is.
func (v *view) present(p overlay.Place) (since overlay.Instant, ok bool) {
	peer := v.peer(p)
	if peer == nil || peer.silenced.Load() {
		return 0, false
	}
	if out := peer.out.Load(); out != nil {
		return out.session.Created(), true
	}
	return math.MaxInt64, peer.onDemand.Load()
}

// heard takes what a port's frame said that was let through. All are told of a station that it
// showed to give addresses or routes, so that nobody takes its place.
func (o *outgoing) heard(source *overlay.Source, f *overlay.Frame) {
	if source.Heard.Said == overlay.SaidNothing {
		return
	}
	n := o.n
	snoop(&n.sw.Stations, f.Head)
	if m := source.Vital; m != (overlay.MAC{}) {
		n.mail.offer(func(now overlay.Instant) { n.claimLater(now, m, 0) })
	}
}
