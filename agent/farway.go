package agent

import (
	"slices"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// leadFar finds the paths by gateways to far agents: to those that aren't reached directly, and
// to those that are, and used, if a path by gateways is better.
func (n *node) leadFar(now overlay.Instant) {
	if !n.divided() {
		return
	}
	var lookout *decide.Lookout
	for _, p := range n.byIndex {
		if p == nil || !p.far || p.barred {
			continue
		}
		direct := p.direct()
		if p.bypass.ids != nil && !direct || direct && !p.usedSince(now.Add(-usedFor)) {
			p.bypass = bypass{}
		}
		if direct && !p.usedSince(now.Add(-usedFor)) {
			continue
		}
		if lookout == nil {
			if lookout = n.routing.routes.Lookout(n.beyond()); lookout == nil {
				return
			}
		}
		if direct {
			n.bypassTo(now, p, lookout)
		} else {
			n.leadTo(now, p, lookout)
		}
	}
}

// leadTo finds the path to a far agent: the best by a gateway that doesn't fail.
func (n *node) leadTo(now overlay.Instant, p *peer, lookout *decide.Lookout) {
	if _, _, gateway := n.store.Gateway(p.id); gateway {
		return // routes lead there
	}
	if p.way.gateway != (overlay.AgentID{}) && p.state == measure.Suspect && now.Sub(p.way.since) >= wayPatience {
		n.shun(now, p.way.gateway)
	}
	var best decide.FarPath
	for _, f := range lookout.Paths(discovery.BriefOf(p.id)) {
		if n.begins(f) && (best.Near == nil || n.shuns(now, best.Gateway) && !n.shuns(now, f.Gateway)) {
			best = f
		}
	}
	way := farWay{gateway: best.Gateway}
	if best.Near != nil {
		way.between = slices.Clone(best.Near[1:])
		for _, l := range best.Tree[:len(best.Tree)-1] {
			way.between = append(way.between, n.named(l))
		}
	}
	if slices.Equal(way.between, p.way.between) {
		return
	}
	way.since, p.way = now, way
	if out := p.out.Load(); out != nil && out.relay != nil && len(way.between) > 0 {
		next := *out
		n.lead(p, &next)
		p.out.Store(&next)
		p.probe = now
	}
}

// begins says whether the first agent on a path is reached.
func (n *node) begins(f decide.FarPath) bool {
	first := n.peers[f.Near[min(1, len(f.Near)-1)]]
	if len(f.Near) == 1 && len(f.Tree) > 0 {
		first = n.briefly(f.Tree[0].Agent)
	}
	return first != nil && first.direct() && first.state == measure.Up
}

// A bypass is the path that urgent frames take to a far agent that is reached directly, as it is
// better. What paths between areas carry nobody tells, so that others take the direct one.
type bypass struct {
	decide  decide.Bypass
	gateway overlay.AgentID   // by whose tree it leads
	ids     []overlay.AgentID // on it, both ends included, some by an alias; nil: there is none
}

// bypassTo decides on a far agent's.
func (n *node) bypassTo(now overlay.Instant, p *peer, lookout *decide.Lookout) {
	var direct measure.Pair
	if v := p.pair(now); v.RTTSource == measure.Measured {
		direct = v
	}
	all := slices.DeleteFunc(lookout.Paths(discovery.BriefOf(p.id)), func(f decide.FarPath) bool {
		return len(f.Near)+len(f.Tree) < 3 || n.shuns(now, f.Gateway) || !n.begins(f) || slices.Contains(f.Near, p.id)
	})
	b := &p.bypass
	f, ok := b.decide.Step(now, direct, all)
	b.gateway, b.ids = f.Gateway, nil
	if ok {
		b.ids = n.farIDs(f, p)
	}
}
