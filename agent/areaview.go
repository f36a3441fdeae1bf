package agent

import (
	"fmt"
	"slices"
	"strings"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
)

// areaView is what an agent says of the area in which it is.
type areaView struct {
	Number   uint32   `json:"number"`   // the same at all agents of the area
	Moving   bool     `json:"moving"`   // it has come there in the last minutes
	Agents   int      `json:"agents"`   // that are in it, this one included
	Gateway  bool     `json:"gateway"`  // this agent is one of its gateways
	Entry    bool     `json:"entry"`    // what is flooded comes into the area by it
	Gateways []string `json:"gateways"` // by name
	Areas    int      `json:"areas"`    // that there are
	All      int      `json:"all"`      // agents, as gateways say
	Far      int      `json:"far"`      // known agents of other areas
}

// areaView returns it, nil if the network isn't divided.
func (n *node) areaView() *areaView {
	if !n.divided() {
		return nil
	}
	b := n.beyond()
	area, moving := n.store.Area()
	v := &areaView{
		Number: area, Moving: moving, Agents: 1, Gateway: n.area.gate != nil, Gateways: namesOf(b.Of(area), n.names()), Areas: len(b.Sizes()),
		Far: len(n.peers) - n.near(),
	}
	for _, p := range n.peers {
		if !p.far && p.member.Area == area && !p.barred {
			v.Agents++
		}
	}
	for _, size := range b.Sizes() {
		v.All += size
	}
	if is := n.spread.now.Load(); is != nil && is.far != nil {
		v.Entry = is.far.entry
	}
	slices.Sort(v.Gateways)
	return v
}

// String returns it as people read it.
func (v *areaView) String() string {
	s := fmt.Sprintf("%08x: %d agents, gateways %s", v.Number, v.Agents, strings.Join(v.Gateways, ", "))
	if v.Gateway {
		s += "; this is one"
	}
	if v.Moving {
		s += "; it has just come"
	}
	return s + fmt.Sprintf("; %d areas, %d agents in all", v.Areas, v.All)
}

// areaOf returns in which area an agent is, nil if that isn't known or the network isn't
// divided.
func (n *node) areaOf(p *peer) *uint32 {
	if !n.divided() {
		return nil
	}
	if !p.far {
		return &p.member.Area
	}
	if area, ok := n.beyond().Area(discovery.BriefOf(p.id)); ok {
		return &area
	}
	return nil
}

// backboneReason says why there is a link of gateways with a peer, "" if there is none.
func (n *node) backboneReason(p *peer) string {
	g := n.area.gate
	if g == nil {
		return ""
	}
	k := keptLink(g.kept, p.id)
	if k == nil {
		return ""
	}
	why := k.Why
	if why == 0 {
		why = k.TheyWhy
	}
	return "backbone of gateways: " + why.String()
}

// toldBackbone returns the links with other gateways that one tells of.
func (n *node) toldBackbone(p *peer, names map[overlay.AgentID]string) (all []linkView) {
	links, _, _ := n.store.Backbone(p.id)
	for _, r := range links.Rows {
		id, ok := n.store.Find(r.Peer)
		if !ok || names[id] == "" || !r.Kept() {
			continue
		}
		v := linkView{From: names[p.id], To: names[id], State: "up", Reason: "backbone of gateways"}
		v.HeldBy = holders(r.Intent, v.From, v.To)
		if r.RTT > 0 {
			v.RTTms = millis(r.RTT)
		}
		all = append(all, v)
	}
	return all
}

// explainFar says by which gateways an agent of another area could be reached, the chosen
// first; "" if that isn't where it is.
func (n *node) explainFar(p *peer, v *explainView, names map[overlay.AgentID]string) string {
	if _, _, gateway := n.store.Gateway(p.id); !p.far || gateway {
		return ""
	}
	area, known := n.beyond().Area(discovery.BriefOf(p.id))
	if !known {
		return "that a gateway tells of it"
	}
	lookout := n.routing.routes.Lookout(n.beyond())
	if lookout == nil {
		return "that this agent has links"
	}
	for _, f := range lookout.Paths(discovery.BriefOf(p.id)) {
		path := n.farIDs(f, p)
		r := rejectedView{Path: namesOf(path, names), Cost: millis(f.Cost), Reason: "by gateway " + names[f.Gateway]}
		switch {
		case v.Chosen != nil && slices.Equal(r.Path, v.Chosen.Path):
			v.Chosen.CostMs = r.Cost
			continue
		case p.direct() && p.bypass.ids == nil:
			r.Reason += ": the direct path costs less, or little more"
		case n.shuns(n.now(), f.Gateway):
			r.Reason += ": a path by it failed a moment ago"
		default:
			r.Reason += ": costs more"
		}
		v.Rejected = append(v.Rejected, r)
	}
	if p.direct() {
		return fmt.Sprintf("it is in area %08x: that the direct path or one by gateways costs less by a tenth; or if it isn't reached directly any more", area)
	}
	return fmt.Sprintf("it is in area %08x: that it is reached directly, or a path by another gateway costs less", area)
}

// farIDs returns the agents on a path, both ends included.
func (n *node) farIDs(f decide.FarPath, p *peer) []overlay.AgentID {
	all := slices.Clone(f.Near)
	for _, l := range f.Tree {
		all = append(all, n.named(l))
	}
	if len(f.Tree) > 0 {
		all[len(all)-1] = p.id
	}
	return all
}
